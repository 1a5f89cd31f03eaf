"""`pipeline problems`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from pipeline.cli.listening import TerminalListener
from pipeline.cli.options import (
    JsonOption,
    SeedOption,
    StageOne,
    with_stage_one,
)
from pipeline.cli.results import print_missing_pictures
from pipeline.cli.terminal import WITH_JSON, err, finish, out, propose, reporting_errors, shown

if TYPE_CHECKING:
    from pipeline.runs.documents import ProblemsDocument


_ROWS = 20


@with_stage_one
def problems(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="As for features, or a file of cache export.")
    ],
    *,
    stage_one: StageOne,
    learning_curve: Annotated[
        bool,
        typer.Option(
            "--learning-curve/--no-learning-curve",
            help="Measure whether more images would help, which takes longest.",
        ),
    ] = True,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="A run on the same images: take its settings, and add to its page.",
        ),
    ] = None,
    as_json: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Find copies, labels that may be wrong, outliers, small classes; measure if more images help.

    Missing features are computed first. No picture is changed or removed.

    Example: pipeline problems photos/ --no-learning-curve
    """
    with reporting_errors(), TerminalListener(data) as listener:
        from pipeline.analysis.examination import examine
        from pipeline.report.page import write_report
        from pipeline.runs.describing import describe_problems
        from pipeline.runs.images import recipe_of
        from pipeline.runs.reading import read_run_document
        from pipeline.runs.writing import add_problems
        from pipeline.system.documents import to_json

        cross_validated, recipe = False, None
        if run:  # tell before the work that it does not fit
            recipe = recipe_of(made := read_run_document(run))
            stage_one.check_beside(run, recipe, seed=seed if seed != made.seed else None)
            cross_validated, seed = made.protocol.cv is not None, made.seed
        problems = examine(
            data,
            repeats=2 if learning_curve else 0,
            extractor=stage_one.extractor(recipe=recipe),
            seed=seed,
            cross_validated=cross_validated,
            listener=listener,
        )
        listener.end_bar()
        document = describe_problems(problems)
        if as_json:
            typer.echo(to_json(document), nl=False)
        else:
            _print(document, too_few=learning_curve and problems.curve is None)
            if document.likely_wrong and not run:
                _propose_review(data, stage_one.typed(seed=seed))
        if run:
            add_problems(run, problems)
            page = write_report(run, dataset=problems.dataset)
            err.print(f"on the run's page: {shown(page)}", soft_wrap=True)
            print_missing_pictures(run)
    finish(problems.dataset.quarantined, listed="" if as_json else WITH_JSON)


def _print(document: ProblemsDocument, *, too_few: bool) -> None:
    """Print the summary, then the images that it is about."""
    from pipeline.report.words import common_folder

    for sentence in document.summary:
        out.print(f"- {shown(sentence)}", soft_wrap=True)
    pairs, suspects = document.duplicates.pairs, document.likely_wrong
    outliers = document.outliers
    paths = [path for pair in pairs for path in pair.paths]
    paths += [image.path for image in suspects] + [image.path for image in outliers]
    folder = common_folder(paths)
    if folder:
        out.print(f"the files are in {shown(folder)}", soft_wrap=True)
    _print_table(
        "Duplicates and near-duplicates, those across splits first",
        ("image", "copy", "splits", "labels", "similarity"),
        [
            (
                *(path.removeprefix(folder) for path in pair.paths),
                " and ".join(dict.fromkeys(pair.splits)),
                " and ".join(dict.fromkeys(pair.labels)),
                pair.kind if pair.kind == "same bytes" else f"{pair.similarity:.3f}",
            )
            for pair in pairs
        ],
    )
    _print_table(
        "Labels that are likely wrong, the most suspicious first",
        ("image", "split", "label", "looks like", "margin"),
        [
            (
                image.path.removeprefix(folder),
                image.split,
                image.label,
                image.suggested,
                f"{image.score:.3f}",
            )
            for image in suspects
        ],
    )
    _print_table(
        "Outliers of their class, the strangest first",
        ("image", "split", "label", "score"),
        [
            (image.path.removeprefix(folder), image.split, image.label, f"{image.score:.1f}")
            for image in outliers
        ],
    )
    if too_few:
        out.print("there are too few images to tell whether more would help")


def _propose_review(data: str, options: Sequence[str]) -> None:
    from pipeline.features.exchange import is_features_file

    if not is_features_file(data):  # its images may be nowhere, or a stranger's
        why = "look through the labels that are likely wrong"
        propose(why, "label", data, "--review", *options)


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    out.print(f"\n[bold]{title}[/]", soft_wrap=True)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows[:_ROWS]:
        table.add_row(*map(shown, row))
    out.print(table)
    if len(rows) > _ROWS:
        out.print(f"and {len(rows) - _ROWS:,} more: --json lists all of them")
