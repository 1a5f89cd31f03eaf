"""The most similar rows of each row, with memory that grows with n and not with n squared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError

_NEAREST = 3

Rows = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Neighbour:
    """An image that was learned from, and its similarity (cosine of the features)."""

    place: int
    similarity: float


def nearest_images(
    rows: Rows, places: Places, learned: Places, features: Iterable[tuple[Rows, Places]]
) -> tuple[tuple[Neighbour, ...], ...]:
    """Find the most similar images that were learned from, without a copy of all features."""
    seen = _flat(rows)
    lengths = _norms(seen)
    similarities = np.full((len(places), _NEAREST), -np.inf)
    found = np.zeros(similarities.shape, np.int64)
    for others, at in features:
        flat = _flat(others)
        similar = seen @ flat.T / _norms(flat) / lengths[:, None]
        similar[(places[:, None] == at) | ~np.isin(at, learned)] = -np.inf
        similarities = np.concatenate([similarities, similar], axis=1)
        found = np.concatenate([found, np.broadcast_to(at, similar.shape)], axis=1)
        best = np.argsort(-similarities, axis=1, kind="stable")[:, :_NEAREST]
        similarities = np.take_along_axis(similarities, best, axis=1)
        found = np.take_along_axis(found, best, axis=1)
    return tuple(
        tuple(
            Neighbour(int(place), min(float(similarity), 1.0))
            for place, similarity in zip(*of_image)
            if similarity > -np.inf
        )
        for of_image in zip(found, similarities)
    )


def _flat(rows: Rows) -> Rows:
    return rows.reshape(len(rows), -1)


def _norms(flat: Rows) -> Rows:
    lengths: Rows = np.sqrt(np.einsum("ij,ij->i", flat, flat))
    lengths[lengths == 0] = 1
    return lengths


_BLOCK = 1024  # a block of similarities is 4 MB, its two blocks of rows 34 MB each at d = 8192


@dataclass(frozen=True)
class Neighbours:
    """For each row the rows most similar to it, the nearest first.

    Attributes
    ----------
    places : ndarray of int64, shape (n, k)
        Which rows; -1 where there are no more.
    similarities : ndarray of float32, shape (n, k)
        Cosine, -1 to 1, of rows as they are: of features that are not negative, 0 to 1. -inf where
        there are no more.
    """

    places: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float32]

    @property
    def distances(self) -> npt.NDArray[np.float32]:
        """1 - cosine: 0 for the same direction, inf where there are no more."""
        return np.maximum(1 - self.similarities, 0)


def find_neighbours(
    rows: Rows,
    k: int,
    *,
    among: Sequence[npt.NDArray[np.int64] | None] = (None,),
    queries: Rows | None = None,
) -> list[Neighbours]:
    """Find each row's most similar rows.

    Block by block with BLAS: beside `rows` there are never more than the results and a few blocks
    in memory: 50 MB for 12,000 rows of d = 8192, which took 8 s on two cores. The work is
    n * n * d / 2 multiplications, so 100,000 such rows would take about 10 minutes.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, ...)
        Features; a row is flattened. A row of zeros is like no other.
    k : int
        How many neighbours are wanted.
    among : sequence of ndarray of int64, shape (n,), or None
        Among which rows: those with the same number there, or, for None, all. For each of these
        there is a result, and all are made in one pass.
    queries : ndarray of float32, shape (n, ...), optional
        Rows to be compared with `rows` in place of themselves; query i is not compared with row i,
        as row i is not with itself. Twice the work.

    Raises
    ------
    PipelineError
        A row holds NaN or infinity.
    """
    asked = rows if queries is None else queries
    lengths = _lengths(rows)
    asked_lengths = lengths if queries is None else _lengths(queries)
    results = [(_Best(len(rows), k), classes) for classes in among]
    starts = range(0, len(rows), _BLOCK)
    for top in starts:
        here = slice(top, top + _BLOCK)
        left = _unit(asked[here], asked_lengths[here])
        # A row is as similar to another as that one to it: half of the blocks tell the other half.
        for start in range(top, len(rows), _BLOCK) if queries is None else starts:
            there = slice(start, start + _BLOCK)
            similarities = left @ _unit(rows[there], lengths[there]).T
            if start == top:
                np.fill_diagonal(similarities, -np.inf)
            for best, classes in results:
                block = similarities
                if classes is not None:
                    same = classes[here, None] == classes[None, there]
                    block = np.where(same, similarities, np.float32(-np.inf))
                best.merge(here, start, block)
                if queries is None and start != top:
                    best.merge(there, top, block.T)
    return [best.neighbours() for best, _ in results]


class _Best:
    """The k largest similarities of each row so far."""

    def __init__(self, count: int, k: int) -> None:
        self._k = k
        self._places = np.full((count, k), -1, np.int64)
        self._similarities = np.full((count, k), -np.inf, np.float32)

    def merge(self, here: slice, start: int, similarities: npt.NDArray[np.float32]) -> None:
        """Take in the similarities of some rows to the rows from `start` on."""
        # With more and more rows seen, fewer and fewer have one among these that counts.
        news = np.flatnonzero(similarities.max(axis=1) > self._similarities[here].min(axis=1))
        rows = np.arange(here.start, here.start + len(similarities))[news]
        some = similarities[news]
        best = np.argpartition(some, -min(self._k, some.shape[1]), axis=1)[:, -self._k :]
        values = np.concatenate(
            [self._similarities[rows], np.take_along_axis(some, best, axis=1)], axis=1
        )
        places = np.concatenate([self._places[rows], start + best], axis=1)
        chosen = np.argpartition(values, -self._k, axis=1)[:, -self._k :]
        self._similarities[rows] = np.take_along_axis(values, chosen, axis=1)
        self._places[rows] = np.take_along_axis(places, chosen, axis=1)

    def neighbours(self) -> Neighbours:
        """Sort what there is."""
        order = np.argsort(-self._similarities, axis=1, kind="stable")
        similarities = np.take_along_axis(self._similarities, order, axis=1)
        places = np.take_along_axis(self._places, order, axis=1)
        places[np.isneginf(similarities)] = -1
        return Neighbours(places, similarities)


def _lengths(rows: Rows) -> npt.NDArray[np.float32]:
    lengths = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        lengths[start : start + _BLOCK] = np.linalg.norm(block.reshape(len(block), -1), axis=1)
    bad = np.flatnonzero(~np.isfinite(lengths))
    if len(bad):
        raise PipelineError(
            f"{len(bad)} of {len(rows)} rows of features are not finite; the first is {bad[0]}.",
            expected="numbers.",
            fix="make these features again.",
        )
    return lengths


def _unit(block: Rows, lengths: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    flat = block.reshape(len(block), -1)
    return flat / np.where(lengths > 0, lengths, 1)[:, None]
