"""`pipeline report` and `pipeline compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.results import print_missing_pictures
from pipeline.cli.terminal import out, reporting_errors, shown


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder: runs/NAME.")],
    *,
    without_pictures: Annotated[
        bool,
        typer.Option(
            "--without-pictures",
            help="Write the page also where some of its pictures are missing.",
        ),
    ] = False,
) -> None:
    """Write a run's page again, from what is in its folder.

    Example: pipeline report runs/photos
    """
    with reporting_errors():
        from pipeline.report.page import write_report

        page = write_report(run, without_pictures=without_pictures)
        out.print(f"The page of the run: {shown(page)}", soft_wrap=True)
        print_missing_pictures(run)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of two runs or more.")
    ],
    *,
    file: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="An HTML file to write.")
    ] = Path("compare.html"),
) -> None:
    """Put several runs side by side on one page.

    Example: pipeline compare runs/photos runs/photos-2 --out compare.html
    """
    with reporting_errors():
        from pipeline.report.page import write_comparison

        page = write_comparison(runs, file)
        out.print(f"{len(runs)} runs side by side: {shown(page)}", soft_wrap=True)
