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
from pipeline.errors import PipelineError
from pipeline.runs.run import COLUMNS, notes, row, title

if TYPE_CHECKING:
    from pipeline.analysis.problems import Problems
    from pipeline.data.dataset import Dataset
    from pipeline.evaluation.protocol import Protocol
    from pipeline.features.cluster import Cluster
    from pipeline.features.extractor import Plan
    from pipeline.features.views import Views
    from pipeline.runs.run import Run


_SENTENCES = 5  # on what may be wrong with the data: the page has all


@contextlib.contextmanager
def on_cluster(scheduler: str | None, workers: int | None) -> Iterator[Cluster | None]:
    """Give the workers that were asked for, and tell at the end what each did."""
    if scheduler is None and workers is None:
        yield None
        return
    from pipeline.features.cluster import Cluster

    with Cluster(scheduler, workers) as cluster:
        yield cluster
        for worker, rate in cluster.rates.items():
            if rate:  # a worker may have tried candidates only
                err.print(f"{worker}: {rate:.1f} rows/s")


def prepare(
    data: str,
    options: dict[str, Any],
    *,
    cache: Path,
    weights: Path | None,
    seed: int,
    views: Sequence[Views],
    protocol: Protocol | None = None,
) -> tuple[Dataset, list[Plan]]:
    """List the data set, settle the recipe, and show what there is to do for its views.

    For heads that are to be judged by a protocol, that must fit the data.
    """
    from pipeline.backbones.registry import make_recipe
    from pipeline.data import demo
    from pipeline.data.digests import Digests
    from pipeline.data.loading import load_dataset
    from pipeline.features.calibration import calibrated
    from pipeline.features.extractor import check_space, plan_extraction

    recipe = make_recipe(**options)
    if data == "demo":
        err.print(demo.SOURCE)
    with Digests(cache) as remembered:
        try:
            dataset = load_dataset(
                data, seed=seed, remembered=remembered, **(protocol.shares if protocol else {})
            )
        except (PipelineError, KeyboardInterrupt):  # what was read is not read again
            remembered.close()
            remembered.save(data)
            raise
    remembered.save(data, dataset.paths)
    if protocol:
        dataset = protocol.check(dataset)
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
    """Show how many images of each class there are in each split, or in all where there is one."""
    from pipeline.data.dataset import count_splits

    table = Table(box=None, pad_edge=False)
    table.add_column(f"{len(dataset):,} images")
    counts = {split: classes for split, classes in count_splits(dataset).items() if classes}
    for split in counts:
        table.add_column(split if len(counts) > 1 else "in all", justify="right")
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
    from pipeline.data.augmentation import PRESETS

    presets = {preset.name: name for name, preset in PRESETS.items()}
    _, *settings = augmentation.split(" ")
    typed = (one if "=" in one else f"{one}=yes" for one in settings)
    return presets.get(augmentation, ",".join(typed))


def figures_table(title: str) -> Table:
    """Make an empty table for heads' figures."""
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE,
        padding=0,
        pad_edge=False,
    )
    for column in COLUMNS:
        if column == "head":  # what gives way where the terminal is narrow
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def _print_problems(problems: Problems) -> None:
    """Tell what may be wrong with the data; the run's page has the pictures."""
    sentences = list(problems.summary())
    if problems.leakage.total:  # else nothing is said of it
        leakage = sentences.pop(0)
        if problems.leakage.copied:
            out.print(f"[yellow]Copies:[/] {leakage}", soft_wrap=True)
    for sentence in sentences[:_SENTENCES]:
        out.print(f"Data: {shown(sentence)}", soft_wrap=True)
    if len(sentences) > _SENTENCES:
        out.print(f"Data: {len(sentences) - _SENTENCES:,} more on the page.")


def print_run(run: Run) -> None:
    """Show how each head of a run did."""
    table = figures_table(title(run))
    for result in run.results:
        best = result is run.best
        table.add_row(*map(shown, row(result, best=best)), style="bold" if best else "")
    out.print(table)
    for note in notes(run):
        out.print(shown(note), soft_wrap=True)
    if run.problems:
        _print_problems(run.problems)
    out.print(
        f"The run, with its pictures and models: {shown(run.folder)}\n"
        f"All of it on one page: {shown(run.folder / 'report.html')}",
        soft_wrap=True,
    )
