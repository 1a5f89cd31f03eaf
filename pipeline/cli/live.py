"""Heads shown as they are done: a table on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline.cli.listening import TerminalListener
from pipeline.cli.results import figures_table
from pipeline.cli.terminal import LINE_EVERY_SECONDS, err, shown

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.features.computing import Workers
    from pipeline.runs.run import Result


class ClassifyListener(TerminalListener):
    """Shows stage one, then the heads that are done, and below them the one in progress."""

    def __init__(self, data: str = "", workers: Workers | None = None) -> None:
        super().__init__(data, workers)
        self._names: Sequence[str] = ()
        self._done: list[Result] = []
        self._ended = 0
        self._head = self._epoch = ""
        self._started = self._last_line = time.monotonic()
        self._refresh: Callable[[], None] = lambda: None

    def judging(self, heads: Sequence[str]) -> None:
        """Begin the live table."""
        self.end_bar()
        self._names = heads
        self._started = self._last_line = time.monotonic()
        if err.is_terminal:
            from rich.live import Live

            live = Live(get_renderable=self._render, console=err, transient=True)
            self._refresh = self._bar.enter_context(live).refresh

    def head_epoch(self, head: str, done: int, total: int) -> None:
        """Show the epoch; elsewhere than on a terminal now and then."""
        self._head, self._epoch = head, f"{done}/{total}"
        if not err.is_terminal and time.monotonic() - self._last_line > LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            err.print(f"{head}: epoch {done} of {total}")

    def judged(self, result: Result) -> None:
        """Show the head's figures."""
        self._done.append(result)
        self._go_on()
        if not err.is_terminal:
            err.print(f"{result.head}: fitted in {result.seconds:.1f} s")

    def failed(self, head: str, reason: str) -> None:
        """Go on to the next head; the reason stands below the table at the end."""
        self._go_on()
        if not err.is_terminal:
            err.print(f"{head}: could not be fitted: {shown(reason)}", soft_wrap=True)

    def _go_on(self) -> None:
        self._ended += 1
        self._head = self._epoch = ""
        self._started = time.monotonic()
        self._refresh()

    def _render(self) -> Table:
        from pipeline.runs.run import figures_of, row

        figures = figures_of(self._done[0]).headings if self._done else ()
        table = figures_table("", figures or ["classifier", "epoch", "time"])
        for result in self._done:
            table.add_row(*row(result))
        head = self._head or next(iter(self._names[self._ended :]), "")
        if head and (self._done or self._epoch):
            seconds = f"{time.monotonic() - self._started:.0f} s"
            blank = [""] * (len(table.columns) - 3)
            table.add_row(head, self._epoch, *blank, seconds, style="dim")
        return table
