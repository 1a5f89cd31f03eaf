"""`pipeline map`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli.listening import TerminalListener
from pipeline.cli.options import (
    DataArgument,
    HeadOption,
    SeedOption,
    StageOne,
    TrustOption,
    with_stage_one,
)
from pipeline.cli.terminal import err, finish, out, print_remarks, reporting_errors, shown
from pipeline.errors import PipelineError
from pipeline.system.packages import as_typed

if TYPE_CHECKING:
    from pipeline.models.model import Model

By = Literal["class", "split", "group", "predicted", "suspicious", "copy"]
_COLUMNS = {"predicted": "predicted class", "suspicious": "suspicious label"}


@with_stage_one
def map(  # noqa: A001 -- so it is called
    data: DataArgument,
    *,
    stage_one: StageOne,
    file: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE",
            help="File to write, which must not exist: a chart (.svg) or a table (.csv).",
        ),
    ],
    by: Annotated[
        By | None,
        typer.Option(
            help="What a chart is coloured by: class, split, group, predicted class, suspicious "
            "label or copy.",
            show_default="class",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="runs/NAME or a model's own folder: use its features and splits, and predict.",
        ),
    ] = None,
    head: HeadOption = None,
    trust: TrustOption = None,
    seed: SeedOption = 0,
) -> None:
    """Draw a map of all images, similar ones close together.

    Missing features are computed first. The images need no labels. A table has
    path,label[,split][,group],x,y[,predicted]; classify takes it once no line lacks a label.

    Example: pipeline map photos/ --out map.svg
    """
    with reporting_errors():
        from pipeline.models.opening import load_model
        from pipeline.report.image_map_file import check_map_file, write_map
        from pipeline.runs.images import open_images

        check_map_file(file, coloured=by is not None)
        stage_one.check_beside(run, seed=seed)
        model = load_model(run, head=head, trusted=trust or ()) if run else None
        _check_predicts(by, model)
        column = _COLUMNS.get(by or "", by or "class")
        with TerminalListener(data) as listener:
            table = open_images(
                data,
                run=run,
                model=model,
                extractor=stage_one.extractor(run=run),
                seed=seed,
                column=column,
                listener=listener,
            )
            listener.end_bar()
            print_remarks(table.remarks)
            err.print("laying the images out ...")
            write_map(table, file, by=column)
        images = "1 image" if len(table) == 1 else f"{len(table):,} images"
        out.print(f"{images} in {shown(file)}", soft_wrap=True)
        if file.suffix.lower() == ".csv":
            _print_unlabelled(len(table) - len(table.labelled), data)
    finish(table.dataset.quarantined)


def _check_predicts(by: By | None, model: Model | None) -> None:
    """Refuse a map by predicted class that cannot be made, before the work."""
    if by != "predicted":
        return
    if model is None:
        raise PipelineError("there is no model to predict classes.", fix="name a run with --run")
    if not model.takes_rows:
        raise PipelineError(
            "an exported file predicts no classes of features.",
            fix="name the run that it was exported from",
        )


def _print_unlabelled(count: int, data: str) -> None:
    if count:
        have = "has" if count == 1 else "have"
        label = as_typed(shlex.join(["pipeline", "label", data]))
        err.print(
            f"{count:,} {have} no label: before classify takes the table, delete the lines without "
            f"one, or label the images ({shown(label)}) and make it again",
            soft_wrap=True,
        )
