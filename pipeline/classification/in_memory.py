"""Rows in memory: candidates are compared on validation images, or on folds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.analysis.problems import Problems, find_problems_quickly
from pipeline.backbones.recipe import Recipe
from pipeline.classification.judging import judge_on_test
from pipeline.classification.nested import judge_nested
from pipeline.classification.rows import Block, Rows
from pipeline.classification.task import Task
from pipeline.classification.variants import ViewedRows
from pipeline.features.extractor import Extraction
from pipeline.heads.pooling import pools_of
from pipeline.heads.registry import Head
from pipeline.runs.run import Result


class RowsInMemory(Rows):
    """The rows of a data set's images, in one augmentation or several to choose from."""

    def __init__(self, task: Task) -> None:
        self.setting = self._task = task
        self._first = {rows.recipe: rows.first for rows in task.variants}

    def read(self, recipe: Recipe, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return a recipe's rows of some images, shape (n, height, width, channels)."""
        return self._first[recipe][places]

    def blocks(self, recipe: Recipe) -> Iterator[Block]:
        """Yield a recipe's rows of all images at once."""
        yield self._first[recipe], np.arange(len(self._first[recipe]))

    def judge(self, head: Head) -> Result:
        """Choose a head's parameters, fit it, and judge it."""
        judge = judge_on_test if self.setting.protocol.cv is None else judge_nested
        return judge(self._task, head)

    def find_problems(self, best: Result) -> Problems | None:
        """Find what may be wrong with the data; None where that would take too long.

        As `pipeline problems` with the same options: from the first recipe's rows.
        """
        return find_problems_quickly(
            self.setting.dataset,
            self._first[self.setting.recipes[0]],
            best.predicted,
            neighbours=self._task.neighbours,
            seed=self.setting.seed,
        )


def read_variants(extraction: Extraction, pools: Sequence[str] | None) -> list[ViewedRows]:
    """Read the rows of all views, and what they are compared with: the images as they are."""
    variants = []
    for recipe in extraction.recipes:
        allowed = pools_of(recipe, pools)
        plain = ViewedRows.plain(recipe, extraction.rows(recipe=recipe), allowed)
        of_views = [ViewedRows.read(extraction, views, plain) for views in extraction.plan.views]
        if all(variant.views.count > 1 for variant in of_views):
            of_views.append(replace(plain, asked_for=False))
        variants += of_views
    extraction.plan.release()
    return variants
