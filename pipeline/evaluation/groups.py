"""Which images belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.data.dataset import Dataset

Places = npt.NDArray[np.int64]


def number_groups(names: Sequence[str]) -> Places:
    """Give each image the number of its group; one without a group, ``""``, gets its own."""
    number = {name: place for place, name in enumerate(names)}
    return np.array([number[name] if name else at for at, name in enumerate(names)], np.int64)


def join_groups(*groupings: Places) -> Places:
    """Put together what is together in any of several groupings, each of shape (n,)."""
    count = len(groupings[0])
    edges = []
    for groups in groupings:
        _, first, unit = np.unique(groups, return_index=True, return_inverse=True)
        edges.append(np.stack([first[unit], np.arange(count)]))
    return connect(np.concatenate(edges, axis=1), count)


def find_units(dataset: Dataset) -> Places:
    """Give copies of one file, and images of one group, the same number; shape (n,)."""
    number = {digest: place for place, digest in enumerate(dataset.digests)}
    files = np.array([number[digest] for digest in dataset.digests], np.int64)
    return join_groups(files, *([number_groups(dataset.groups)] if dataset.groups else []))


def resampled_by(dataset: Dataset, units: Places, places: Places) -> Places | None:
    """Return the groups that figures of some images are resampled by, where the user gave any."""
    return units[places] if dataset.groups else None


def connect(edges: Places, count: int) -> Places:
    """Give each of `count` nodes the number of its component; edges have the shape (2, m)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(edges.shape[1], bool), tuple(edges)), shape=(count, count))
    number: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return number.astype(np.int64)
