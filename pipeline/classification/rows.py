"""The rows that heads are trained on: one interface, in memory or read shard by shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.analysis.problems import Problems
from pipeline.backbones.recipe import Recipe
from pipeline.classification.task import Setting
from pipeline.errors import PipelineError
from pipeline.heads.registry import Head
from pipeline.runs.run import Result

Block = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""Some rows, and the positions of their images in the data set."""


class Rows(ABC):
    """The rows of a data set's images, and how heads are judged on them.

    Attributes
    ----------
    setting : Setting
        What is judged, and how.
    """

    setting: Setting

    @abstractmethod
    def read(self, recipe: Recipe, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return a recipe's rows of some images, shape (n, height, width, channels)."""

    @abstractmethod
    def blocks(self, recipe: Recipe) -> Iterator[Block]:
        """Yield a recipe's rows of all images, some at a time."""

    @abstractmethod
    def judge(self, head: Head) -> Result:
        """Choose a head's parameters, fit it, and judge it."""

    @abstractmethod
    def find_problems(self, best: Result) -> Problems | None:
        """Find what may be wrong with the data; None where that would take too long."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a run on these rows says of them."""
        return self.setting.remarks

    def check_that_they_differ(self) -> None:
        """Refuse rows that there is nothing to learn from."""
        recipe = self.setting.recipes[0]
        rows = (row for block, _ in self.blocks(recipe) for row in block)
        first = next(rows).ravel()
        if all(np.array_equal(row.ravel(), first) for row in rows):
            raise PipelineError(
                f"the features of all {len(self.setting.dataset)} images are the same.",
                expected="images that differ, and features that tell them apart",
                fix="look at the images: are they all blank?",
            )
