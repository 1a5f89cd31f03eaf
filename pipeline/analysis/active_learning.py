"""Which image to label next: a classifier that learns from one label after another.

It is a ridge regression on a Gaussian kernel, in the space that 1,024 images span (C. Williams,
M. Seeger, *Using the Nyström method to speed up kernel machines*, NIPS 2001). A label changes two
sums, so learning takes one factorisation, whatever the number of labels; and what a classifier
without an image would say of it follows from the one that has it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.analysis.neighbours import Places
from pipeline.analysis.reduction import Reduced

Floats = npt.NDArray[np.float64]

NONE = -1
"""The label of an image that has none."""

_LANDMARKS = 1024
_ALPHA = 0.3  # as strong a regularisation was best or near it on the demo, from 100 to 1,000 labels
_BLOCK = 4096  # rows
_MOST_HELD_OUT = 2000  # images, so that it takes 0.1 s
_MOST_CLUSTERED = 5000


class ActiveLearner:
    """Learns from labels one by one, and tells which image would teach it most.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, d)
        As from `pipeline.analysis.reduction.reduced_rows`.
    units : ndarray of int64, shape (n,)
        Images that belong together, as copies, have the same number.
    seed : int
        Random seed of the landmarks and clusters.

    Attributes
    ----------
    labels : ndarray of int64, shape (n,)
        The labels that were learned; `NONE` where there is none.
    """

    def __init__(self, rows: Reduced, units: Places, *, seed: int = 0) -> None:
        self.labels = np.full(len(rows), NONE, np.int64)
        self._rows, self._units, self._seed = rows, units, seed
        self._features = _kernel_features(rows, seed)
        size = self._features.shape[1]
        self._products = _ALPHA * np.eye(size)
        self._sums = np.zeros((0, size))  # of the features of each class
        self._counts = np.zeros(0, np.int64)
        self._root: Floats | None = None
        self._scores: npt.NDArray[np.float32] | None = None

    def learn(self, places: Places, labels: Places) -> None:
        """Learn, change or, with `NONE`, forget the labels of some images, all different."""
        most = int(labels.max(initial=NONE)) + 1
        if (more := most - len(self._sums)) > 0:
            self._sums = np.pad(self._sums, ((0, more), (0, 0)))
            self._counts = np.pad(self._counts, (0, more))
        for sign, given in ((-1, self.labels[places]), (1, labels)):
            known = given != NONE
            features = self._features[places[known]].astype(np.float64)
            self._products += sign * (features.T @ features)
            np.add.at(self._sums, given[known], sign * features)
            np.add.at(self._counts, given[known], sign)
        self.labels[places] = labels
        self._root = self._scores = None

    @property
    def classes(self) -> Places:
        """The classes that have a labelled image."""
        return np.flatnonzero(self._counts)

    def scores(self) -> npt.NDArray[np.float32]:
        """Give each image's score for each of `classes`: about 1 for its own, 0 for others."""
        if self._scores is None:
            weights, shares = self._solved()
            self._scores = self._features @ weights.astype(np.float32) + shares.astype(np.float32)
        return self._scores

    def predicted(self) -> Places:
        """Give the class that each image most probably has."""
        predicted: Places = self.classes[self.scores().argmax(axis=1)]
        return predicted

    def unsure(self, places: Places, count: int) -> Places:
        """Give those of some images that it is least sure of, the least sure first.

        While there is one class only, these are the images least like those that are labelled,
        of 2,000 that are drawn.
        """
        if len(self.classes) > 1:
            best = -np.partition(-self.scores()[places], 1, axis=1)[:, :2]
            margins = best[:, 0] - best[:, 1]
        else:
            places = np.random.default_rng(self._seed).permutation(places)[:_MOST_HELD_OUT]
            margins = -(self._whitened(places) ** 2).sum(axis=0)
        count = min(count, len(places))
        nearest = np.argpartition(margins, count - 1)[:count] if count else places[:0]
        order = np.lexsort((nearest, margins[nearest]))
        least_sure: Places = places[nearest[order]]
        return least_sure

    def typical(self, places: Places, count: int) -> Places:
        """Give the images in the middle of as many clusters, the largest cluster first."""
        from sklearn.cluster import KMeans

        rng = np.random.default_rng(self._seed)
        drawn = np.sort(rng.permutation(places)[:_MOST_CLUSTERED])
        count = min(count, len(np.unique(self._rows[drawn], axis=0)))
        clusters = KMeans(count, n_init=1, random_state=self._seed).fit(self._rows[drawn])
        middles = clusters.transform(self._rows[drawn]).argmin(axis=0)
        sizes = np.bincount(clusters.labels_, minlength=count)
        typical: Places = drawn[middles[np.argsort(-sizes, kind="stable")]]
        return typical

    def held_out(self) -> tuple[Places, Places]:
        """Predict labelled images, each by a classifier that did not learn from its unit.

        Exact, but for the shares of the classes: of a ridge regression, the residuals without some
        images follow from those with them.
        Of more than 2,000 labelled images, units that have so many in all are drawn.

        Returns
        -------
        places : ndarray of int64
            The images.
        predicted : ndarray of int64
            Their classes.
        """
        labelled = np.flatnonzero(self.labels != NONE)
        units = np.random.default_rng(self._seed).permutation(np.unique(self._units[labelled]))
        if len(labelled) > _MOST_HELD_OUT:
            units = units[:_MOST_HELD_OUT]
        places = labelled[np.isin(self._units[labelled], units)]
        truth = (self.labels[places, None] == self.classes).astype(np.float64)
        errors = truth - self.scores()[places]
        whitened = self._whitened(places)
        order = np.argsort(self._units[places], kind="stable")
        starts = np.flatnonzero(np.diff(self._units[places][order])) + 1
        for unit in np.split(order, starts):
            own = whitened[:, unit]
            errors[unit] = np.linalg.solve(np.eye(len(unit)) - own.T @ own, errors[unit])
        return places, self.classes[(truth - errors).argmax(axis=1)]

    def _solved(self) -> tuple[Floats, Floats]:
        """Return weights (m, k) and the share of each class in the labels, for `classes`."""
        from scipy.linalg import cho_solve

        known = self.classes
        shares = self._counts[known] / self._counts.sum()
        targets = self._sums[known] - shares[:, None] * self._sums.sum(axis=0)
        return cho_solve((self._factor(), True), targets.T, check_finite=False), shares

    def _factor(self) -> Floats:
        from scipy.linalg import cholesky

        if self._root is None:
            self._root = cholesky(self._products, lower=True, check_finite=False)
        return self._root

    def _whitened(self, places: Places) -> Floats:
        """Give columns whose inner products tell how much some images determine each other."""
        from scipy.linalg import solve_triangular

        features = self._features[places].T.astype(np.float64)
        whitened: Floats = solve_triangular(
            self._factor(), features, lower=True, check_finite=False
        )
        return whitened


def _kernel_features(rows: Reduced, seed: int) -> npt.NDArray[np.float32]:
    """Map rows to features whose inner products are nearly those of a Gaussian kernel."""
    squares = np.einsum("ij,ij->i", rows, rows)
    width = 2 * float(squares.mean() - (rows.mean(axis=0) ** 2).sum()) or 1.0
    drawn = np.sort(np.random.default_rng(seed).permutation(len(rows))[:_LANDMARKS])
    landmarks = rows[drawn]

    def kernel(block: Reduced) -> npt.NDArray[np.float32]:
        distances = -2 * block @ landmarks.T + squares[drawn]
        distances += np.einsum("ij,ij->i", block, block)[:, None]
        np.maximum(distances, 0, out=distances)
        distances /= -width
        values: npt.NDArray[np.float32] = np.exp(distances, out=distances)
        return values

    values, vectors = np.linalg.eigh(kernel(landmarks).astype(np.float64))
    kept = values > 1e-6 * values[-1]
    roots = (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)
    features = np.empty((len(rows), roots.shape[1]), np.float32)
    for start in range(0, len(rows), _BLOCK):
        features[start : start + _BLOCK] = kernel(rows[start : start + _BLOCK]) @ roots
    return features
