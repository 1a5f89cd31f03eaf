"""What several commands do at their beginning and at their end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.filesize import decimal as filesize
from rich.table import Table

from pipeline.cli.terminal import err, out, print_damaged, shown

if TYPE_CHECKING:
    from pipeline.cluster import Cluster
    from pipeline.dataset import Dataset
    from pipeline.extraction import Plan, Views
    from pipeline.run import Result, Run


@contextlib.contextmanager
def on_cluster(scheduler: str | None, workers: int | None) -> Iterator[Cluster | None]:
    """Give the workers that were asked for, and tell at the end what each did."""
    if scheduler is None and workers is None:
        yield None
        return
    from pipeline.cluster import Cluster

    with Cluster(scheduler, workers) as cluster:
        yield cluster
        for worker, rate in cluster.rates.items():
            err.print(f"{worker}: {rate:.1f} rows/s")


def prepare(
    data: str,
    options: dict[str, Any],
    *,
    cache: Path,
    weights: Path | None,
    seed: int,
    views: Sequence[Views],
) -> tuple[Dataset, list[Plan]]:
    """List the data set, settle the recipe, and show what there is to do for its views."""
    from pipeline import demo
    from pipeline.backbone import vgg16_recipe
    from pipeline.dataset import load_dataset
    from pipeline.digests import Digests
    from pipeline.extraction import calibrated, check_space, plan_extraction

    recipe = vgg16_recipe(**options)
    if data == "demo":
        err.print(demo.SOURCE)
    with Digests(cache) as remembered:
        dataset = load_dataset(data, seed=seed, remembered=remembered)
    remembered.save(Path(data), dataset.paths)
    recipe = calibrated(
        dataset,
        recipe,
        cache=cache,
        weights=weights,
        on_calibration=lambda count: err.print(f"calibrating int8 on {count} training images"),
    )
    plans: list[Plan] = []
    for one in views:
        first = plans[0] if plans else None
        plans.append(plan_extraction(dataset, recipe, cache=cache, views=one, after=first))
    print_dataset(dataset)
    _print_plans(plans, views)
    check_space(plans)
    return dataset, plans


def print_dataset(dataset: Dataset) -> None:
    """Show how many images of each class there are in each split."""
    from pipeline.dataset import count_splits

    table = Table(box=None, pad_edge=False)
    table.add_column(f"{len(dataset):,} images")
    counts = count_splits(dataset)
    for split in counts:
        table.add_column(split, justify="right")
    for name in dataset.classes:
        table.add_row(shown(name), *(f"{of_split[name]:,}" for of_split in counts.values()))
    err.print(table)


def _print_plans(plans: Sequence[Plan], views: Sequence[Views]) -> None:
    stores = {id(store): store for plan in plans for store in (plan.store, plan.augmented)}
    for store in stores.values():
        print_damaged(store)
    recipe = plans[0].store.recipe
    names = [called(one.augmentation.name) for one in views if one.count > 1]
    most = max(one.count for one in views)
    of_views = f", {most} views ({', '.join(names)})" if names else ""
    missing = sum(plan.missing for plan in plans)
    err.print(
        f"{recipe.backbone} up to {recipe.layer}, {recipe.size} x {recipe.size} pixels, "
        f"{recipe.precision}{of_views}: {sum(plan.there for plan in plans):,} rows are there, "
        f"{missing:,} to make",
        soft_wrap=True,
    )
    if not missing:
        return
    of_image = plans[0].bytes_per_row + sum(
        (one.count - 1) * plan.bytes_per_row for one, plan in zip(views, plans)
    )
    free = plans[0].free
    err.print(
        f"They take about {filesize(sum(plan.bytes_to_make for plan in plans))} of disk, "
        f"{filesize(1000 * of_image)} for 1,000 images{' in all their views' if names else ''}"
        + ("" if free is None else f"; {filesize(free)} are free"),
        soft_wrap=True,
    )


def called(augmentation: str) -> str:
    """Give an augmentation's name as somebody types it: that of the preset, or its settings."""
    from pipeline.augment import PRESETS

    presets = {preset.name: name for name, preset in PRESETS.items()}
    _, *settings = augmentation.split(" ")
    typed = (one if "=" in one else f"{one}=yes" for one in settings)
    return presets.get(augmentation, ",".join(typed))


def print_run(run: Run) -> None:
    """Show how each head of a run did on test."""
    test = run.results[0].test
    table = Table(
        title=f"{test.n:,} test images, never seen in training",
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("head", no_wrap=True)
    for column in ("accuracy", "95 % interval", "balanced", "ROC AUC", "log loss", "fit time"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in run.results:
        style = "bold" if result is run.best else ""
        table.add_row(*_row(result, best=result is run.best), style=style)
    out.print(table)
    chosen = "* best on validation. " if run.best.validation else ""
    majority = max(map(sum, test.confusion)) / test.n
    out.print(
        f"{chosen}Always guessing the commonest class: {majority:.3f}\n"
        f"The run, with its pictures and models: {shown(run.folder)}\n"
        f"All of it on one page: {shown(run.folder / 'report.html')}",
        soft_wrap=True,
    )


def _row(result: Result, *, best: bool) -> Sequence[str]:
    test = result.test
    return (
        result.head + (" *" if best else ""),
        f"{test.accuracy:.3f}",
        f"{test.accuracy_low:.3f}-{test.accuracy_high:.3f}",
        f"{test.balanced_accuracy:.3f}",
        "-" if test.roc_auc is None else f"{test.roc_auc:.3f}",
        f"{test.log_loss:.3f}",
        f"{result.seconds:.1f} s",
    )
