"""Which images the folds of a task keep together."""

from pathlib import Path

import numpy as np

from pipeline.analysis.neighbours import find_neighbours
from pipeline.classification.task import find_units_by_rows
from pipeline.data.dataset import Dataset
from pipeline.data.targets import Targets


def units_of(rows):
    count = len(rows)
    dataset = Dataset(
        name="photos",
        paths=[Path(f"{number}.png") for number in range(count)],
        digests=[b"%032d" % number for number in range(count)],
        targets=Targets(np.arange(count) % 2, ("blue", "red")),
        splits=np.repeat("train", count),
    )
    return find_units_by_rows(dataset, rows, find_neighbours(rows, 10)[0])


def test_near_duplicates_belong_together():
    rows = np.random.default_rng(0).exponential(size=(40, 64)).astype(np.float32)
    rows[30] = 1.001 * rows[3]
    units = units_of(rows)
    assert units[30] == units[3]
    assert len(set(units)) == 39


def test_more_than_ten_similar_images_are_not_taken_for_copies():
    rows = np.random.default_rng(0).exponential(size=(40, 64)).astype(np.float32)
    rows[10:21] = rows[10]
    assert len(set(units_of(rows))) == 40
