"""The most similar rows, compared with sorting all similarities."""

import tracemalloc

import numpy as np
import pytest
from synthetic import photographs

from pipeline import PipelineError
from pipeline.analysis.neighbours import few_places, find_neighbours, most_similar


def random_rows(count, seed=0):
    return np.random.default_rng(seed).exponential(size=(count, 2, 8)).astype(np.float32)


def cosines(rows, others):
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, others)]
    return units[0] @ units[1].T


def assert_nearest(neighbours, similarities, k):
    expected = -np.sort(-similarities, axis=1)[:, :k]
    np.testing.assert_allclose(neighbours.similarities, expected, rtol=1e-5)
    at_places = np.take_along_axis(similarities, neighbours.places, axis=1)
    np.testing.assert_allclose(at_places, expected, rtol=1e-5)


def test_neighbours_of_several_blocks_are_those_of_sorting_all_similarities():
    rows, labels = random_rows(2500), np.arange(2500) % 3
    overall, within_class = find_neighbours(rows, 5, among=(None, labels))
    similarities = cosines(rows.reshape(2500, -1), rows.reshape(2500, -1))
    np.fill_diagonal(similarities, -np.inf)
    assert_nearest(overall, similarities, 5)
    same = np.where(labels[:, None] == labels, similarities, -np.inf)
    assert_nearest(within_class, same, 5)


def test_rows_of_many_places_are_averaged_over_parts_of_the_picture():
    rows = np.random.default_rng(0).random((3, 7, 9, 600)).astype(np.float32)
    parts = few_places(rows)
    assert parts.shape == (3, 4, 4, 600)
    np.testing.assert_allclose(parts[:, 0, 0], rows[:, :1, :2].mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(parts[:, 3, 3], rows[:, 5:, 6:].mean(axis=(1, 2)), rtol=1e-5)
    short = rows[..., :500]
    assert few_places(short) is short


@pytest.mark.parametrize("blocks", [1, 7])
def test_the_most_similar_rows_are_found_whatever_the_blocks(blocks):
    rows, queries = random_rows(3000), random_rows(20, seed=1)
    order = np.random.default_rng(2).permutation(3000)
    parts = ((rows[part], part) for part in np.array_split(order, blocks))
    similarities = cosines(queries.reshape(20, -1), rows.reshape(3000, -1))
    assert_nearest(most_similar(queries, parts, 6), similarities, 6)


def test_with_fewer_rows_than_asked_for_places_are_minus_one():
    rows = random_rows(3)
    nearest = most_similar(random_rows(2, seed=1), [(rows, np.array([7, 8, 9]))], 5)
    assert (np.sort(nearest.places, axis=1) == [-1, -1, 7, 8, 9]).all()
    assert (nearest.places[:, 3:] == -1).all()


def test_no_rows_have_no_neighbours():
    nearest = most_similar(random_rows(2), [], 3)
    assert (nearest.places == -1).all()
    assert np.isinf(nearest.distances).all()


def test_a_row_of_zeros_is_similar_to_no_other():
    rows = random_rows(5)
    rows[2] = 0
    nearest = most_similar(rows[2:3], [(rows, np.arange(5))], 5)
    assert (nearest.similarities == 0).all()


def test_a_class_with_fewer_rows_than_asked_for_has_places_of_minus_one():
    labels = np.array([0] * 600 + [1] * 3 + [2])
    [nearest] = find_neighbours(photographs(604), 5, among=[labels])
    assert (nearest.places >= 0).sum(axis=1).tolist() == [5] * 600 + [2] * 3 + [0]
    assert np.isinf(nearest.distances[603]).all()


def test_memory_does_not_grow_with_the_square_of_the_number_of_rows():
    rows = np.random.default_rng(0).random((5000, 8), np.float32)
    tracemalloc.start()
    find_neighbours(rows, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5000 * 5000 * 4 / 2


def test_features_that_are_not_finite_are_refused_with_their_position():
    rows = photographs(30)
    rows[17, 2, 2, 2] = np.nan
    with pytest.raises(PipelineError, match=r"1 of 30 rows .* the first is 17"):
        find_neighbours(rows, 3)
