"""How a run's results are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich import box
from rich.table import Table

from pipeline.cli.terminal import (
    SOME_FILES_UNUSABLE,
    err,
    exit_code,
    finish,
    out,
    shown,
    typed_augmentation,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.analysis.problems import Problems
    from pipeline.runs.run import Run

_SENTENCES = 5  # on what may be wrong with the data: the page has all


def figures_table(title: str) -> Table:
    """Make an empty table for heads' figures."""
    from pipeline.runs.run import COLUMNS

    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    for column in COLUMNS:
        if column == COLUMNS[0]:  # what gives way where the terminal is narrow
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def _print_problems(problems: Problems) -> None:
    """Tell what may be wrong with the data; the run's page has the pictures."""
    sentences = list(problems.summary())
    if problems.leakage.total:  # else there is no sentence about it
        leakage = sentences.pop(0)
        if problems.leakage.copied:
            out.print(f"[yellow]Copies:[/] {leakage}", soft_wrap=True)
    for sentence in sentences[:_SENTENCES]:
        out.print(f"Data: {shown(sentence)}", soft_wrap=True)
    if len(sentences) > _SENTENCES:
        out.print(f"Data: {len(sentences) - _SENTENCES:,} more on the page.")


def print_run(run: Run) -> None:
    """Show how each head of a run did."""
    from pipeline.runs.run import notes, row, title

    table = figures_table(title(run))
    for result in run.results:
        best = result is run.best
        table.add_row(*map(shown, row(result, best=best)), style="bold" if best else "")
    out.print(table)
    for note in notes(run):
        out.print(shown(note), soft_wrap=True)
    if run.problems:
        _print_problems(run.problems)
    out.print(f"saved in {shown(run.folder)}", soft_wrap=True)
    if "page" not in run.left_out:
        out.print(f"report: {shown(run.folder / 'report.html')}", soft_wrap=True)


def print_missing_pictures(folder: Path) -> None:
    """Say how many pictures a run's page lacks."""
    from pipeline.runs.reading import read_pictures

    if note := read_pictures(folder).note:
        err.print(f"[yellow]{shown(note)}[/]", soft_wrap=True)


def print_augmentation(run: Run) -> None:
    """Show the log loss on validation by augmentation, and where augmentation hurts."""
    for result in run.results:
        losses: dict[str, float] = {}
        for parameters, log_loss in result.candidates:
            name = parameters.get("augmentation")
            if name is not None:
                losses[name] = min(log_loss, losses.get(name, log_loss))
        if not losses:
            continue
        chosen = result.parameters["augmentation"]
        shares = ", ".join(
            f"{typed_augmentation(name)} {loss:.3f}" for name, loss in losses.items()
        )
        verdict = "; augmentation hurts here" if losses["none"] <= losses[chosen] else ""
        out.print(
            f"{result.head}: log loss on validation by augmentation: {shares}{verdict}",
            soft_wrap=True,
        )


def end_run(run: Run, stopped: KeyboardInterrupt | None, *, as_json: bool, kept: str) -> None:
    """Show a run, and end with the exit code that fits: stopped, files or heads left out, or 0."""
    if as_json:
        typer.echo((run.folder / "run.json").read_text(), nl=False)
        if "page" in run.left_out:  # the rest is in the document
            err.print(f"Left out of the run: page. {shown(run.left_out['page'])}", soft_wrap=True)
    else:
        print_run(run)
        print_missing_pictures(run.folder)
        print_augmentation(run)
    if stopped:
        err.print(f"Stopped. {kept}")
        raise typer.Exit(exit_code(stopped))
    finish(run.dataset.quarantined)
    if run.failed or run.left_out:
        raise typer.Exit(SOME_FILES_UNUSABLE)
