"""All problems of a data set at once: found where they were planted."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic import Recorder, ends, make_dataset, photographs, splits

from pipeline import PipelineError
from pipeline.analysis import problems
from pipeline.analysis.problems import find_problems, find_problems_quickly
from pipeline.heads.registry import get_head


@pytest.fixture
def planted():
    """A data set with each kind of problem, and its rows."""
    rows, labels = photographs(240), np.arange(240) % 2
    rows[:, 0, 0, 0] += 6 * labels
    rows[[230, 231]] = rows[[10, 11]]  # copies of training images among the test images
    labels[[20, 200]] = 1 - labels[[20, 200]]
    return make_dataset(labels, splits(140, 40, 60)), rows


def test_all_planted_problems_are_found(planted):
    dataset, rows = planted
    labels = dataset.targets.labels
    found = find_problems(dataset, rows, repeats=1)
    assert ends(found.duplicates.pairs) == [(10, 230), (11, 231)]
    flat = rows.reshape(240, -1)
    predicted = get_head("logistic").build(0).fit(flat[:180], labels[:180]).predict(flat[180:])
    right = np.delete(predicted == labels[180:], [50, 51])
    assert found.leakage.total == 60
    assert found.leakage.accuracy_of_rest == right.mean() < 1
    assert {suspect.place for suspect in found.labels.suspects[:2]} == {20, 200}
    assert found.curve.points[-1].images == 144  # four fifths of the images that are not test
    assert found.summary()[0].startswith("2 of 60 test images have a duplicate")
    assert found.summary()[-1] == found.curve.answer


def test_labels_are_checked_where_every_image_is_tested_on(planted):
    dataset, rows = planted
    found = find_problems(dataset.all_in("test"), rows, repeats=0)
    assert {suspect.place for suspect in found.labels.suspects[:2]} == {20, 200}


@pytest.fixture
def fits(monkeypatch):
    """What classifiers are trained on, and predict for: they tell nothing apart."""
    fits = []
    recorder = SimpleNamespace(build=lambda seed: Recorder(fits))
    monkeypatch.setattr(problems, "get_head", lambda name: recorder)
    monkeypatch.setattr(problems, "sparse_rows", lambda rows: rows)
    return fits


def test_given_predictions_are_used_and_no_more_are_made(planted, fits):
    dataset, rows = planted
    labels = dataset.targets.labels
    predicted = np.where(dataset.splits == "test", 0, labels)
    found = find_problems(dataset, rows, predicted=predicted, repeats=0)
    assert len(fits) == 5  # the folds of the labels
    assert found.curve is None
    assert found.labels.suspects == ()
    rest = np.delete(np.arange(180, 240), [50, 51])
    assert found.leakage.accuracy_of_rest == (labels[rest] == 0).mean()


def test_groups_and_copies_are_kept_together_in_folds_and_in_the_learning_curve(planted, fits):
    dataset, rows = planted
    groups = np.array(["", *(f"patient {number // 6}" for number in range(239))], object)
    groups[239] = ""
    grouped = dataclasses.replace(dataset, groups=tuple(groups))
    groups[[10, 230]] = groups[[11, 231]] = "copies"  # 10 and 11 are of one patient
    group = {row.tobytes(): groups[place] or place for place, row in enumerate(rows)}
    find_problems(grouped, rows, predicted=dataset.targets.labels, repeats=1)
    assert len(fits) == 5 + 5 * 4
    for trained, tested in fits:
        assert not {group[row.tobytes()] for row in trained} & {
            group[row.tobytes()] for row in tested
        }


def test_the_most_costly_problems_come_first(planted):
    dataset, rows = planted
    dataset.targets.labels[10] = 1 - dataset.targets.labels[230]  # a copy of another class
    leak, contradiction, labels, *rest = find_problems(dataset, rows, repeats=1).summary()
    assert "have a duplicate or near-duplicate among the training" in leak
    assert "different labels" in contradiction
    assert "labels look wrong" in labels
    assert rest[-1].startswith("Going from")


def test_in_cross_validation_copies_are_in_no_split_and_nothing_is_said_about_leakage(planted):
    dataset, rows = planted
    found = find_problems_quickly(dataset.all_in("test"), rows, dataset.targets.labels)
    assert ends(found.duplicates.pairs) == [(10, 230), (11, 231)]
    assert found.leakage.total == 0
    assert "2 duplicate or near-duplicate pairs." in found.summary()


def test_quickly_means_everything_except_the_learning_curve(planted):
    dataset, rows = planted
    labels = dataset.targets.labels
    quick = find_problems_quickly(dataset, rows, labels, seed=3)
    same = find_problems(dataset, rows, predicted=labels, repeats=0, seed=3)
    for part in ("leakage", "labels", "outliers", "classes", "curve"):
        assert getattr(quick, part) == getattr(same, part)
    assert quick.duplicates.pairs == same.duplicates.pairs
    assert quick.curve is None


def test_above_a_number_of_images_a_run_does_not_look_for_problems(planted, monkeypatch):
    dataset, rows = planted
    monkeypatch.setattr(problems, "QUICK", 239)
    assert find_problems_quickly(dataset, rows, dataset.targets.labels) is None


def test_with_too_few_images_to_check_labels_the_rest_is_still_found():
    rows = photographs(6)
    rows[5] = rows[0]
    groups = ("", "", "b", "b", "", "")
    dataset = make_dataset([0, 0, 1, 1, 0, 0], splits(4, 1, 1), groups=groups)
    found = find_problems(dataset, rows)
    assert (found.labels.judged, found.curve) == (0, None)
    assert ends(found.duplicates.pairs) == [(0, 5)]
    assert "There are too few images to check the labels." in found.summary()


def test_features_of_another_number_of_images_are_refused(planted):
    dataset, rows = planted
    with pytest.raises(PipelineError, match="239 rows of features for 240 images"):
        find_problems(dataset, rows[:239])


def test_classifiers_learn_the_average_of_long_rows_and_all_of_short_ones(planted, fits):
    dataset, rows = planted
    long = np.random.default_rng(0).random((240, 8, 8, 520), np.float32)
    for given, learned in ((rows, rows.reshape(240, -1)), (long, long.mean(axis=(1, 2)))):
        fits.clear()
        find_problems(dataset, given, repeats=1)
        for trained, tested in fits:
            for row in (*trained, *tested):
                assert np.abs(learned - row).max(axis=1).min() < 1e-5
        assert len(fits) > 5
