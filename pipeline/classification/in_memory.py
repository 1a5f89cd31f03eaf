"""Rows in memory: candidates are compared on validation images, or on folds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.analysis.problems import Problems, find_problems_quickly
from pipeline.classification.judging import judge_on_test
from pipeline.classification.nested import judge_nested
from pipeline.classification.rows import Block, Rows
from pipeline.classification.task import Task
from pipeline.classification.variants import ViewedRows
from pipeline.features.extractor import Extraction
from pipeline.heads.registry import Head
from pipeline.runs.run import Result


class RowsInMemory(Rows):
    """The rows of a data set's images, in one augmentation or several to choose from."""

    def __init__(self, task: Task) -> None:
        self.setting = self._task = task
        self._first = task.variants[0].first

    def read(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the rows of some images, shape (n, height, width, channels)."""
        return self._first[places]

    def blocks(self) -> Iterator[Block]:
        """Yield the rows of all images at once."""
        yield self._first, np.arange(len(self._first))

    def judge(self, head: Head) -> Result:
        """Choose a head's parameters, fit it, and judge it."""
        judge = judge_on_test if self.setting.protocol.cv is None else judge_nested
        return judge(self._task, head)

    def find_problems(self, best: Result) -> Problems | None:
        """Find what may be wrong with the data; None where that would take too long."""
        return find_problems_quickly(
            self.setting.dataset,
            self._first,
            best.predicted,
            # In cross-validation, each image's come from a fit without it and its copies.
            probabilities=None if self.setting.protocol.cv is None else best.probabilities,
            neighbours=self._task.neighbours,
            seed=self.setting.seed,
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """There is nothing to say of rows in memory."""
        return ()


def read_variants(extraction: Extraction) -> list[ViewedRows]:
    """Read the rows of all views, and what they are compared with: the images as they are."""
    first = extraction.rows()
    variants = [ViewedRows.read(extraction, views, first) for views in extraction.plan.views]
    extraction.plan.release()
    if all(variant.views.count > 1 for variant in variants):
        variants.append(ViewedRows.plain(first, asked_for=False))
    return variants
