"""Images that are unusual for their class."""

import numpy as np
from synthetic import changed, photographs

from pipeline.analysis.neighbours import find_neighbours
from pipeline.analysis.outliers import find_outliers


def outliers(rows, labels):
    [nearest] = find_neighbours(rows, 10, among=[labels])
    return find_outliers(labels, nearest)


def test_a_picture_of_another_class_is_an_outlier_and_the_others_are_not():
    base = photographs(2)
    rows = np.stack([changed(base[place % 2], 0.05, seed=place) for place in range(80)])
    rows[33] = rows[32]
    [outlier] = outliers(rows, np.arange(80) % 2)
    assert (outlier.place, outlier.label) == (33, 1)
    assert outlier.score > 10


def test_where_all_images_are_equal_there_are_no_outliers():
    assert outliers(np.ones((20, 3), np.float32), np.zeros(20, np.int64)) == ()
