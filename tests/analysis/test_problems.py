"""What is wrong with a data set: found where it was planted, and nowhere else."""

import dataclasses
import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

from pipeline import PipelineError
from pipeline.analysis import neighbours, problems
from pipeline.analysis.classes import find_class_problems
from pipeline.analysis.duplicates import find_duplicates
from pipeline.analysis.labels import (
    Suspect,
    TooFewImagesError,
    assign_folds,
    find_label_problems,
    out_of_fold,
)
from pipeline.analysis.leakage import Leakage, measure_leakage
from pipeline.analysis.learning_curve import LearningCurve, Point, measure_learning_curve
from pipeline.analysis.neighbours import find_neighbours
from pipeline.analysis.outliers import find_outliers
from pipeline.analysis.problems import find_problems, find_problems_quickly
from pipeline.data.dataset import Dataset
from pipeline.data.targets import Targets
from pipeline.evaluation.groups import join_groups
from pipeline.heads.registry import get_head
from pipeline.runs.describing import describe_problems
from pipeline.runs.documents import ProblemsDocument
from pipeline.system.documents import read_document, to_json


def photographs(count, seed=0):
    """Rows as VGG16 makes them of photographs of many things: sparse, and not alike."""
    rng = np.random.default_rng(seed)
    rows = rng.exponential(size=(count, 4, 4, 32)) * (rng.random((count, 4, 4, 32)) < 0.1)
    return rows.astype(np.float32)


def changed(row, by, seed=0):
    """Move a row so that its distance, 1 - cosine, to what it was is about `by`."""
    noise = np.random.default_rng(seed).normal(size=row.shape)
    return (row + noise * np.linalg.norm(row) / np.linalg.norm(noise) * (2 * by) ** 0.5).astype("f")


def digests(count):
    return [hashlib.sha256(b"%d" % number).digest() for number in range(count)]


def splits(*counts):
    return np.repeat(["train", "validation", "test"], counts)


def duplicates(rows, where=None, labels=None, **settings):
    count = len(rows)
    return find_duplicates(
        rows,
        settings.pop("digests", digests(count)),
        np.zeros(count, np.int64) if labels is None else labels,
        splits(count, 0, 0) if where is None else where,
        **settings,
    )


def ends(pairs):
    return [(pair.first, pair.second) for pair in pairs]


def logistic(seed):
    return LogisticRegression(C=1.0, random_state=seed)


def overlapping(count, classes=2, distance=3.0, seed=0):
    """Rows of classes that a line tells apart nearly always, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    rows = rng.normal(size=(count, 1, 1, 8))
    rows[np.arange(count), 0, 0, labels] += distance
    return rows.astype(np.float32), labels


class Recorder:
    """A classifier that remembers what it was shown: the first number of each row."""

    def __init__(self, seen):
        self.seen = seen

    def fit(self, rows, labels):
        self.classes_ = np.unique(labels)
        self.seen.append((rows[:, 0].astype(int).tolist(), None))
        return self

    def predict_proba(self, rows):
        self.seen[-1] = (self.seen[-1][0], rows[:, 0].astype(int).tolist())
        return np.full((len(rows), len(self.classes_)), 1 / len(self.classes_))

    def predict(self, rows):
        return self.classes_[self.predict_proba(rows).argmax(axis=1)]


# Neighbours


@pytest.mark.parametrize("turned", [False, True], ids=["of themselves", "of others"])
def test_block_by_block_gives_the_neighbours_of_the_whole(turned, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", 7)
    rows, others = photographs(45), photographs(45, seed=1)
    labels = np.arange(45) % 3
    asked = others if turned else rows
    overall, of_class = find_neighbours(
        rows, 5, among=(None, labels), queries=others if turned else None
    )
    unit, left = (
        one.reshape(45, -1) / np.linalg.norm(one.reshape(45, -1), axis=1)[:, None]
        for one in (rows, asked)
    )
    whole = left @ unit.T
    np.fill_diagonal(whole, -np.inf)
    same = np.where(labels[:, None] == labels, whole, -np.inf)
    for found, expected in ((overall, whole), (of_class, same)):
        assert (found.places == np.argsort(-expected, axis=1)[:, :5]).all()
        np.testing.assert_allclose(
            found.similarities, -np.sort(-expected, axis=1)[:, :5], rtol=1e-5
        )


def test_a_row_without_enough_neighbours_has_places_of_minus_one():
    labels = np.array([0] * 600 + [1] * 3 + [2])
    [found] = find_neighbours(photographs(604), 5, among=[labels])
    assert (found.places >= 0).sum(axis=1).tolist() == [5] * 600 + [2] * 3 + [0]
    assert np.isinf(found.distances[603]).all()


def test_memory_does_not_grow_with_the_square_of_the_images():
    rows = np.random.default_rng(0).random((5000, 8), np.float32)
    tracemalloc.start()
    find_neighbours(rows, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5000 * 5000 * 4 / 2


def test_features_that_are_not_finite_are_refused_by_their_place():
    rows = photographs(30)
    rows[17, 2, 2, 2] = np.nan
    with pytest.raises(PipelineError, match=r"1 of 30 rows .* the first is 17"):
        find_neighbours(rows, 3)


# Duplicates


def test_files_of_the_same_bytes_are_paired_with_the_least_held_out():
    rows, names = photographs(6), digests(6)
    rows[[4, 5]] = rows[1]
    names[4] = names[5] = names[1]
    where = np.array(["train", "test", "train", "train", "validation", "train"])
    found = duplicates(rows, where, digests=names)
    assert ends(found.pairs) == [(5, 1), (5, 4)]
    assert {pair.kind for pair in found.pairs} == {"same bytes"}
    assert found.pairs[0].splits == ("train", "test")


def test_changed_copies_are_found_among_photographs_and_nothing_else():
    rows = photographs(60)
    rows[50:55] = [changed(rows[place], 0.03, seed=place) for place in range(5)]
    found = duplicates(rows, splits(40, 5, 15))
    assert sorted(ends(found.pairs)) == [(place, 50 + place) for place in range(5)]
    assert all(0.95 < pair.similarity < 0.99 and pair.kind == "near" for pair in found.pairs)


def test_images_that_are_all_much_alike_are_no_copies_of_each_other():
    base = photographs(1)[0]
    rows = np.stack([changed(base, 0.008, seed=place) for place in range(40)])
    assert find_neighbours(rows, 1)[0].similarities.min() > 0.98
    assert duplicates(rows).pairs == ()
    rows[7] = changed(rows[3], 0.0005, seed=99)
    assert ends(duplicates(rows).pairs) == [(3, 7)]


def test_two_alike_images_alone_are_no_copies_for_want_of_others_to_compare_with():
    row = photographs(1)[0]
    assert duplicates(np.stack([row, changed(row, 0.03)])).pairs == ()


def test_a_copy_is_told_by_the_third_other_image_not_by_the_copy_itself():
    rows = photographs(40)
    rows[[10, 11]] = [changed(rows[0], 0.15, seed=place) for place in (1, 2)]
    rows[20] = changed(rows[0], 0.03, seed=3)
    assert ends(duplicates(rows).pairs) == [(0, 20)]


def test_of_two_images_the_one_with_the_closer_others_decides():
    axes = np.eye(30, dtype=np.float32)
    crowd = [axes[0] + 0.3 * axes[1] + 0.15 * axes[place] for place in range(2, 8)]
    alone = axes[0] - 0.16 * axes[1]  # about 0.013 from the second, and 0.1 from the crowd
    rows = np.stack([alone, axes[0], *crowd, *axes[10:]])
    assert find_neighbours(rows, 1)[0].places[0] == 1
    assert duplicates(rows).pairs == ()
    assert ends(duplicates(np.delete(rows, range(2, 8), axis=0)).pairs) == [(0, 1)]


def test_more_copies_than_neighbours_are_all_connected():
    rows = photographs(40)
    rows[:30] = rows[0]
    found = duplicates(rows)
    assert ends(found.pairs) == [(0, place) for place in range(1, 30)]
    assert len(set(found.groups[:30])) == 1
    assert len(set(found.groups)) == 11


def test_constant_features_are_the_same_and_no_division_by_zero():
    rows = photographs(12)
    rows[[2, 9]] = 0
    assert ends(duplicates(rows).pairs) == [(2, 9)]


def test_a_mirrored_copy_is_found_with_features_of_mirrored_images_only():
    rows = photographs(30)
    mirrored = photographs(30, seed=1)  # nothing like the rows
    rows[20] = changed(mirrored[3], 0.01)  # image 20 is image 3 mirrored, saved anew
    assert duplicates(rows).pairs == ()
    [pair] = duplicates(rows, mirrored=mirrored).pairs
    assert (pair.first, pair.second, pair.kind) == (3, 20, "mirrored")


def test_an_image_that_is_its_own_mirror_image_is_no_copy():
    rows = photographs(30)
    assert duplicates(rows, mirrored=rows).pairs == ()


def test_pairs_across_splits_come_first_and_contradictions_are_told():
    rows = photographs(40)
    rows[1] = changed(rows[0], 0.001)
    rows[39] = changed(rows[2], 0.02)
    labels = np.zeros(40, np.int64)
    labels[1] = 1
    found = duplicates(rows, splits(30, 0, 10), labels)
    assert ends(found.pairs) == [(2, 39), (0, 1)]
    assert ends(found.across) == [(2, 39)]
    assert ends(found.contradictory) == [(0, 1)]


def test_groups_join_what_any_of_them_has_together():
    joined = join_groups(np.array([0, 0, 1, 2, 3, 4]), np.array([7, 8, 8, 9, 6, 9]))
    assert [set(np.flatnonzero(joined == one)) for one in np.unique(joined)] == [
        {0, 1, 2},
        {3, 5},
        {4},
    ]


# Leakage


def leak(copied, hits, rest, rest_hits):
    """Measure it on test images of which some have a copy in training."""
    total = copied + rest
    rows = photographs(copied + total + 1)
    rows[:copied] = rows[copied : 2 * copied]
    rows[-2] = rows[-3]  # a pair within the test images leaks nothing
    where = np.append(splits(copied, 0, total), "train")
    correct = np.zeros(copied + total + 1, bool)
    correct[copied : copied + hits] = correct[2 * copied : 2 * copied + rest_hits] = True
    return measure_leakage(duplicates(rows, where).pairs, where, correct)


def test_leakage_is_what_the_copied_images_add_to_the_accuracy():
    found = leak(10, 10, 40, 30)
    assert (found.copied, found.total) == (10, 50)
    assert found.points == pytest.approx(100 * (40 / 50 - 30 / 40))
    assert found.low < found.points < found.high


def test_the_interval_is_newcombes():
    found = leak(70, 56, 80, 48)  # his first example: 0.0524 to 0.3339
    share = 70 / 150
    assert found.low == pytest.approx(100 * share * 0.0524, abs=0.005)
    assert found.high == pytest.approx(100 * share * 0.3339, abs=0.005)


def test_without_copies_nothing_leaks_and_with_copies_alone_nothing_is_known():
    assert leak(0, 0, 20, 15) == Leakage(0, 20, None, 0.75, 0.0, 0.0, 0.0)
    assert leak(20, 15, 0, 0) == Leakage(20, 20, 0.75, None, None, None, None)


def test_in_cross_validation_where_all_are_test_images_nothing_is_said_of_leakage(planted):
    dataset, rows = planted
    dataset = dataclasses.replace(dataset, splits=np.repeat("test", 240))
    found = find_problems_quickly(dataset, rows, dataset.targets.labels)
    assert found.leakage.total == 0
    assert not any("test image" in sentence for sentence in found.summary())
    assert not any("training images" in sentence for sentence in found.summary())
    assert ends(found.duplicates.pairs) == [(10, 230), (11, 231)]


# Labels


def test_in_cross_validation_copies_are_in_no_split(planted):
    dataset, rows = planted
    found = find_problems_quickly(dataset.all_in("test"), rows, dataset.targets.labels)
    assert "2 pairs of copies, or nearly." in found.summary()
    rows[[12, 13]] = rows[[10, 11]]
    within = find_problems(dataset, rows, build=logistic, repeats=0).summary()
    assert "2 pairs of copies, or nearly, within a split." in within


def test_flipped_labels_come_first():
    rows, labels = overlapping(400, classes=3, distance=6.0)
    given = labels.copy()
    flipped = np.random.default_rng(1).choice(400, 12, replace=False)
    given[flipped] = (given[flipped] + 1) % 3
    p = out_of_fold(rows, given, logistic, classes=3)
    found = find_label_problems(given, p)
    assert {suspect.place for suspect in found.suspects[:12]} == set(flipped.tolist())
    assert all(labels[one.place] == one.suggested for one in found.suspects[:12])
    assert 10 <= found.estimated <= 14


def test_confident_learning_as_worked_out_by_hand():
    # Means of the given class: 0.7 for class 0, and 0.6 for class 1.
    of_one = np.array([0.1, 0.2, 0.1, 0.8, 0.9, 0.88, 0.42, 0.2])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    p = np.stack([1 - of_one, of_one], axis=1)
    found = find_label_problems(labels, p, fewest=1)
    # 3 is likely of class 1, 7 of class 0; 6 is likely of none, if rather of class 0.
    assert found.suspects == (
        Suspect(3, 0, 1, pytest.approx(-0.6), likely=True),
        Suspect(7, 1, 0, pytest.approx(-0.6), likely=True),
        Suspect(6, 1, 0, pytest.approx(-0.16), likely=False),
    )
    # Off the diagonal are 1 of the 4 of class 0, and 1 of the 3 of class 1 that are of any.
    many = find_label_problems(np.tile(labels, 6), np.tile(p, (6, 1)))
    assert many.estimated == round(24 / 4 + 24 / 3)
    assert many.judged == 48


def test_a_class_of_too_few_is_neither_judged_nor_suggested():
    labels = np.array([0] * 6 + [1] * 6 + [2] * 2)
    p = np.full((14, 3), 0.2)
    p[:, 2] = 0.6
    found = find_label_problems(labels, p)
    assert found.judged == 12
    assert not any(2 in (one.given, one.suggested) for one in found.suspects)


def test_folds_hold_each_class_evenly_and_groups_whole():
    labels = np.array([0] * 50 + [1] * 10 + [2] * 3)
    fold = assign_folds(labels, 5)
    assert np.bincount(fold[labels == 0]).tolist() == [10] * 5
    assert np.bincount(fold[labels == 1]).tolist() == [2] * 5
    assert len(set(fold[labels == 2])) == 3
    assert (fold != assign_folds(labels, 5, seed=1)).any()
    groups = np.arange(63) // 3
    assert all(len(set(assign_folds(labels, 5, groups=groups)[groups == g])) == 1 for g in groups)


def test_no_image_of_a_group_is_learned_from_when_another_is_judged():
    rows = np.repeat(np.arange(30, dtype=np.float32), 2)[:, None]  # a row is its group's number
    seen = []
    p = out_of_fold(
        rows,
        np.arange(60) // 2 % 3,
        lambda seed: Recorder(seen),
        classes=3,
        groups=np.arange(60) // 2,
    )
    assert len(seen) == 5
    assert not any(set(learned) & set(judged) for learned, judged in seen)
    assert sorted(place for _, judged in seen for place in judged) == sorted(rows[:, 0])
    np.testing.assert_allclose(p.sum(axis=1), 1)


def test_a_class_of_one_image_has_its_column_in_every_fold():
    rows, labels = overlapping(40)
    labels[7] = 3
    p = out_of_fold(rows, labels, logistic, classes=4)
    assert p.shape == (40, 4)
    assert p[7, 3] == 0  # it was never learned from when it was judged
    assert (p[:, 2] == 0).all()


def test_a_class_too_small_to_calibrate_by_stops_nothing():
    rows, labels = overlapping(60, distance=6.0)
    labels[7] = labels[9] = 2
    p = out_of_fold(rows, labels, get_head("rbf-svm").build, classes=3)
    assert (p[np.arange(60) % 2 == 0].argmax(axis=1) == 0).mean() > 0.9
    curve = measure_learning_curve(rows, labels, get_head("rbf-svm").build, repeats=1)
    assert curve.points[-1].accuracy > 0.9


def test_a_fold_that_leaves_one_class_is_refused():
    labels = np.array([0] * 8 + [1])
    with pytest.raises(PipelineError, match="1 of their classes have two images or more"):
        out_of_fold(np.ones((9, 2), np.float32), labels, logistic, classes=2)


# Outliers and classes


def test_an_image_unlike_its_class_is_an_outlier_and_the_others_are_not():
    base = photographs(2)
    rows = np.stack([changed(base[place % 2], 0.05, seed=place) for place in range(80)])
    labels = np.arange(80) % 2
    rows[33] = rows[32]  # a picture of the other class
    [nearest] = find_neighbours(rows, 10, among=[labels])
    found = find_outliers(labels, nearest)
    assert [(one.place, one.label) for one in found] == [(33, 1)]
    assert found[0].score > 10


def test_where_all_are_the_same_there_are_no_outliers():
    labels = np.zeros(20, np.int64)
    [nearest] = find_neighbours(np.ones((20, 3), np.float32), 10, among=[labels])
    assert find_outliers(labels, nearest) == ()


def test_classes_too_small_are_named_with_what_that_means():
    labels = np.repeat([0, 1, 2], [60, 8, 40])
    where = np.array(["train"] * 40 + ["test"] * 20 + ["train"] * 3 + ["test"] * 5 + ["train"] * 40)
    found = find_class_problems(labels, where, ("cat", "dog", "cow"))
    assert found.notes == (
        "dog has 3 training images: with fewer than 20, it is hard to learn.",
        "dog has 5 test images: how often it is told right may be off by 33 points by chance.",
        "cow has no test images: nothing is known of how well it is told.",
        (
            "56% of the images are cat: always guessing that has an accuracy of 0.556, so look at "
            "the balanced accuracy too."
        ),
    )


def test_classes_of_enough_images_each_are_no_problem():
    labels = np.arange(120) % 2
    assert find_class_problems(labels, splits(60, 20, 40), ("cat", "dog")).notes == ()


# Learning curve


def test_more_images_help_where_classes_overlap_in_many_dimensions():
    rng = np.random.default_rng(0)
    labels = np.arange(1000) % 2
    rows = rng.normal(size=(1000, 300)).astype(np.float32) + 0.05 * (2 * labels[:, None] - 1)
    curve = measure_learning_curve(rows, labels, lambda seed: NearestCentroid(), repeats=2)
    assert [point.images for point in curve.points] == [100, 200, 400, 800]
    accuracies = [point.accuracy for point in curve.points]
    assert accuracies[0] + 0.05 < accuracies[-1]
    assert curve.gain == pytest.approx(100 * (accuracies[-1] - accuracies[-2]))
    assert curve.answer.endswith("more images would help; the next doubling, by that or less.")


def test_more_images_do_not_help_where_few_tell_all():
    rows, labels = overlapping(200, distance=12.0)
    curve = measure_learning_curve(rows, labels, logistic, repeats=1)
    assert curve.points[-1].accuracy == 1
    assert curve.answer.endswith("would help little, if at all.")


def test_within_noise_it_is_not_told_whether_more_images_help():
    points = (Point(50, 0.8, 0.7, 0.9), Point(100, 0.81, 0.71, 0.91))
    curve = LearningCurve(points, 1.0, -2.5, 4.5)
    assert curve.answer == (
        "Going from 50 to 100 images brought +1.0 points of accuracy (95 % interval -2.5 to +4.5): "
        "within noise, so more images may help or not."
    )


def test_the_interval_widens_when_images_come_in_groups():
    rows, labels = overlapping(120, distance=1.5)
    rows, labels = np.repeat(rows, 3, axis=0), np.repeat(labels, 3)
    grouped, alone = (
        measure_learning_curve(rows, labels, logistic, repeats=1, groups=groups).points[-1]
        for groups in (np.arange(360) // 3, None)
    )
    width = (grouped.high - grouped.low) / (alone.high - alone.low)
    assert width == pytest.approx(3**0.5, rel=0.2)


def test_smaller_parts_lie_within_larger_ones_and_all_are_judged_alike():
    rows = np.arange(100, dtype=np.float32)[:, None]
    labels = np.array([0] * 96 + [1] * 4)
    seen = []
    measure_learning_curve(rows, labels, lambda seed: Recorder(seen), repeats=1)
    for fold in range(5):
        parts = [set(learned) for learned, _ in seen[4 * fold : 4 * fold + 4]]
        assert parts[0] < parts[1] < parts[2] < parts[3]
        assert all(part & set(range(96, 100)) for part in parts)
        assert len({tuple(judged) for _, judged in seen[4 * fold : 4 * fold + 4]}) == 1


# All of it


@pytest.fixture
def planted():
    """A data set with one of each problem, and its rows."""
    rows, labels = photographs(240), np.arange(240) % 2
    rows[:, 0, 0, 0] += 6 * labels
    where = splits(140, 40, 60)
    rows[[230, 231]] = rows[[10, 11]]  # copies of training images among the test images
    labels[[20, 200]] = 1 - labels[[20, 200]]
    dataset = Dataset(
        name="photos",
        paths=tuple(Path(f"{number}.png") for number in range(240)),
        digests=tuple(digests(240)),
        targets=Targets(labels.astype(np.int64), ("cat", "dog")),
        splits=where,
    )
    return dataset, rows


def test_everything_is_found_at_once(planted):
    dataset, rows = planted
    found = find_problems(dataset, rows, build=logistic, repeats=1)
    assert ends(found.duplicates.pairs) == [(10, 230), (11, 231)]
    flat = rows.reshape(240, -1)
    told = logistic(0).fit(flat[:180], dataset.targets.labels[:180]).predict(flat[180:])
    right = np.delete(told == dataset.targets.labels[180:], [50, 51])
    assert found.leakage.total == 60
    assert found.leakage.accuracy_of_rest == right.mean() < 1
    assert {suspect.place for suspect in found.labels.suspects[:2]} == {20, 200}
    assert found.curve.points[-1].images == 144  # four fifths of what is not test
    document = read_document(to_json(describe_problems(found)), ProblemsDocument)
    assert document.summary == list(found.summary())
    assert document.likely_wrong[0].path in {"20.png", "200.png"}
    pair = document.duplicates.pairs[0]
    assert pair.paths == ("10.png", "230.png")
    assert (pair.splits, pair.labels) == (("train", "test"), ("cat", "cat"))
    assert document.learning_curve == found.curve


def test_what_is_given_is_not_computed_again(planted):
    dataset, rows = planted

    def build(seed):
        raise AssertionError("nothing is to be fitted")

    p = np.full((240, 2), 0.5)
    predicted = dataset.targets.labels.copy()
    predicted[dataset.splits == "test"] = 0
    found = find_problems(
        dataset, rows, build=build, probabilities=p, predicted=predicted, repeats=0
    )
    assert found.curve is None
    assert found.labels.suspects == ()
    wrong = (dataset.targets.labels[180:] == 1) & ~np.isin(np.arange(180, 240), [230, 231])
    assert found.leakage.accuracy_of_rest < 1 - wrong.sum() / 60 + 0.01


def test_copies_are_kept_together_in_folds_with_the_groups_that_are_given(planted, monkeypatch):
    dataset, rows = planted
    seen = {}

    def remember(rows, labels, build, *, groups, **settings):
        seen["groups"] = groups
        return np.full((240, 2), 0.5)

    monkeypatch.setattr(problems, "out_of_fold", remember)
    groups = np.arange(240)
    groups[230] = 100  # so 10, which 230 is a copy of, goes with 100
    find_problems(dataset, rows, build=logistic, groups=groups, repeats=0)
    assert seen["groups"][10] == seen["groups"][230] == seen["groups"][100]
    assert len(set(seen["groups"])) == 237


def test_groups_of_the_data_set_are_kept_together_in_folds_and_in_the_learning_curve(
    planted, monkeypatch
):
    dataset, rows = planted
    groups = ["", *(f"patient {number // 6}" for number in range(239))]
    groups[239] = ""
    seen = []

    def remember(*args, groups, **settings):
        seen.append(groups)
        raise TooFewImagesError("enough is seen", expected="")

    monkeypatch.setattr(problems, "out_of_fold", remember)
    monkeypatch.setattr(problems, "measure_learning_curve", remember)
    grouped = dataclasses.replace(dataset, groups=tuple(groups))
    find_problems(grouped, rows, build=logistic, repeats=1)
    find_problems_quickly(grouped, rows, dataset.targets.labels)
    of_labels, of_curve, quickly = seen
    for found in seen:
        assert len({*found[1:7]}) == 1
    assert list(of_curve) == list(of_labels[:180])
    assert list(quickly) == list(of_labels)
    assert [*of_labels].count(of_labels[0]) == [*of_labels].count(of_labels[239]) == 1


COPIED = "12 of 100 test images have a copy, or nearly one, among the images that are learned from"


@pytest.mark.parametrize(
    ("leakage", "sentence"),
    [
        (
            Leakage(12, 100, 1.0, 0.75, 3.0, 1.5, 4.0),
            (
                f"{COPIED}: 3.0 points of test accuracy could be leakage (95 % interval "
                "1.5 to 4.0). They are told right in 100% of cases, the others in 75%."
            ),
        ),
        (
            Leakage(12, 100, 0.8, 0.75, 0.6, -1.5, 2.0),
            (
                f"{COPIED}: 0.6 points of test accuracy could be leakage (95 % interval "
                "-1.5 to 2.0, so it is within noise). They are told right in 80% of cases, the "
                "others in 75%."
            ),
        ),
        (
            Leakage(12, 100, 0.5, 0.75, -3.0, -5.0, -1.0),
            f"{COPIED}; they are told right no more often than the others.",
        ),
        (
            Leakage(0, 100, None, 0.75, 0.0, 0.0, 0.0),
            "No test image has a copy among the images that are learned from.",
        ),
    ],
    ids=["clearly", "within noise", "not at all", "none"],
)
def test_the_summary_says_what_leaks_in_points(leakage, sentence):
    rows, labels = overlapping(60, distance=6.0)
    dataset = Dataset(
        "photos",
        tuple(Path(f"{number}.png") for number in range(60)),
        tuple(digests(60)),
        labels.astype(np.int64),
        splits(40, 10, 10),
        ("cat", "dog"),
    )
    found = find_problems(dataset, np.abs(rows), build=logistic, repeats=0)
    assert dataclasses.replace(found, leakage=leakage).summary()[0] == sentence


def test_quickly_is_everything_but_the_curve_and_only_for_so_many_images(planted, monkeypatch):
    dataset, rows = planted
    found = find_problems_quickly(dataset, rows, dataset.targets.labels, seed=3)
    logistic = get_head("logistic").build
    same = find_problems(
        dataset, rows, build=logistic, predicted=dataset.targets.labels, repeats=0, seed=3
    )
    assert describe_problems(found) == describe_problems(same)
    assert found.curve is None
    monkeypatch.setattr(problems, "QUICK", 239)
    assert find_problems_quickly(dataset, rows, dataset.targets.labels) is None


def test_a_data_set_too_small_to_judge_labels_by_has_the_rest_told():
    rows = photographs(6)
    rows[5] = rows[0]
    dataset = Dataset(
        "photos",
        tuple(Path(f"{number}.png") for number in range(6)),
        tuple(digests(6)),
        np.array([0, 0, 1, 1, 0, 0]),
        splits(4, 1, 1),
        ("cat", "dog"),
    )
    found = find_problems(dataset, rows, build=logistic, groups=np.array([0, 1, 2, 2, 3, 4]))
    assert (found.labels.judged, found.curve) == (0, None)
    assert ends(found.duplicates.pairs) == [(0, 5)]
    assert "There are too few images to tell which labels may be wrong." in found.summary()


def test_rows_that_do_not_fit_the_data_set_are_refused(planted):
    dataset, rows = planted
    with pytest.raises(PipelineError, match="239 rows of features and 240 images"):
        find_problems(dataset, rows[:239])
