"""Which images belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.data.dataset import Dataset


def number_groups(names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Give a number to the group of each of n images, shape (n,); ``""`` is a group of its own."""
    number = {name: place for place, name in enumerate(names)}
    return np.array([number[name] if name else at for at, name in enumerate(names)], np.int64)


def join_groups(*groupings: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Group what is together in any of several groupings, each of shape (n,)."""
    count = len(groupings[0])
    edges = []
    for groups in groupings:
        _, first, unit = np.unique(groups, return_index=True, return_inverse=True)
        edges.append(np.stack([first[unit], np.arange(count)]))
    return connect(np.concatenate(edges, axis=1), count)


def find_units(dataset: Dataset) -> npt.NDArray[np.int64]:
    """Number the images, shape (n,): copies of a file, and images of a group, share a number."""
    number = {digest: place for place, digest in enumerate(dataset.digests)}
    of_bytes = np.array([number[digest] for digest in dataset.digests], np.int64)
    if not dataset.groups:
        return join_groups(of_bytes)
    return join_groups(of_bytes, number_groups(dataset.groups))


def connect(edges: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    graph = coo_array((np.ones(edges.shape[1], bool), tuple(edges)), shape=(count, count))
    number: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return number.astype(np.int64)
