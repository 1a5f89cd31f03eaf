"""A run's charts as SVG files, for papers and slides."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.report import figures
from pipeline.report.charts import Plot
from pipeline.report.matrix import MatrixChart
from pipeline.report.rendering import chart_style, render
from pipeline.report.words import shortened
from pipeline.runs.reading import Record
from pipeline.system.files import write_file

_TOP, _GAP = 28, 24  # pixels: room for the heading, and between charts side by side
_LINE, _LEGEND = 16, 18
_CHARACTER = 6.2  # mean width
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Panel:
    """A chart, its place in the file, and the text below it."""

    chart: Plot | MatrixChart
    left: float
    notes: Sequence[str]
    top: float = _TOP

    @property
    def is_matrix(self) -> bool:
        """Whether it is a confusion matrix."""
        return isinstance(self.chart, MatrixChart)

    @property
    def heading(self) -> str:
        """The title, no longer than the chart is wide."""
        return shortened(self.chart.title, int(self.width / 8))

    @property
    def width(self) -> float:
        """Width of the chart, or of a few words if these need more."""
        return max(self.chart.width, 240)

    @property
    def notes_at(self) -> float:
        """Where the text begins."""
        chart = self.chart
        entries = 0 if isinstance(chart, MatrixChart) else len(chart.lines) + len(chart.rules)
        return chart.height + _LEGEND * entries + 6

    @property
    def bottom(self) -> float:
        """Where it ends."""
        return self.top + self.notes_at + _LINE * len(self.notes) + 10


def write_charts(record: Record) -> list[Path]:
    """Write the charts of a run's page as files into its folder."""
    return [
        write_file(record.folder / f"{name}.svg", draw(charts)) for name, charts in _charts(record)
    ]


def _charts(record: Record) -> Iterator[tuple[str, Sequence[Plot | MatrixChart]]]:
    for head in record.heads:
        # Names in a stranger's run are not trusted to be names of files.
        name = re.sub(r"[^\w.+-]", "-", head.name.replace(":", "--"))[:_LONGEST_NAME]
        yield f"confusion-{name}", [figures.draw_confusion(head, record)]
        if plots := figures.draw_training(head):
            yield f"history-{name}", plots
    for name, plot in figures.draw_curves_of(record).items():
        yield name, [plot]


def draw(charts: Sequence[Plot | MatrixChart]) -> str:
    """Draw charts side by side, as the text of an SVG file."""
    panels: list[Panel] = []
    for chart in charts:
        left = panels[-1].left + panels[-1].width + _GAP if panels else 0
        letters = int((max(chart.width, 240) - 24) / _CHARACTER)
        panels.append(Panel(chart, left, textwrap.wrap(chart.note, letters)))
    return render(
        "chart.svg.j2",
        title=", ".join(chart.title for chart in charts),
        summary=" ".join(chart.summary for chart in charts),
        width=panels[-1].left + panels[-1].width,
        height=max(panel.bottom for panel in panels),
        panels=panels,
        style=chart_style(),
    )
