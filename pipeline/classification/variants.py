"""The rows of one recipe, in the views of one augmentation, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import Recipe
from pipeline.classification.arrays import Floats, Places
from pipeline.classification.search import Fold, PreparedRows
from pipeline.features.extractor import Extraction
from pipeline.features.views import Views
from pipeline.heads.estimators import Classifier
from pipeline.heads.registry import Head


@dataclass(frozen=True)
class ViewedRows:
    """Rows, and which image each is a view of.

    Attributes
    ----------
    views : Views
        Which views there are.
    first : ndarray of float32, shape (n, height, width, channels)
        View 0 of every image.
    flat : ndarray of float32, shape (m, d)
        All rows, view by view, flattened; the first n are those of `first`.
    image : ndarray of int64, shape (m,)
        Position of the image that each row is a view of.
    recipe : Recipe
        How the images became rows.
    pools : tuple of str
        How heads may pool them; none, if heads are not to be trained on them.
    asked_for : bool
        Whether it may be chosen; else it is there to be compared with.
    """

    recipe: Recipe
    views: Views
    first: npt.NDArray[np.float32]
    flat: npt.NDArray[np.float32]
    image: Places
    pools: tuple[str, ...] = ("flatten",)
    asked_for: bool = True

    @classmethod
    def plain(
        cls,
        recipe: Recipe,
        first: npt.NDArray[np.float32],
        pools: tuple[str, ...] = ("flatten",),
    ) -> ViewedRows:
        """Take images as they are, without a copy."""
        count = len(first)
        flat = first.reshape(count, -1)
        return cls(recipe, Views(), first, flat, np.arange(count), pools)

    @classmethod
    def read(cls, extraction: Extraction, views: Views, plain: ViewedRows) -> ViewedRows:
        """Read the views beyond view 0, which is there already."""
        first, recipe = plain.first, plain.recipe
        count, digests = len(first), extraction.dataset.digests
        numbers = views.beyond_first(extraction.dataset)
        places = np.flatnonzero([len(more) > 0 for more in numbers])
        if not places.size:
            return plain
        image = np.concatenate([np.arange(count), *[places] * (views.count - 1)])
        rows = np.empty((len(image), *first.shape[1:]), np.float32)
        rows[:count] = first
        augmented = [digests[place] for place in places.tolist()]
        keys = [(digest, view) for view in range(1, views.count) for digest in augmented]
        store = extraction.plan.joint_of(views).stores[extraction.recipes.index(recipe)]
        store.read(keys, out=rows[count:])
        flat = rows.reshape(len(image), -1)
        return cls(recipe, views, rows[:count], flat, image, plain.pools)

    def suited(self, head: Head) -> Head:
        """Return a head with what may be chosen for it on these rows."""
        return head.with_pools(self.pools, self.recipe.shape)

    @cached_property
    def prepared(self) -> PreparedRows:
        """What all fits on these rows share."""
        return PreparedRows(self.flat)

    def to_fit(self, places: Places) -> Places:
        """Give the positions of all rows of some images."""
        count = len(self.first)
        more = count + np.flatnonzero(np.isin(self.image[count:], places))
        return np.concatenate([places, more])

    def to_judge(self, places: Places) -> Places:
        """Give the positions of the rows that images are judged by: view 0, or, for TTA, all."""
        times = np.arange(self._judged_by)[:, None]
        return (times * len(self.first) + places).ravel()

    def fold(self, fitted: Places, judged: Places) -> Fold:
        """Turn positions of images into positions of rows."""
        return Fold(self.to_fit(fitted), self.to_judge(judged))

    def of_images(self, p: Floats) -> Floats:
        """Average the probabilities of rows over the views that images are judged by."""
        mean: Floats = p.reshape(self._judged_by, -1, p.shape[-1]).mean(axis=0)
        return mean

    def probabilities(self, estimator: Classifier, places: Places) -> Floats:
        """Apply a head to images, shape (len(places), k)."""
        views = self.to_judge(places).reshape(-1, len(places))
        mean: Floats = np.mean(
            [self.prepared.predict_proba(estimator, view) for view in views],
            axis=0,
            dtype=np.float64,
        )
        return mean

    @property
    def _judged_by(self) -> int:
        return self.views.count if self.views.everywhere else 1
