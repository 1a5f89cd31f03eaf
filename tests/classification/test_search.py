"""Candidates on folds: the same predictions as fitting each to each fold, however it is done."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from folds import folds_of, out_of_fold, quick
from rows import SKLEARN, rows_in_views, rows_like_features
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.svm import LinearSVC

from pipeline.classification import search
from pipeline.classification.search import Fold, PreparedRows
from pipeline.errors import PipelineError
from pipeline.heads import products
from pipeline.heads.estimators import CalibrationFolds
from pipeline.heads.products import GramClassifier
from pipeline.heads.registry import get_head


def one_by_one(head, rows, labels, folds, groups=None, **options):
    """Fit what the head builds to each fold, for each candidate, as anyone would."""
    p = np.full((len(head.grid), len(rows), labels.max() + 1), np.nan)
    for place, params in enumerate(head.grid):
        for fitted, judged in folds:
            more = {"groups": groups[fitted]} if head.calibrated and groups is not None else {}
            estimator = head.build(0, **options, **more, **params)
            estimator.fit(rows[fitted], labels[fitted])
            p[place, judged] = estimator.predict_proba(rows[judged])
    return p


def dense_rows(count, classes):
    """Rows without zeros, some of them equal."""
    rows, labels = rows_like_features(count, classes)
    rows = rows + np.random.default_rng(0).random(rows.shape, np.float32)
    rows[1::7] = rows[0]
    return rows, labels


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", SKLEARN)
def test_predictions_equal_those_of_fitting_each_candidate_to_each_fold(name, k):
    rows, labels = rows_like_features(90, k)
    folds, head = folds_of(labels), quick(name)
    theirs = one_by_one(head, rows, labels, folds)
    ours = out_of_fold(head, rows, labels, folds)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert np.ptp(ours[:, :, 0], axis=1).min() > 0.05  # and not the same for all rows


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("balanced", [False, True])
def test_predictions_on_dense_rows_equal_those_of_the_rows_themselves(k, balanced, monkeypatch):
    rows, labels = dense_rows(90, k)
    made = []
    real = search.triangular_rows
    monkeypatch.setattr(search, "triangular_rows", lambda x: made.append(real(x)) or made[-1])
    folds, head = folds_of(labels), get_head("linear-svm")
    theirs = one_by_one(head, rows, labels, folds, balanced=balanced)
    ours = out_of_fold(head, rows, labels, folds, balanced=balanced)
    assert [each.shape for each in made] == [(90, 90)]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert np.ptp(ours[:, :, 0], axis=1).min() > 0.05


def test_dense_rows_of_which_there_is_no_room_for_products_are_learned_as_they_are(monkeypatch):
    rows, labels = dense_rows(60, 2)
    folds, head = folds_of(labels), get_head("linear-svm")
    theirs = one_by_one(head, rows, labels, folds)
    monkeypatch.setattr(products, "free_memory", lambda: 1000)
    np.testing.assert_allclose(out_of_fold(head, rows, labels, folds), theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SKLEARN)
def test_predictions_are_the_same_with_groups_balanced_pooled_and_in_threads(name):
    rows, labels, images = rows_in_views(30, 2, views=2)
    labels[images < 8] = 0
    folds = [
        Fold(np.flatnonzero(images % 3 != part), np.flatnonzero(images % 3 == part))
        for part in range(3)
    ]
    head = quick(name, (2, 2, 32), ("flatten", "average", "max"))
    head = replace(head, grid=head.grid[:: max(1, len(head.grid) // 5)])
    assert {params["pool"] for params in head.grid} == {"flatten", "average", "max"}
    theirs = one_by_one(head, rows, labels, folds, images, balanced=True)
    ours = out_of_fold(head, rows, labels, folds, groups=images, balanced=True, jobs=2)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "textbook", "grid"),
    [
        ("linear-svm", LinearSVC(dual=False, max_iter=20_000), {"C": [0.3, 3.0]}),
        ("ridge", RidgeClassifier(), {"alpha": [1.0, 0.1]}),
    ],
)
def test_scores_equal_those_of_grid_search_on_dense_rows(name, textbook, grid):
    rows, labels = rows_like_features(120, 2)
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float64)
    folds = folds_of(labels, 5)
    calibrated = CalibratedClassifierCV(textbook, cv=CalibrationFolds(0), ensemble=False)
    theirs = GridSearchCV(
        calibrated,
        {f"estimator__{key}": values for key, values in grid.items()},
        cv=folds,
        scoring=["accuracy", "neg_log_loss"],
        refit=False,
    ).fit(unit, labels)
    candidates = tuple({key: value} for key, values in grid.items() for value in values)
    ours = out_of_fold(replace(get_head(name), grid=candidates), rows, labels, folds)
    for place, p in enumerate(ours):
        for number, (_, judged) in enumerate(folds):
            accuracy = np.mean(p[judged].argmax(axis=1) == labels[judged])
            loss = -np.log(p[judged, labels[judged]]).mean()
            scores = theirs.cv_results_
            assert accuracy == scores[f"split{number}_test_accuracy"][place]
            assert -loss == pytest.approx(
                scores[f"split{number}_test_neg_log_loss"][place], abs=1e-6
            )


def test_predictions_equal_cross_val_predict():
    rows, labels = rows_like_features(90, 3)
    folds = folds_of(labels)
    theirs = cross_val_predict(
        get_head("lda").build(0), rows, labels, cv=folds, method="predict_proba"
    )
    [ours] = out_of_fold(replace(get_head("lda"), grid=({},)), rows, labels, folds)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_a_class_that_a_fold_does_not_have_gets_probability_zero():
    rows, labels = rows_like_features(60, 2)
    fold = Fold(np.arange(40), np.arange(40, 60))
    p = out_of_fold(get_head("logistic"), rows, labels, [fold], classes=4)[:, fold.judged]
    assert (p[:, :, 2:] == 0).all()
    np.testing.assert_allclose(p.sum(axis=2), 1, atol=1e-6)


def test_inner_products_are_computed_once_for_all_heads_folds_and_candidates(monkeypatch):
    rows, labels = rows_like_features(60, 2)
    calls = []
    real = search.inner_products
    monkeypatch.setattr(search, "inner_products", lambda x: calls.append(len(x)) or real(x))
    prepared = PreparedRows(rows)
    for name in ("ridge", "lda", "rbf-svm", "knn"):
        out_of_fold(get_head(name), prepared, labels, folds_of(labels))
    assert calls == [60]


@pytest.mark.parametrize("name", SKLEARN)
def test_an_estimator_fitted_to_prepared_rows_predicts_as_by_itself(name, monkeypatch):
    rows, labels = rows_like_features(90, 3)
    prepared, head = PreparedRows(rows), quick(name)
    first, last = (head.build(0, **head.grid[0]) for _ in "12")
    prepared.fit(first, np.arange(0, 60), labels[:60])
    prepared.fit(last, np.arange(30, 90), labels[30:])
    wanted = np.array([88, 3, 40])
    for estimator in (last, first):
        p = prepared.predict_proba(estimator, wanted)
        np.testing.assert_allclose(p, estimator.predict_proba(rows[wanted]), atol=1e-12)
    assert np.abs(first.predict_proba(rows) - last.predict_proba(rows)).max() > 0.01
    # The last fit on products need not predict again.
    calls, kind = [], type(last[-1])
    monkeypatch.setattr(kind, "predict_proba", lambda *_: calls.append(1) or np.zeros((3, 3)))
    for estimator in (last, first):
        prepared.predict_proba(estimator, wanted)
    assert len(calls) == (1 if issubclass(kind, GramClassifier) else 2)


@pytest.mark.parametrize(
    ("name", "room", "expected"),
    [("ridge", 100, 4), ("ridge", 7, 2), ("ridge", 2, 1), ("mlp", 2, 4)],
)
def test_no_more_fits_on_products_at_a_time_than_memory_has_room_for(
    name, room, expected, monkeypatch
):
    rows, labels = rows_like_features(60, 2)
    prepared, head = PreparedRows(rows), quick(name)
    prepared.material(head.build(0))  # takes memory first
    free = SimpleNamespace(available=room * 60 * 60 * 8)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    asked, parallel = [], search.joblib.Parallel
    monkeypatch.setattr(
        search.joblib,
        "Parallel",
        lambda jobs, **options: asked.append(jobs) or parallel(jobs, **options),
    )
    out_of_fold(head, prepared, labels, folds_of(labels), jobs=4)
    assert asked == [expected]


def test_a_class_with_one_row_to_learn_from_is_named():
    rows, labels = rows_like_features(60, 2)
    labels[0] = 2
    folds = [Fold(np.arange(40), np.arange(40, 60))]
    with pytest.raises(PipelineError, match="class 2 has a single training image"):
        out_of_fold(get_head("rbf-svm"), rows, labels, folds)


def test_rows_that_are_not_finite_are_counted_and_refused():
    rows, _ = rows_like_features(60, 2)
    rows[[3, 7], 5] = np.nan, np.inf
    with pytest.raises(PipelineError, match=r"2 of 60 rows .* not finite, first row 3"):
        PreparedRows(rows)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("name", SKLEARN)
def test_features_that_are_all_the_same_give_the_shares_of_the_classes(name, value):
    rows = np.full((60, 16), value, np.float32)
    labels = (np.arange(60) % 3 == 0).astype(np.int64)
    p = out_of_fold(get_head(name), rows, labels, folds_of(labels))
    assert np.isfinite(p).all()
    assert np.abs(p[:, :, 1] - 1 / 3).max() < 0.12
