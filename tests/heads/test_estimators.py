"""Pooling, forests on coarse rows, and the folds of calibration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from pipeline.errors import PipelineError
from pipeline.heads.estimators import CalibrationFolds, CoarseForest, Pool


@st.composite
def images_with_views(draw):
    """Draw classes of images with some views each, their rows in any order: groups and labels."""
    classes = draw(st.lists(st.integers(2, 9), min_size=2, max_size=4))
    labels = np.repeat(np.arange(len(classes)), classes)
    views = draw(st.lists(st.integers(1, 5), min_size=len(labels), max_size=len(labels)))
    names = np.array(draw(st.permutations(range(100, 100 + len(labels)))))
    order = np.array(draw(st.permutations(range(sum(views)))))
    return np.repeat(names, views)[order], np.repeat(labels, views)[order]


@settings(deadline=None, max_examples=100)
@given(images_with_views(), st.integers(0, 3))
def test_folds_keep_an_images_views_together_and_each_class_in_all_folds(images, seed):
    groups, labels = images
    images_of = {c: len(set(groups[labels == c])) for c in np.unique(labels)}
    folds = CalibrationFolds(seed, groups)
    count = min(3, *images_of.values())
    assert folds.get_n_splits(None, labels) == count
    pairs = list(folds.split(np.zeros((len(labels), 1)), labels))
    assert len(pairs) == count
    for fitted, scored in pairs:
        assert not set(groups[fitted]) & set(groups[scored])
        assert sorted([*fitted, *scored]) == list(range(len(labels)))
        for c, wanted in images_of.items():
            here = len(set(groups[scored][labels[scored] == c]))
            assert wanted // count <= here <= -(-wanted // count)
    assert sorted(np.concatenate([scored for _, scored in pairs])) == list(range(len(labels)))


def test_folds_of_images_with_one_row_each_are_scikit_learns():
    labels = np.arange(40) % 3
    rows = np.zeros((40, 1))
    theirs = list(StratifiedKFold(3, shuffle=True, random_state=4).split(rows, labels))
    for groups in (None, np.arange(40)):
        ours = list(CalibrationFolds(4, groups).split(rows, labels))
        for pair, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(pair[0], other[0])
            np.testing.assert_array_equal(pair[1], other[1])


def test_groups_of_several_classes_are_dealt_out_once_for_all_fits_on_the_same_rows(monkeypatch):
    labels, groups = np.arange(40) % 2, np.arange(40) // 3
    split, calls = StratifiedGroupKFold.split, []
    monkeypatch.setattr(
        StratifiedGroupKFold, "split", lambda *given: calls.append(1) or split(*given)
    )
    dealt = [list(CalibrationFolds(77, groups).split(labels, labels)) for _ in range(3)]
    assert len(calls) == 1
    assert len(dealt[0]) == 3
    assert all(np.array_equal(one[2][1], dealt[0][2][1]) for one in dealt)
    list(CalibrationFolds(78, groups).split(labels, labels))
    assert len(calls) == 2


def test_pooling_takes_the_mean_or_the_maximum_over_cells():
    rows = np.random.default_rng(0).random((5, 2, 3, 7), dtype=np.float32)
    flat = rows.reshape(5, -1)
    average, largest = (Pool(kind, (2, 3, 7)).transform(flat) for kind in ("average", "max"))
    np.testing.assert_allclose(average, rows.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(largest, rows.max(axis=(1, 2)))
    np.testing.assert_array_equal(Pool("flatten", (2, 3, 7)).transform(flat), flat)


def test_rows_of_another_shape_are_not_pooled():
    with pytest.raises(PipelineError, match=r"\(4, 9\)(.|\n)*2 x 2 cells of 3 channels"):
        Pool("max", (2, 2, 3)).transform(np.zeros((4, 9)))


@pytest.mark.parametrize("convert", [np.asarray, csr_array], ids=["dense", "sparse"])
def test_a_coarse_forest_is_scikit_learns_on_rounded_rows_and_takes_rows_as_they_are(convert):
    rng = np.random.default_rng(0)
    rows = np.maximum(rng.normal(size=(120, 30)), 0).astype(np.float32)
    y = rows[:, :3].sum(axis=1) > 1.2
    longer = rows * np.float32(2**0.5)
    steps = 2.0 ** (np.floor(np.log2(np.where(rows > 0, longer, 1))) - 3)  # 8 to 16 of them
    coarse = (np.rint(longer / steps) * steps).astype(np.float32) / np.float32(2**0.5)
    assert 10 * len(np.unique(coarse)) < len(np.unique(rows))
    ours = CoarseForest(20, random_state=3).fit(convert(rows), y)
    theirs = RandomForestClassifier(20, random_state=3).fit(coarse, y)
    other, _ = np.maximum(rng.normal(size=(2, 50, 30)), 0).astype(np.float32)
    np.testing.assert_array_equal(ours.predict_proba(convert(other)), theirs.predict_proba(other))


def test_hardly_a_threshold_of_a_coarse_forest_is_near_to_values_that_rounded_rows_have():
    rng = np.random.default_rng(1)
    mantissas, exponents = np.frexp(rng.lognormal(size=(200, 20)))
    rows = np.ldexp(np.rint(mantissas * 4096) / 4096, exponents).astype(np.float32)
    forest = CoarseForest(20, random_state=0).fit(rows, rows[:, 0] > rows[:, 1])
    inner = [own.tree_.threshold[own.tree_.children_left >= 0] for own in forest.estimators_]
    thresholds = np.frexp(np.concatenate(inner))[0] * 4096
    near = np.abs(thresholds - np.rint(thresholds)) < 0.001  # of a step of those values
    assert np.mean(near) < 0.01
