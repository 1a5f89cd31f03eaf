"""Numbers to the geometry of a chart; `parts.html.j2` turns that into SVG.

Coordinates are in SVG's user units, which are pixels where a chart is shown in its own size: text
is of 12 units, and a chart is as wide as a phone. Colours are the style sheet's, by number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.report.words import shortened, width

STYLES = 8
"""Number of colours that the style sheet has for lines."""

_WIDTH = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 10, 10, 40
_NEAR = 0.4  # points closer than this to the one before are left out
LONGEST_CLASS, _LONGEST_ROW = 16, 22
_ROW = 26


@dataclass(frozen=True)
class Tick:
    """A number on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Bar:
    """A vertical bar: an interval."""

    x: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """A curve, its entry in the legend, and its figure there."""

    style: int
    path: str
    label: str = ""
    figure: str = ""
    dots: Sequence[tuple[float, float]] = ()
    bars: Sequence[Bar] = ()
    radius: float = 2.5
    thin: bool = False


@dataclass(frozen=True)
class Rule:
    """A line to compare with, and its entry in the legend."""

    path: str
    label: str = ""
    solid: bool = False


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Curves in a frame with two axes.

    Attributes
    ----------
    title : str
        What stands above it.
    summary : str
        What it shows, in words and numbers, for someone who does not see it.
    note : str
        What stands below it, for everyone.
    """

    title: str
    summary: str
    note: str = ""
    x_title: str
    y_title: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]
    rules: Sequence[Rule] = ()
    width: int = _WIDTH
    height: int
    left: float = _LEFT
    right: float = _WIDTH - _RIGHT
    top: float = _TOP
    bottom: float


@dataclass(frozen=True)
class Frame:
    """A plot's area, and the ranges that it shows: data to coordinates."""

    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)
    height: int = 300
    x_whole: bool = False

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point is drawn."""
        right, down = (x - self.x[0]) / _span(self.x), (y - self.y[0]) / _span(self.y)
        bottom = self.height - _BOTTOM
        return (
            round(_LEFT + right * (_WIDTH - _RIGHT - _LEFT), 1),
            round(bottom - down * (bottom - _TOP), 1),
        )

    def path(self, x: Iterable[float], y: Iterable[float]) -> str:
        """Write a line through points; those that are no numbers are left out."""
        points: list[tuple[float, float]] = []
        for point in zip(x, y):
            if all(map(math.isfinite, point)):
                placed = self.place(*point)
                if points and math.dist(points[-1], placed) < _NEAR:
                    continue
                points.append(placed)
        return "M" + "L".join(f"{across:g} {down:g}" for across, down in points) if points else ""

    def dots(self, x: Iterable[float], y: Iterable[float]) -> list[tuple[float, float]]:
        """Place points one by one."""
        return [self.place(*point) for point in zip(x, y) if all(map(math.isfinite, point))]

    def bars(self, x: Iterable[float], low: Iterable[float], high: Iterable[float]) -> list[Bar]:
        """Place intervals one by one."""
        return [
            Bar(*self.place(across, bottom), self.place(across, top)[1])
            for across, bottom, top in zip(x, low, high)
        ]

    def plot(
        self,
        *,
        title: str,
        summary: str,
        x_title: str,
        y_title: str,
        lines: Sequence[Line],
        rules: Sequence[Rule] = (),
        note: str = "",
    ) -> Plot:
        """Put axes around lines."""
        return Plot(
            title=title,
            summary=summary,
            note=note,
            x_title=x_title,
            y_title=y_title,
            x_ticks=[
                Tick(self.place(value, self.y[0])[0], text)
                for value, text in ticks(*self.x, whole=self.x_whole)
            ],
            y_ticks=[Tick(self.place(self.x[0], value)[1], text) for value, text in ticks(*self.y)],
            lines=lines,
            rules=rules,
            height=self.height,
            bottom=self.height - _BOTTOM,
        )


def _span(limits: tuple[float, float]) -> float:
    return (limits[1] - limits[0]) or 1.0


def ticks(
    low: float, high: float, count: int = 6, *, whole: bool = False
) -> list[tuple[float, str]]:
    """Choose round numbers in a range, about `count`, and write them alike."""
    rough = _span((low, high)) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    if whole:
        step = max(1.0, float(round(step)))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step, decimals) != round(step, decimals + 2):
        decimals += 1  # 0.25 has more digits than its size tells
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(number * step, f"{number * step:.{decimals}f}") for number in range(first, last + 1)]


def limits(values: Iterable[float]) -> tuple[float, float]:
    """Return a range that holds all values that are numbers, with a little room."""
    finite = [value for value in values if math.isfinite(value)]
    least, most = (min(finite), max(finite)) if finite else (0.0, 1.0)
    room = 0.05 * ((most - least) or 1.0)
    return least - room, most + room


@dataclass(frozen=True)
class Interval:
    """One row of a chart of intervals."""

    y: float
    label: str
    at: float
    low: float
    high: float
    best: bool


@dataclass(frozen=True)
class IntervalChart:
    """Values with their intervals, one below the other, and a value to compare with."""

    title: str
    summary: str
    width: int
    height: float
    left: float
    right: float
    bottom: float
    rows: list[Interval]
    x_ticks: list[Tick]
    x_title: str
    rule: float
    rule_label: str


def lay_out_intervals(
    rows: Sequence[tuple[str, float, float, float, bool]],
    rule: float,
    *,
    title: str,
    summary: str,
    x_title: str,
    rule_label: str,
) -> IntervalChart:
    """Lay out rows of (label, value, low end, high end, whether it is the best)."""
    labels = [shortened(label, _LONGEST_ROW) for label, *_ in rows]
    left = 14 + 1.15 * max(map(width, labels))  # the best is bold
    right = _WIDTH - 14
    low = min(rule, *(row[2] for row in rows))
    high = max(rule, *(row[3] for row in rows))
    room = 0.04 * ((high - low) or 1)
    low, high = max(0.0, low - room), min(1.0, high + room)

    def across(value: float) -> float:
        return round(left + (value - low) / ((high - low) or 1) * (right - left), 1)

    bottom = 6 + _ROW * len(rows)
    return IntervalChart(
        title=title,
        summary=summary,
        width=_WIDTH,
        height=bottom + _BOTTOM,
        left=round(left, 1),
        right=right,
        bottom=bottom,
        rows=[
            Interval(
                6 + _ROW * (place + 0.5),
                label,
                across(value),
                across(least),
                across(most),
                best,
            )
            for place, (label, (_, value, least, most, best)) in enumerate(zip(labels, rows))
        ],
        x_ticks=[Tick(across(value), text) for value, text in ticks(low, high, 4)],
        x_title=x_title,
        rule=across(rule),
        rule_label=rule_label,
    )
