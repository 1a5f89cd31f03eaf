"""What came of a run, to be looked at: pictures."""

from pipeline.report.pictures import draw_confusion, draw_history, draw_sheet, smoothed

__all__ = ["draw_confusion", "draw_history", "draw_sheet", "smoothed"]
