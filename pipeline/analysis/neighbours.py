"""The most similar rows, by the cosine of features, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError

_BLOCK = 1024  # rows; at d = 8192 a block is 34 MB, and a block of similarities 4 MB
_PARTS = 4
_MOST_VALUES = 32_768  # of a row

Rows = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Neighbours:
    """For each row the rows most similar to it, the most similar first.

    Attributes
    ----------
    places : ndarray of int64, shape (n, k)
        Their positions; -1 where there are fewer than k.
    similarities : ndarray of float32, shape (n, k)
        Cosine of the features, -1 to 1 (0 to 1 for features that are not negative); -inf where
        there are fewer than k.
    """

    places: Places
    similarities: npt.NDArray[np.float32]

    @property
    def distances(self) -> npt.NDArray[np.float32]:
        """1 - cosine: 0 for the same direction, inf where there are fewer than k."""
        return np.maximum(1 - self.similarities, 0)


def few_places(rows: Rows) -> Rows:
    """Average rows (n, height, width, channels) of over 32,768 values over 4 x 4 parts.

    What is found stays the same, in a fraction of the time; without places, as means over a whole
    picture, different pictures would be too similar.
    """
    if rows.ndim != 4 or rows[0].size <= _MOST_VALUES or min(rows.shape[1:3]) <= _PARTS:
        return rows
    parts = np.empty((len(rows), _PARTS, _PARTS, rows.shape[3]), np.float32)
    tops, lefts = (np.arange(_PARTS + 1) * size // _PARTS for size in rows.shape[1:3])
    for i, j in np.ndindex(_PARTS, _PARTS):
        part = rows[:, tops[i] : tops[i + 1], lefts[j] : lefts[j + 1]]
        np.mean(part, axis=(1, 2), out=parts[:, i, j])
    return parts


def most_similar(queries: Rows, blocks: Iterable[tuple[Rows, Places]], k: int) -> Neighbours:
    """Find the rows most similar to each query, among rows that come in blocks.

    Exact; the rows need not fit into memory together.
    """
    units = _unit(queries, _lengths(queries))
    best = _Best(len(queries), k)
    everyone = slice(0, len(queries))
    for rows, places in blocks:
        lengths = _lengths(rows)
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            best.merge(everyone, places[part], units @ _flat(rows[part]).T / lengths[part])
    return best.neighbours()


def find_neighbours(
    rows: Rows, k: int, *, among: Sequence[Places | None] = (None,)
) -> list[Neighbours]:
    """Find the rows most similar to each row.

    Beside `rows`, only the results and a few blocks are in memory: 50 MB for 12,000 rows of
    d = 8192, which took 8 s on two cores. It takes n * n * d / 2 multiplications, so 100,000 such
    rows would take about 10 minutes.
    """
    lengths = _lengths(rows)
    places = np.arange(len(rows))
    results = [(_Best(len(rows), k), numbers) for numbers in among]
    for top in range(0, len(rows), _BLOCK):
        upper = slice(top, top + _BLOCK)
        left = _unit(rows[upper], lengths[upper])
        for start in range(top, len(rows), _BLOCK):  # similarity is symmetric: half the blocks do
            lower = slice(start, start + _BLOCK)
            similarities = left @ _unit(rows[lower], lengths[lower]).T
            if start == top:
                np.fill_diagonal(similarities, -np.inf)
            for best, numbers in results:
                block = similarities
                if numbers is not None:
                    same = numbers[upper, None] == numbers[None, lower]
                    block = np.where(same, similarities, np.float32(-np.inf))
                best.merge(upper, places[lower], block)
                if start != top:
                    best.merge(lower, places[upper], block.T)
    return [best.neighbours() for best, _ in results]


def unit_rows(rows: Rows) -> Rows:
    """Flatten rows and bring them to length one; those of zeros stay as they are."""
    return _unit(rows, _lengths(rows))


class _Best:
    """The k largest similarities of each query so far."""

    def __init__(self, count: int, k: int) -> None:
        self._k = k
        self._places = np.full((count, k), -1, np.int64)
        self._similarities = np.full((count, k), -np.inf, np.float32)

    def merge(self, queries: slice, places: Places, similarities: Rows) -> None:
        """Take in the similarities of some queries to the rows at some places."""
        # The more rows were seen, the fewer queries have a better one among these.
        better = np.flatnonzero(similarities.max(axis=1) > self._similarities[queries].min(axis=1))
        rows = np.arange(queries.start, queries.start + len(similarities))[better]
        values = similarities[better]
        best = np.argpartition(values, -min(self._k, values.shape[1]), axis=1)[:, -self._k :]
        values = np.concatenate(
            [self._similarities[rows], np.take_along_axis(values, best, axis=1)], axis=1
        )
        merged = np.concatenate([self._places[rows], places[best]], axis=1)
        kept = np.argpartition(values, -self._k, axis=1)[:, -self._k :]
        self._similarities[rows] = np.take_along_axis(values, kept, axis=1)
        self._places[rows] = np.take_along_axis(merged, kept, axis=1)

    def neighbours(self) -> Neighbours:
        """Sort the best of each query."""
        order = np.argsort(-self._similarities, axis=1, kind="stable")
        similarities = np.take_along_axis(self._similarities, order, axis=1)
        places = np.take_along_axis(self._places, order, axis=1)
        places[np.isneginf(similarities)] = -1
        return Neighbours(places, similarities)


def _lengths(rows: Rows) -> npt.NDArray[np.float32]:
    """Give the length of each row, 1 for a row of zeros."""
    lengths = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        lengths[block] = np.linalg.norm(_flat(rows[block]), axis=1)
    bad = np.flatnonzero(~np.isfinite(lengths))
    if len(bad):
        raise PipelineError(
            f"{len(bad)} of {len(rows)} rows of features are not finite; the first is {bad[0]}",
            expected="numbers",
            fix="compute these features again",
        )
    lengths[lengths == 0] = 1
    return lengths


def _unit(rows: Rows, lengths: npt.NDArray[np.float32]) -> Rows:
    return _flat(rows) / lengths[:, None]


def _flat(rows: Rows) -> Rows:
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))
