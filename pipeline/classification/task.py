"""What all heads are judged on, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.analysis.duplicates import find_duplicates
from pipeline.analysis.neighbours import Neighbours, Rows
from pipeline.analysis.problems import QUICK, nearest_rows
from pipeline.backbones.recipe import Recipe
from pipeline.classification.arrays import Places
from pipeline.classification.search import Spread
from pipeline.classification.variants import ViewedRows
from pipeline.data.dataset import Dataset
from pipeline.evaluation.folds import deal_folds, search_folds
from pipeline.evaluation.groups import find_units, join_groups, resampled_by
from pipeline.evaluation.protocol import Protocol

_MOST_COPIES = 10  # of one image; where more are alike, they show the same kind of thing


def find_units_by_rows(dataset: Dataset, rows: Rows, neighbours: Neighbours) -> Places:
    """As `pipeline.evaluation.groups.find_units`, with near-duplicates kept together, too."""
    labels, splits = dataset.targets.labels, dataset.splits
    copies = find_duplicates(rows, dataset.digests, labels, splits, neighbours=neighbours).groups
    alone = len(rows) + np.arange(len(rows))
    _, copy, count = np.unique(copies, return_inverse=True, return_counts=True)
    near = np.where(count[copy] <= _MOST_COPIES, copies, alone)
    return join_groups(find_units(dataset), near)


@dataclass(frozen=True)
class Setting:
    """What heads are judged on, and how.

    Attributes
    ----------
    dataset : Dataset
        The n images.
    recipes : tuple of Recipe
        How they became rows: for each network the recipe of its layer. Copies are found by the
        first.
    protocol : Protocol
        Which images heads are fitted on, chosen by and judged on.
    seed : int
        Decides folds, and what is random in heads.
    remarks : tuple of str
        What a run should say of how it came about.
    """

    dataset: Dataset
    recipes: tuple[Recipe, ...]
    protocol: Protocol
    seed: int
    remarks: tuple[str, ...] = ()

    @cached_property
    def units(self) -> Places:
        """Number of each image, shape (n,): those of the same number must not be parted."""
        return find_units(self.dataset)

    @cached_property
    def positive(self) -> int:
        """Number of the positive class, where there are two."""
        return self.protocol.positive_of(self.dataset.targets)

    def resampled_by(self, places: Places) -> Places | None:
        """Return the groups that figures are resampled by, where the user gave any."""
        return resampled_by(self.dataset, self.units, places)


@dataclass(frozen=True)
class Task(Setting):
    """The same with the rows, in memory.

    Attributes
    ----------
    variants : sequence of ViewedRows
        The rows, in one augmentation or several to choose from.
    spread : Spread, optional
        Where candidates are fitted, in place of threads here.

    Raises
    ------
    PipelineError
        There are too few images of some class for the folds.
    """

    variants: Sequence[ViewedRows] = ()
    spread: Spread | None = None

    def __post_init__(self) -> None:
        _ = self.folds  # too few images for the folds are an error before the work

    @cached_property
    def units(self) -> Places:
        """Number of each image, shape (n,): those of the same number must not be parted."""
        if self.neighbours is None:  # the page warns of copies across splits
            return super().units
        return find_units_by_rows(self.dataset, self.variants[0].first, self.neighbours[0])

    @cached_property
    def neighbours(self) -> list[Neighbours] | None:
        """What copies are known by, for folds; None for splits, or where it takes too long."""
        if len(self.dataset) > QUICK or not (self.protocol.search or self.protocol.cv):
            return None
        return nearest_rows(self.variants[0].first, self.dataset.targets.labels)

    @cached_property
    def folds(self) -> list[list[Places]]:
        """Images of each fold, for each repeat; one repeat of a search; none with the splits."""
        data, protocol = self.dataset, self.protocol
        if protocol.cv is not None:
            return [
                deal_folds(
                    data.targets.labels,
                    self.units,
                    data.classes,
                    folds=protocol.cv,
                    seed=self.seed + repeat,
                    nested=True,
                )
                for repeat in range(protocol.repeats)
            ]
        if protocol.search:
            seen = data.where("train", "validation")
            units = self.units[seen]
            dealt = search_folds(data.targets.labels[seen], units, data.classes, seed=self.seed)
            return [[seen[fold] for fold in dealt]]
        return []

    def groups(self, image: Places) -> Places | None:
        """Tell which rows belong together, from the image of each; None where all are alone."""
        units = self.units[image]
        return None if len(np.unique(units)) == len(units) else units
