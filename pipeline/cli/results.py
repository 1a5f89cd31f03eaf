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
)
from pipeline.system.packages import as_typed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.analysis.problems import Problems
    from pipeline.runs.run import Run

_WIDEST = 200  # for all columns: a terminal wraps what it has no room for
_SENTENCES = 3  # on what may be wrong with the data: the page has all


def figures_table(title: str, headings: Sequence[str]) -> Table:
    """Make an empty table for heads' figures."""
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    for place, heading in enumerate(map(_heading, headings)):
        if place == 0:  # what gives way where the terminal is narrow
            table.add_column(heading, overflow="fold", vertical="bottom")
        else:
            table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    return table


def _heading(text: str) -> str:
    return "\n".join(map(shown, text.split("\n")))


def _print_problems(problems: Problems) -> None:
    """Tell what may be wrong with the data; the run's page has the pictures."""
    sentences = problems.summary()
    for sentence in sentences[:_SENTENCES]:
        out.print(f"Data: {shown(sentence)}", soft_wrap=True)
    if len(sentences) > _SENTENCES:
        out.print(f"Data: {len(sentences) - _SENTENCES:,} more on the page.")


def print_run(run: Run, *, every: bool = False) -> None:
    """Show how each head of a run did."""
    from pipeline.runs.run import figures_of, notes, row, title

    named = run.protocol.positive is not None
    table = figures_table(title(run), figures_of(run.best, every=every, named=named).headings)
    for result in run.results:
        best = run.chose(result)
        cells = row(result, best=best, every=every, named=named)
        table.add_row(*map(shown, cells), style="bold" if best else "")
    if every:
        out.width = max(out.width, _WIDEST)
    out.print(table, crop=False)
    for note in notes(run):
        out.print(shown(note), soft_wrap=True)
    if run.problems:
        _print_problems(run.problems)
    out.print(f"saved in {shown(run.folder)}", soft_wrap=True)
    if "page" not in run.left_out:
        out.print(f"report: {shown(run.folder / 'report.html')}", soft_wrap=True)


def _print_next_step(run: Run, again: Sequence[str], candidates: Sequence[str]) -> None:
    """Propose a command that can be pasted."""
    from pipeline.runs.next_steps import next_steps
    from pipeline.runs.reading import read_problems, read_run_document

    step, *_ = next_steps(
        read_run_document(run.folder),
        read_problems(run.folder),
        run=str(run.folder),
        data=again[0],
        options=again[1:],
        candidates=candidates,
    )
    out.print(f"next: {shown(step.why)}", soft_wrap=True)
    out.print(f"  {shown(as_typed(step.command))}", soft_wrap=True)


def print_missing_pictures(folder: Path) -> None:
    """Say how many pictures a run's page lacks."""
    from pipeline.runs.reading import read_pictures

    if note := read_pictures(folder).note:
        err.print(f"[yellow]{shown(note)}[/]", soft_wrap=True)


def print_augmentation(run: Run) -> None:
    """Show the log loss on validation by augmentation, and where augmentation hurts."""
    from pipeline.data.augmentation import typed

    for result in run.results:
        losses: dict[str, float] = {}
        for parameters, log_loss in result.candidates:
            name = parameters.get("augmentation")
            if name is not None:
                losses[name] = min(log_loss, losses.get(name, log_loss))
        if not losses:
            continue
        chosen = result.parameters["augmentation"]
        shares = ", ".join(f"{typed(name)} {loss:.3f}" for name, loss in losses.items())
        verdict = "; augmentation hurts here" if losses["none"] <= losses[chosen] else ""
        out.print(
            f"{result.head}: log loss on validation by augmentation: {shares}{verdict}",
            soft_wrap=True,
        )


def end_run(
    run: Run,
    stopped: KeyboardInterrupt | None,
    again: Sequence[str],
    *,
    candidates: Sequence[str] = (),
    as_json: bool,
    every: bool,
) -> None:
    """Show a run, and end with the exit code that fits: stopped, files or heads left out, or 0.

    `again` is the data set and the options of stage one, as typed; `candidates` are the options
    that say what was compared.
    """
    if as_json:
        typer.echo((run.folder / "run.json").read_text(), nl=False)
        if "page" in run.left_out:  # the rest is in the document
            err.print(f"Left out of the run: page. {shown(run.left_out['page'])}", soft_wrap=True)
    else:
        print_run(run, every=every)
        print_missing_pictures(run.folder)
        print_augmentation(run)
        _print_next_step(run, again, candidates)
    if stopped:
        done = len(run.results)
        asked = done + len(run.failed) + len(run.unfinished)
        heads = (
            f"{done} of {asked} heads were done and are" if asked > 1 else "The trained model is"
        )
        err.print(f"Stopped. {heads} kept.")
        raise typer.Exit(exit_code(stopped))
    finish(run.dataset.quarantined, listed=str(run.folder / "run.json"))
    if run.failed or run.left_out:
        raise typer.Exit(SOME_FILES_UNUSABLE)
