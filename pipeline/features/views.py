"""Which views of the images are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.backbones.recipe import Recipe
from pipeline.data.augmentation import PRESETS, Augmentation
from pipeline.data.dataset import Dataset
from pipeline.errors import PipelineError

_MOST_VIEWS = 2**16 - 1  # what a shard can number


@dataclass(frozen=True, kw_only=True)
class Views:
    """Which views of a data set's images are wanted.

    View 0 is the image itself; the others are seeded augmentations of it.

    Parameters
    ----------
    count : int
        Number of views of each training image, view 0 included.
    augmentation : Augmentation
        How the views beyond view 0 are made.
    everywhere : bool
        Whether validation and test images, too, have all views and not view 0 alone: to average
        over them (test-time augmentation).
    """

    count: int = 1
    augmentation: Augmentation = PRESETS["none"]
    everywhere: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MOST_VIEWS:
            raise PipelineError(f"{self.count} views.", expected=f"1 to {_MOST_VIEWS}")
        if self.count > 1 and self.augmentation == PRESETS["none"]:
            raise PipelineError(
                f"{self.count} views without augmentation would all be the same.",
                expected="an augmentation that changes something, or 1 view",
            )

    def augmented(self, recipe: Recipe) -> Recipe:
        """Return the recipe of the views beyond view 0."""
        return replace(recipe, augmentation=self.augmentation.name)

    def beyond_first(self, dataset: Dataset) -> Iterator[range]:
        """Yield for each image the numbers of its views beyond view 0."""
        for split in dataset.splits:
            yield range(1, self.count if self.everywhere or split == "train" else 1)
