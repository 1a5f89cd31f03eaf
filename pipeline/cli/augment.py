"""`pipeline augment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import PageOption, WhiteOption
from pipeline.cli.terminal import out, reporting_errors, shown
from pipeline.data.urls import locate
from pipeline.errors import ImageError, PipelineError


def augment(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image file.")],
    *,
    views: Annotated[
        int, typer.Option(min=1, max=100, help="Number of views, the image itself included.")
    ] = 12,
    augmentation: Annotated[
        str,
        typer.Option(metavar="TEXT", help="textbook, mild, or settings as in mild,rotation=10."),
    ] = "textbook",
    size: Annotated[int, typer.Option(min=1, max=2000, help="Side of a view, in pixels.")] = 150,
    white: WhiteOption = None,
    page: PageOption = 1,
    file: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="A PNG file to write.")
    ] = Path("sheet.png"),
) -> None:
    """Draw the views of an image on one sheet, to see what an augmentation does.

    Example: pipeline augment photos/cats/001.jpg --augmentation mild --out sheet.png
    """
    if file.suffix.lower() != ".png":
        raise typer.BadParameter(f"{file} is no name of a PNG file.", param_hint="--out")
    where = locate(image)
    if file.exists() and isinstance(where, Path) and where.exists() and file.samefile(where):
        raise typer.BadParameter(f"{file} is the image itself.", param_hint="--out")
    with reporting_errors():
        from pipeline.data.augmentation import get_augmentation
        from pipeline.data.decoding import Decoding
        from pipeline.data.digests import read_image
        from pipeline.data.images import decode
        from pipeline.data.views import View, draw, views_of
        from pipeline.report.sheet import write_sheet

        chosen = get_augmentation(augmentation)
        try:
            content, digest = read_image(where)
            pixels = decode(content, size, decoding=Decoding(white, page).name)
        except ImageError as error:
            raise PipelineError(f"{image}: {error.found}", fix=error.fix) from error
        drawn = [View(), *(draw(chosen, digest, number) for number in range(1, views))]
        write_sheet(views_of(pixels, chosen, digest, views), file, list(map(str, drawn)))
        out.print(f"{views} views in {shown(file)}; the first is the image itself")
