"""What came of a run, to be looked at: pictures, and a page that shows all of it."""

from pipeline.report.page import write_comparison, write_report, write_whole
from pipeline.report.pictures import draw_confusion, draw_history, draw_sheet, smoothed
from pipeline.report.reading import digest_of, recipe_of

__all__ = [
    "digest_of",
    "draw_confusion",
    "draw_history",
    "draw_sheet",
    "recipe_of",
    "smoothed",
    "write_comparison",
    "write_report",
    "write_whole",
]
