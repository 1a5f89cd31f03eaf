"""Who comes into which fold, and what cannot be dealt out."""

import dataclasses

import numpy as np
import pytest

from pipeline.classification.task import find_units
from pipeline.errors import DataError, PipelineError
from pipeline.evaluation import protocol
from pipeline.evaluation.folds import deal_folds, search_folds
from pipeline.evaluation.protocol import Protocol

CLASSES = ("blue", "red")


def deal(labels, units=None, *, folds=5, seed=0, nested=False):
    labels = np.asarray(labels)
    units = np.arange(len(labels)) if units is None else np.asarray(units)
    return deal_folds(labels, units, CLASSES, folds=folds, seed=seed, nested=nested)


def test_every_image_is_in_one_fold_and_every_fold_has_its_share_of_every_class():
    labels = np.arange(100) % 4 == 0
    folds = deal(labels.astype(int))
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(100))
    assert [labels[fold].sum() for fold in folds] == [5] * 5
    assert [len(fold) for fold in folds] == [20] * 5


def test_what_belongs_together_is_never_parted():
    rng = np.random.default_rng(0)
    units = np.sort(rng.integers(40, size=200))
    labels = rng.integers(2, size=200)
    folds = deal(labels, units, folds=4)
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(200))
    for one in range(4):
        for other in range(one):
            assert not set(units[folds[one]]) & set(units[folds[other]])
    assert all(0.3 < labels[fold].mean() < 0.7 for fold in folds)


def test_the_seed_decides_who_comes_where():
    labels = np.arange(60) % 2
    first, again, other = (deal(labels, seed=seed) for seed in (1, 1, 2))
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


@pytest.mark.parametrize(
    ("labels", "units", "nested", "says"),
    [
        ([0] * 20 + [1], None, True, r"(?s)the class red has one image for 5 folds.*5 or more"),
        ([0] * 20 + [1] * 4, None, False, "the class red has 4 images for 5 folds"),
        ([0] * 20 + [1] * 6, [*range(20), *[20] * 6], False, "red has one image for 5 folds"),
    ],
)
def test_a_class_too_small_for_the_folds_is_refused_with_its_count(labels, units, nested, says):
    with pytest.raises(DataError, match=says):
        deal(labels, units, nested=nested)


def test_groups_that_leave_a_class_nothing_to_learn_from_are_refused():
    """All but a few images of the class are in one group, so in one fold."""
    units = [*range(30), *[30] * 20, 31, 32]
    labels = [0] * 30 + [1] * 22
    assert deal(labels, units, folds=3)
    units[-1] = 31
    with pytest.raises(DataError, match=r"(?s)the class red.*3 or more; groups"):
        deal(labels, units, folds=3)


def test_a_search_takes_fewer_folds_where_a_class_is_small():
    labels = np.array([0] * 30 + [1] * 3)
    assert len(search_folds(labels, np.arange(33), CLASSES, seed=0)) == 3
    assert len(search_folds(np.arange(60) % 2, np.arange(60), CLASSES, seed=0)) == 5
    with pytest.raises(
        DataError, match=r"(?s)the class red has 2 images for a search.*leave --search away"
    ):
        search_folds(labels[:-1], np.arange(32), CLASSES, seed=0)


def test_images_of_a_group_and_copies_belong_together(place):
    data = place.data(counts=(6, 2, 2))
    digests = list(data.digests)
    digests[7] = digests[1]
    data = dataclasses.replace(data, digests=tuple(digests))
    assert len(set(find_units(data))) == 9
    assert find_units(data)[7] == find_units(data)[1]
    grouped = dataclasses.replace(data, groups=("a", "a", "", "", "b", "b", "b", "", "", ""))
    units = find_units(grouped)
    # The copy joins the group of the image that it is a copy of.
    assert len({*units[[0, 1, 7]]}) == len({*units[[4, 5, 6]]}) == 1
    assert len(set(units)) == 6


def test_images_that_are_nearly_the_same_belong_together_where_features_are_given(
    place, monkeypatch
):
    data = place.data(counts=(24, 8, 8))
    rows = np.random.default_rng(0).exponential(size=(40, 64)).astype(np.float32)
    rows[30] = 1.001 * rows[3]
    units = find_units(data, rows)
    assert units[30] == units[3]
    assert len(set(units)) == 39
    assert len(set(find_units(data))) == 40
    rows[10:21] = rows[10]  # so many are no copies, but much alike
    assert len(set(find_units(data, rows))) == 39
    monkeypatch.setattr(protocol, "QUICK", 39)  # too many to compare
    assert len(set(find_units(data, rows))) == 40


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cv": 2}, r"(?s)2 folds are too few.*3 or more"),
        ({"repeats": 2}, r"(?s)2 repeats.*--cv"),
        ({"cv": 5, "repeats": 0}, "0 repeats"),
        ({"threshold": "best"}, "no aim"),
        ({"positive": "red"}, "for a threshold only"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, says):
    with pytest.raises(PipelineError, match=says):
        Protocol(**settings)


def test_a_threshold_is_for_two_classes_of_which_one_is_positive():
    protocol = Protocol(threshold="f1")
    assert protocol.positive_of(CLASSES) == 1
    assert Protocol(threshold="f1", positive="blue").positive_of(CLASSES) == 0
    with pytest.raises(PipelineError, match="there are 3 classes"):
        protocol.positive_of(("a", "b", "c"))
    with pytest.raises(PipelineError, match=r"(?s)no class 'green'.*blue, red"):
        Protocol(threshold="f1", positive="green").positive_of(CLASSES)
