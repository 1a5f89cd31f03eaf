"""`pipeline features` and `pipeline status`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from pipeline.cli.main import app
from pipeline.cli.options import (
    AugmentationOption,
    CacheOption,
    DataArgument,
    JsonOption,
    SchedulerOption,
    SeedOption,
    StrictOption,
    TtaOption,
    ViewsOption,
    WeightsOption,
    WorkersOption,
    views_of,
    with_recipe,
)
from pipeline.cli.steps import on_cluster, prepare
from pipeline.cli.terminal import finish, out, print_damaged, progress, reporting_errors, shown


@app.command()
@with_recipe
def features(
    data: DataArgument,
    *,
    recipe: dict[str, Any],
    views: ViewsOption = 1,
    augmentation: AugmentationOption = None,
    tta: TtaOption = False,
    cache: CacheOption = Path("cache"),
    weights: WeightsOption = None,
    strict: StrictOption = False,
    seed: SeedOption = 0,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
) -> None:
    """Show every image to the network once, and keep what it saw.

    Example: pipeline features photos/ --views 4 --augmentation mild
    """
    with reporting_errors(), on_cluster(scheduler, workers) as cluster:
        from pipeline.features.extractor import extract

        wanted = views_of(views, augmentation, tta=tta)
        dataset, plans = prepare(
            data, recipe, cache=cache, weights=weights, seed=seed, views=wanted
        )
        for one, plan in zip(wanted, plans):
            with progress("rows", cluster) as on_progress:
                extraction = extract(
                    dataset,
                    plan.store.recipe,
                    views=one,
                    cache=cache,
                    weights=weights,
                    strict=strict,
                    on_progress=on_progress,
                    plan=plan,
                    commit=cluster.commit_rows if cluster else None,
                )
            dataset = extraction.dataset  # what could not be read is not tried again
            made, seconds = extraction.made, extraction.seconds
            rate = f" in {seconds:.1f} s ({made / seconds:.1f} rows/s)" if made else ""
            views_in = f", views in {shown(extraction.augmented.folder)}" if one.count > 1 else ""
            out.print(
                f"{made:,} rows made{rate}; {len(dataset):,} images have features in "
                f"{shown(extraction.store.folder)}{views_in}",
                soft_wrap=True,
            )
    finish(dataset.quarantined)


@app.command()
@with_recipe
def status(
    data: DataArgument,
    *,
    recipe: dict[str, Any],
    cache: CacheOption = Path("cache"),
    as_json: JsonOption = False,
) -> None:
    """Tell what a run would reuse and what it would have to make; change nothing.

    Example: pipeline status photos/
    """
    with reporting_errors():
        from pipeline.backbones.registry import make_recipe
        from pipeline.features.status import status as find_status

        found = find_status(data, make_recipe(**recipe), cache=cache)
        lists = {
            "new": found.new,
            "changed": found.changed,
            "removed": found.removed,
            "unreadable": [bad.path for bad in found.unreadable],
        }
        if as_json:
            names = {kind: [str(path) for path in paths] for kind, paths in lists.items()}
            typer.echo(json.dumps({"reused": found.reused, **names}, indent=2))
        else:
            print_damaged(found.store)
            out.print(f"{found.reused:,} reused")
            for kind, paths in lists.items():
                examples = ": " + ", ".join(shown(path) for path in paths[:3]) if paths else ""
                more = ", ..." if len(paths) > 3 else ""
                out.print(f"{len(paths):,} {kind}{examples}{more}", soft_wrap=True)
