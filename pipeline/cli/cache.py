"""`pipeline cache`: look after the stored features."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from pipeline.cli.options import CacheOption, DataArgument, SeedOption, StageOne, with_stage_one
from pipeline.cli.terminal import (
    err,
    finish,
    out,
    print_damaged,
    print_remarks,
    reporting_errors,
    shown,
    status_of,
)
from pipeline.errors import PipelineError, StoreError

app = typer.Typer(
    help="Look after the stored features.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_stores(cache: CacheOption = Path("cache")) -> None:
    """List the stores: how their rows were made, how many there are, and what they take up.

    Example: pipeline cache list
    """
    with reporting_errors():
        from pipeline.features.store import open_stores

        table = Table(box=box.SIMPLE, pad_edge=False)
        table.add_column("store, and how it was made", overflow="fold")
        for column in ("rows", "shards", "MB"):
            table.add_column(column, justify="right", no_wrap=True)
        bad = 0
        for store in open_stores(cache):
            if isinstance(store, StoreError):
                err.print(f"[red]{shown(store.found)}[/]", soft_wrap=True)
                bad += 1
                continue
            recipe = store.recipe
            made_with = f"{recipe.precision}, {recipe.scaling}, {recipe.resize}"
            if recipe.augmentation != "none":
                from pipeline.data.augmentation import typed

                made_with += f", views: {typed(recipe.augmentation)}"
            table.add_row(
                f"{shown(recipe.name)}\n  {shown(made_with)}",
                f"{len(store):,}",
                f"{len(store.shards):,}",
                f"{store.size / 1e6:,.1f}",
            )
            print_damaged(store)
        out.print(table)
        if bad:
            raise PipelineError(f"{bad} stores cannot be read; they were passed over.")


@app.command()
def verify(cache: CacheOption = Path("cache")) -> None:
    """Check every byte of every shard; what is damaged is set aside, to be made again.

    Example: pipeline cache verify
    """
    with reporting_errors():
        from pipeline.features.store import open_stores

        damaged = 0
        for store in open_stores(cache):  # to open a store is to verify all of it
            if isinstance(store, StoreError):
                err.print(f"[red]{shown(store.found)}[/]", soft_wrap=True)
                damaged += 1
                continue
            print_damaged(store)
            damaged += len(store.damaged)
            out.print(
                f"{shown(store.recipe.name)}: {len(store.shards):,} shards whole, "
                f"{len(store):,} rows"
            )
        if damaged:
            raise PipelineError(
                f"{damaged} shards or stores are damaged; damaged shards are set aside.",
                fix="run `pipeline features` on the data again: it makes their rows",
            )


@app.command()
def prune(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="All data sets whose rows are to stay.")
    ],
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="Drop them without asking.", show_default=False)
    ] = False,
    cache: CacheOption = Path("cache"),
) -> None:
    """Drop the rows of images that are in none of the data sets named; merge small shards.

    What would be deleted is shown, and asked about, first; --yes does not ask.

    Example: pipeline cache prune photos/ more-photos/ --yes
    """
    with reporting_errors():
        from pipeline.features.pruning import losses

        stores = list(losses(data, cache))
        bad = [store for store in stores if isinstance(store, StoreError)]
        good = [store for store in stores if not isinstance(store, StoreError)]
        for error in bad:
            err.print(f"[red]{shown(error.found)}[/]", soft_wrap=True)
        dropped = [loss for loss in good if loss.rows]
        for loss in dropped:
            took = f", about {_duration(loss.seconds)} to compute" if loss.seconds >= 1 else ""
            out.print(
                f"{shown(loss.store.recipe.name)}: {loss.rows:,} of {len(loss.store):,} rows are "
                f"of images in none of these data sets ({loss.size / 1e6:,.1f} MB{took})",
                soft_wrap=True,
            )
        if dropped and not yes and not (sys.stdin.isatty() and typer.confirm("Drop them?")):
            raise PipelineError(
                f"{sum(loss.rows for loss in dropped):,} rows would be dropped; nothing was.",
                fix="name all data sets whose rows are to stay, or run it again with --yes",
            )
        for loss in good:
            pruned = loss.accept()
            print_damaged(pruned.store)
            out.print(
                f"{shown(pruned.store.recipe.name)}: {pruned.rows:,} rows dropped, "
                f"{len(pruned.store):,} stay; {pruned.shards:,} shards fewer"
            )
        if bad:
            raise PipelineError(f"{len(bad)} stores cannot be read; they were passed over.")


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"


@app.command()
@partial(with_stage_one, but=("strict",))
def export(
    data: DataArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new .h5 file.")],
    *,
    stage_one: StageOne,
    seed: SeedOption = 0,
) -> None:
    """Write features, labels, paths, splits and class names into one file.

    Example: pipeline cache export photos/ features.h5
    """
    with reporting_errors():
        from pipeline.features.exchange import export

        dataset, damaged = export(data, file, stage_one.extractor(), seed=seed)
        print_remarks(dataset.remarks)
        print_damaged(damaged)
        out.print(f"{len(dataset):,} rows written to {shown(file)}", soft_wrap=True)
    finish(dataset.quarantined, listed=status_of(data, stage_one.typed()))
