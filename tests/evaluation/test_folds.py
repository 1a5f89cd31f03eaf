"""Which images come into which fold, and when there are too few."""

import itertools

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.evaluation.folds import deal_folds, search_folds

CLASSES = ("blue", "red")


def deal(labels, units=None, *, folds=5, seed=0, nested=False):
    labels = np.asarray(labels)
    units = np.arange(len(labels)) if units is None else np.asarray(units)
    return deal_folds(labels, units, CLASSES, folds=folds, seed=seed, nested=nested)


def test_every_image_is_in_one_fold_and_every_fold_has_the_same_share_of_each_class():
    labels = np.arange(100) % 4 == 0
    folds = deal(labels.astype(int))
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(100))
    assert [labels[fold].sum() for fold in folds] == [5] * 5
    assert [len(fold) for fold in folds] == [20] * 5


def test_images_that_belong_together_come_into_the_same_fold():
    rng = np.random.default_rng(0)
    units = np.sort(rng.integers(40, size=200))
    labels = rng.integers(2, size=200)
    folds = deal(labels, units, folds=4)
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(200))
    for first, second in itertools.combinations(folds, 2):
        assert not set(units[first]) & set(units[second])
    assert all(0.3 < labels[fold].mean() < 0.7 for fold in folds)


def test_another_seed_gives_other_folds():
    labels = np.arange(60) % 2
    first, again, other = (deal(labels, seed=seed) for seed in (1, 1, 2))
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


@pytest.mark.parametrize(
    ("labels", "units", "nested", "message"),
    [
        (
            [0] * 20 + [1],
            None,
            True,
            r"(?s)class red has 1 image, too few for 5 folds.*5 or more",
        ),
        ([0] * 20 + [1] * 4, None, False, "the class red has 4 images, too few for 5 folds"),
        (
            [0] * 20 + [1] * 6,
            [*range(20), *[20] * 6],
            False,
            "has 1 image, too few for 5 folds",
        ),
    ],
)
def test_a_class_too_small_for_the_folds_is_refused_with_its_count(labels, units, nested, message):
    with pytest.raises(DataError, match=message):
        deal(labels, units, nested=nested)


def test_groups_that_leave_a_class_nothing_to_learn_from_are_refused():
    # All but a few images of the class are in one group, so in one fold.
    units = [*range(30), *[30] * 20, 31, 32]
    labels = [0] * 30 + [1] * 22
    assert deal(labels, units, folds=3)
    units[-1] = 31
    with pytest.raises(DataError, match=r"(?s)the class red.*3 or more; a group"):
        deal(labels, units, folds=3)


def test_a_search_uses_fewer_folds_if_a_class_is_small():
    labels = np.array([0] * 30 + [1] * 3)
    assert len(search_folds(labels, np.arange(33), CLASSES, seed=0)) == 3
    assert len(search_folds(np.arange(60) % 2, np.arange(60), CLASSES, seed=0)) == 5
    with pytest.raises(
        DataError, match=r"(?s)the class red has 2 images, too few for a search.*leave out --search"
    ):
        search_folds(labels[:-1], np.arange(32), CLASSES, seed=0)


@pytest.mark.parametrize(
    ("count", "folds", "fewer_help"), [(4, 5, True), (3, 5, False), (4, 6, True), (2, 3, False)]
)
def test_fewer_folds_are_advised_only_where_they_would_help(count, folds, fewer_help):
    with pytest.raises(DataError) as refused:
        deal([0] * 20 + [1] * count, folds=folds, nested=True)
    assert ("ask for fewer folds" in refused.value.fix) == fewer_help
    assert "add images of that class" in refused.value.fix
