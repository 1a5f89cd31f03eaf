"""The rows of a data set's images in the views of one augmentation, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.classification.arrays import Floats, Places
from pipeline.classification.search import Fold, PreparedRows
from pipeline.features.extractor import Extraction
from pipeline.features.views import Views
from pipeline.heads.estimators import Classifier


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
    asked_for : bool
        Whether it may be chosen; else it is there to be compared with.
    """

    views: Views
    first: npt.NDArray[np.float32]
    flat: npt.NDArray[np.float32]
    image: Places
    asked_for: bool = True

    @classmethod
    def plain(cls, first: npt.NDArray[np.float32], *, asked_for: bool = True) -> ViewedRows:
        """Take images as they are, without a copy."""
        count = len(first)
        return cls(Views(), first, first.reshape(count, -1), np.arange(count), asked_for)

    @classmethod
    def read(
        cls, extraction: Extraction, views: Views, first: npt.NDArray[np.float32]
    ) -> ViewedRows:
        """Read the views beyond view 0, which is there already."""
        count, digests = len(first), extraction.dataset.digests
        numbers = views.beyond_first(extraction.dataset)
        places = np.flatnonzero([len(more) > 0 for more in numbers])
        if not places.size:
            return cls.plain(first)
        image = np.concatenate([np.arange(count), *[places] * (views.count - 1)])
        rows = np.empty((len(image), *first.shape[1:]), np.float32)
        rows[:count] = first
        augmented = [digests[place] for place in places.tolist()]
        keys = [(digest, view) for view in range(1, views.count) for digest in augmented]
        extraction.plan.store_of(views).read(keys, out=rows[count:])
        return cls(views, rows[:count], rows.reshape(len(image), -1), image)

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
