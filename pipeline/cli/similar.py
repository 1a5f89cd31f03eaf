"""`pipeline similar`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from pipeline.cli.listening import TerminalListener
from pipeline.cli.options import DataArgument, JsonOption, SeedOption, StageOne, with_stage_one
from pipeline.cli.terminal import finish, out, reporting_errors, shown

if TYPE_CHECKING:
    from pipeline.analysis.similarity import NearImage


@with_stage_one
def similar(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image file, or its URL.")],
    data: DataArgument,
    *,
    stage_one: StageOne,
    count: Annotated[int, typer.Option(min=1, help="How many images to list.")] = 20,
    as_json: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """List the images of a data set most like a given one.

    Missing features are computed first. The images need no labels.

    Example: pipeline similar new/picture.jpg photos/
    """
    with reporting_errors():
        from pipeline.analysis.similarity import Gallery
        from pipeline.system.documents import to_json

        with TerminalListener(data) as listener:
            extractor = stage_one.extractor()
            gallery = Gallery(data, extractor=extractor, seed=seed, listener=listener)
        found = gallery.most_like(image, count)
        if as_json:
            keys = ("path", "distance", "label", "split")
            items = [{key: getattr(near, key) for key in keys} for near in found]
            typer.echo(to_json([{**item, "path": str(item["path"])} for item in items]), nl=False)
        else:
            _print(found)
    finish(gallery.dataset.quarantined)


def _print(found: Sequence[NearImage]) -> None:
    table = Table(box=box.SIMPLE)
    for column in ("image", "distance", "class", "split"):
        table.add_column(column, overflow="fold")
    for near in found:
        table.add_row(shown(near.path), f"{near.distance:.3f}", shown(near.label), near.split)
    out.print(table)
