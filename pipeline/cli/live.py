"""Heads shown as they are done."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.cli.steps import figures_table
from pipeline.cli.terminal import LINE_EVERY_SECONDS, err
from pipeline.runs.run import row

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.runs.run import Result


@contextmanager
def live_table(names: Sequence[str]) -> Iterator[_Lines]:
    """Show heads as they are done: a table on a terminal, lines elsewhere."""
    if not err.is_terminal:
        yield _Lines()
        return
    from rich.live import Live

    table = _Table(names)
    with Live(get_renderable=table.render, console=err, transient=True):
        yield table


class _Lines:
    """A line for each head, and now and then one for its epochs, where rows are streamed."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def on_result(self, result: Result) -> None:
        err.print(f"{result.head}: fitted in {result.seconds:.1f} s")

    def on_epoch(self, head: str, done: int, most: int) -> None:
        if time.monotonic() - self._said > LINE_EVERY_SECONDS:
            self._said = time.monotonic()
            err.print(f"{head}: epoch {done} of {most}")


class _Table(_Lines):
    """The heads that are done, and below them the one that is under way."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._done: list[Result] = []
        self._head = self._epoch = ""
        self._started = time.monotonic()

    def on_result(self, result: Result) -> None:
        self._done.append(result)
        self._head = self._epoch = ""
        self._started = time.monotonic()

    def on_epoch(self, head: str, done: int, most: int) -> None:
        self._head, self._epoch = head, f"{done}/{most}"

    def render(self) -> Table:
        table = figures_table("")
        for result in self._done:
            table.add_row(*row(result))
        under_way = self._head
        if self._done and not under_way:
            under_way = next(iter(self._names[self._names.index(self._done[-1].head) + 1 :]), "")
        if under_way:
            seconds = f"{time.monotonic() - self._started:.0f} s"
            blank = [""] * (len(table.columns) - 3)
            table.add_row(under_way, self._epoch, *blank, seconds, style="dim")
        return table
