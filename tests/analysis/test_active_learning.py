"""A classifier that learns label by label is the one that would learn all at once."""

import numpy as np
import pytest

from pipeline.analysis.active_learning import NONE, ActiveLearner


def blobs(count, classes=3, dimensions=8, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    rows = rng.normal(0, spread, (count, dimensions)) + 2 * np.eye(dimensions)[labels]
    return rows.astype(np.float32), labels


def learner_of(rows, **options):
    return ActiveLearner(rows, np.arange(len(rows)), **options)


def test_learning_label_by_label_changing_and_forgetting_is_learning_at_once():
    rows, labels = blobs(200)
    step_by_step, at_once = learner_of(rows), learner_of(rows)
    for place in range(60):
        wrong = (labels[[place]] + 1) % 4
        step_by_step.learn(np.array([place]), wrong)
        step_by_step.learn(np.array([place]), labels[[place]])
    step_by_step.learn(np.array([7]), np.array([NONE]))
    places = np.delete(np.arange(60), 7)
    at_once.learn(places, labels[places])
    assert step_by_step.classes.tolist() == at_once.classes.tolist()
    np.testing.assert_allclose(step_by_step.scores(), at_once.scores(), atol=1e-5)
    assert np.array_equal(step_by_step.labels, at_once.labels)


@pytest.mark.parametrize("size", [1, 3])
def test_what_is_held_out_is_predicted_as_by_a_classifier_that_never_saw_its_unit(size):
    rows, labels = blobs(90, spread=1.5)
    units = np.arange(90) // size
    learner = ActiveLearner(rows, units)
    learner.learn(np.arange(60), labels[:60])
    places, predicted = learner.held_out()
    assert sorted(places) == list(range(60))
    wrong = 0
    for unit in np.unique(units[:60]):
        others = np.flatnonzero(units[:60] != unit)
        without = ActiveLearner(rows, units)
        without.learn(others, labels[others])
        own = np.isin(places, np.flatnonzero(units == unit))
        wrong += np.count_nonzero(without.predicted()[places[own]] != predicted[own])
    assert wrong <= 2  # the classes' shares are those of all labels


def test_it_is_the_least_sure_between_classes():
    line = np.linspace(-1, 1, 101, dtype=np.float32)[:, None]
    learner = learner_of(line)
    learner.learn(np.array([0, 100]), np.array([0, 1]))
    assert 50 in learner.unsure(np.arange(1, 100), 3)
    assert abs(learner.unsure(np.arange(1, 100), 1)[0] - 50) < 5


def test_with_one_class_it_asks_for_what_is_least_like_the_labelled():
    rows = np.zeros((40, 4), np.float32)
    rows[:39] += np.random.default_rng(0).normal(0, 0.01, (39, 4))
    rows[39] = 5
    learner = learner_of(rows)
    learner.learn(np.array([0]), np.array([0]))
    assert learner.unsure(np.arange(1, 40), 1).tolist() == [39]


def test_typical_images_are_of_all_clusters_and_never_more_than_differ():
    rows, labels = blobs(300, spread=0.1)
    assert sorted(labels[learner_of(rows).typical(np.arange(300), 3)]) == [0, 1, 2]
    same = np.ones((10, 3), np.float32)
    assert len(learner_of(same).typical(np.arange(10), 5)) == 1


def test_the_same_seed_gives_the_same_order():
    rows, labels = blobs(300)
    orders = []
    for _ in range(2):
        learner = learner_of(rows, seed=3)
        typical = learner.typical(np.arange(300), 10)
        learner.learn(typical, labels[typical])
        orders.append([*typical, *learner.unsure(np.setdiff1d(np.arange(300), typical), 20)])
    assert orders[0] == orders[1]
