"""What long work tells, shown on the terminal: data set, plan, progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from rich.filesize import decimal as filesize
from rich.table import Table

from pipeline.cli.terminal import (
    err,
    print_damaged,
    print_remarks,
    progress,
    shown,
)
from pipeline.runs.listener import RunListener

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.features.computing import Workers
    from pipeline.features.plan import Plan
    from pipeline.features.store import FeatureStore


class TerminalListener(RunListener):
    """Prints what stage one tells, with a bar for the rows that are computed.

    Parameters
    ----------
    data : str
        What the user named.
    workers : Workers, optional
        Whose rates are shown.
    unit : str
        What the bar counts.
    streams : bool
        Whether results are printed meanwhile: then there is no bar where they are shown.
    counts : bool
        Whether the numbers of images are shown.
    """

    def __init__(
        self,
        data: str = "",
        workers: Workers | None = None,
        *,
        unit: str = "rows",
        streams: bool = False,
        counts: bool = True,
    ) -> None:
        self._data = data
        self._workers = workers
        self._unit = unit
        self._streams = streams
        self._counts = counts
        self._bar = ExitStack()
        self._report: Callable[[int, int], None] | None = None

    def __enter__(self) -> Self:
        from pipeline.data import demo

        if self._data == "demo":
            err.print(demo.SOURCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.end_bar()

    def end_bar(self) -> None:
        """Clear the bar away, to make room for what comes next."""
        self._bar.close()
        self._report = None

    def listed(self, dataset: Dataset) -> None:
        """Show how many images of each class there are in each split, and remarks on the data."""
        if self._counts:
            self._print_counts(dataset)
        print_remarks(dataset.remarks)

    def _print_counts(self, dataset: Dataset) -> None:
        from pipeline.data.dataset import count_splits

        table = Table(box=None, pad_edge=False)
        table.add_column(f"{len(dataset):,} images")
        counts = {split: classes for split, classes in count_splits(dataset).items() if classes}
        for split in counts:
            table.add_column(split if len(counts) > 1 else "in all", justify="right")
        for name in dataset.classes:
            row = (f"{in_split[name]:,}" for in_split in counts.values())
            table.add_row(shown(name or "without a label"), *row)
        err.print(table)

    def calibrating(self, images: int) -> None:
        """Say that precision int8 is calibrated."""
        err.print(f"calibrating int8 on {images} training images")

    def set_aside(self, store: FeatureStore) -> None:
        """Name the shards that were found damaged."""
        print_damaged(store)

    def planned(self, plan: Plan) -> None:
        """Show what there is to do, and what it takes on disk."""
        from pipeline.data.augmentation import typed

        for store in plan.every_store:
            print_damaged(store)
        print_remarks(plan.remarks)
        recipe = plan.recipe
        names = [typed(views.augmentation.name) for views in plan.views if views.count > 1]
        most = max(views.count for views in plan.views)
        views_text = f", {most} views ({', '.join(names)})" if names else ""
        err.print(
            f"{recipe.backbone} up to {recipe.layer}, {recipe.size} x {recipe.size} pixels, "
            f"{recipe.precision}{views_text}: {plan.stored:,} rows are stored, "
            f"{plan.missing:,} {'is' if plan.missing == 1 else 'are'} missing",
            soft_wrap=True,
        )
        if plan.missing:
            free = plan.free
            err.print(
                f"The missing rows take about {filesize(plan.bytes_missing)} of disk, "
                f"{filesize(1000 * plan.bytes_per_image)} for 1,000 images"
                f"{' in all their views' if names else ''}"
                + ("" if free is None else f"; {filesize(free)} are free"),
                soft_wrap=True,
            )

    def streaming(self, reason: str) -> None:
        """Say that rows are not held in memory."""
        err.print(f"Rows are read shard by shard: {reason}", soft_wrap=True)

    def rows_made(self, done: int, total: int) -> None:
        """Move the bar on."""
        if self._report is None:
            bar = progress(self._unit, self._workers, streams=self._streams)
            self._report = self._bar.enter_context(bar)
        self._report(done, total)

    def comparing(self) -> None:
        """Say that the search for problems begins."""
        self.end_bar()
        err.print("comparing the images, and training on parts of them ...")
