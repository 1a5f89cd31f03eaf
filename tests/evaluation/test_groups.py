"""Which images belong together."""

import hashlib
from pathlib import Path

import numpy as np

from pipeline.data.dataset import Dataset
from pipeline.data.targets import Targets
from pipeline.evaluation.groups import find_units, join_groups


def dataset(contents, groups=()):
    """Make a data set of files with these contents."""
    return Dataset(
        name="photos",
        paths=[Path(f"{number}.png") for number in range(len(contents))],
        digests=[hashlib.sha256(content.encode()).digest() for content in contents],
        targets=Targets(np.arange(len(contents)) % 2, ("blue", "red")),
        splits=np.repeat("train", len(contents)),
        groups=groups,
    )


def together(units):
    """List the images of each unit."""
    return sorted(np.flatnonzero(units == unit).tolist() for unit in np.unique(units))


def test_copies_of_a_file_belong_together():
    assert together(find_units(dataset("abcbdb"))) == [[0], [1, 3, 5], [2], [4]]


def test_images_of_a_group_belong_together_and_copies_of_them_join_the_group():
    data = dataset("abcdefgbhi", groups=("a", "a", "", "", "b", "b", "b", "", "", ""))
    assert together(find_units(data)) == [[0, 1, 7], [2], [3], [4, 5, 6], [8], [9]]


def test_groupings_are_joined():
    joined = join_groups(np.array([0, 0, 1, 2, 3, 4]), np.array([7, 8, 8, 9, 6, 9]))
    assert together(joined) == [[0, 1, 2], [3, 5], [4]]
