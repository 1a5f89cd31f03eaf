"""The `pipeline` command: arguments, messages and exit codes. No logic.

Results go to standard output, all else to standard error. Exit codes: 0 all went well; 1 an error;
2 wrong usage; 3 done, but some files or heads could not be used; 130 or 143 stopped by Ctrl-C
or SIGTERM.
"""

from __future__ import annotations

import gc
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline.cli.app import app as local_page
from pipeline.cli.augment import augment
from pipeline.cli.backbones import backbones
from pipeline.cli.cache import app as cache_app
from pipeline.cli.classify import classify
from pipeline.cli.export import export
from pipeline.cli.features import features, status
from pipeline.cli.finetune import finetune
from pipeline.cli.label import label
from pipeline.cli.map import map as image_map
from pipeline.cli.predict import predict
from pipeline.cli.problems import problems
from pipeline.cli.report import compare, report
from pipeline.cli.similar import similar
from pipeline.cli.terminal import SOME_FILES_UNUSABLE, complete_streams, show_warning
from pipeline.errors import printable

__all__ = ["SOME_FILES_UNUSABLE", "app", "main"]


class _Commands(TyperGroup):
    """The commands; a message on wrong usage may hold a file's name that the shell found."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if hasattr(error, "message"):  # one of Typer's, which has no public name for them all
                error.message = printable(error.message)
            raise


app = typer.Typer(
    cls=_Commands,
    help="Transfer learning on a laptop: a network once per image, then classifiers in seconds.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    features,
    classify,
    predict,
    export,
    problems,
    similar,
    image_map,
    label,
    report,
    compare,
    status,
    augment,
    finetune,
    backbones,
    local_page,
):
    app.command()(command)
app.add_typer(cache_app, name="cache")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # takes longer than all of the help

        typer.echo(f"pipeline {version('cached-feature-pipeline')}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Transfer learning on a laptop: a network once per image, then classifiers in seconds."""


def main() -> None:
    """Run the command."""
    complete_streams()
    # Importing makes many objects and no garbage: with the default of 700, looking for it takes a
    # sixth of a run that has nothing to do.
    gc.set_threshold(100_000)
    if not sys.warnoptions:
        warnings.showwarning = show_warning
    app()
