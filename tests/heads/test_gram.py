"""Classifiers on inner products: the same as scikit-learn's own."""

from types import SimpleNamespace

import numpy as np
import pytest
from rows import rows_in_views, rows_like_features
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC

from pipeline.errors import PipelineError
from pipeline.heads.estimators import CalibrationFolds
from pipeline.heads.gram import DiscriminantAnalysis, RbfSVM, Ridge
from pipeline.heads.products import inner_products


def width(rows, gamma):
    """A gamma for scikit-learn, from one for rows whose mean squared distance is 1."""
    return gamma / euclidean_distances(rows, squared=True).mean()


@pytest.mark.parametrize("k", [2, 3])
def test_rbf_svm_equals_scikit_learns_own(k):
    X, y = rows_like_features(90, k)
    X = X.astype(np.float64) / np.linalg.norm(X, axis=1, keepdims=True)
    svm = SVC(C=10, gamma=width(X[:60], 1.5))
    theirs = CalibratedClassifierCV(
        svm if k == 2 else OneVsRestClassifier(svm), cv=CalibrationFolds(3), ensemble=False
    ).fit(X[:60], y[:60])

    ours = RbfSVM(C=10, gamma=1.5, random_state=3).fit(X[:60], y[:60])

    np.testing.assert_allclose(
        ours.predict_proba(X[60:]), theirs.predict_proba(X[60:]), rtol=0, atol=1e-6
    )
    inner = theirs.calibrated_classifiers_[0].estimator
    machines = [inner] if k == 2 else inner.estimators_
    support = np.unique(np.concatenate([machine.support_ for machine in machines]))
    np.testing.assert_array_equal(np.sort(ours.support_), support)


def test_rbf_svm_keeps_support_vectors_only_and_sparse():
    X, y = rows_like_features(300, 2)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    svm = RbfSVM(C=10, gamma=0.5).fit(X, y)
    assert svm.kept_.shape[0] == len(svm.support_) < 200
    np.testing.assert_array_equal(svm.kept_.toarray(), X[svm.support_])
    assert svm.kept_.nnz == np.count_nonzero(X[svm.support_])


def test_rbf_svm_predicts_rows_alone_as_together():
    X, y = unit_rows(60, 2)
    head = RbfSVM().fit(X, y)
    alone = np.concatenate([head.predict_proba(X[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(alone, head.predict_proba(X)[:5], atol=1e-9)


def test_rbf_svm_with_views_equals_scikit_learns_own_on_the_same_folds():
    X, y, images = rows_in_views(30, 2, views=3)
    X = X.astype(np.float64) / np.linalg.norm(X, axis=1, keepdims=True)
    folds = CalibrationFolds(3, images)
    svm = SVC(C=10, gamma=width(X, 1.5))
    theirs = CalibratedClassifierCV(svm, cv=folds, ensemble=False).fit(X, y)
    ours = RbfSVM(C=10, gamma=1.5, random_state=3, groups=images).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-6)
    without = RbfSVM(C=10, gamma=1.5, random_state=3).fit(X, y)
    assert np.abs(without.predict_proba(X) - ours.predict_proba(X)).max() > 0.01


def test_rbf_svm_does_not_depend_on_how_far_apart_rows_are():
    X, y = rows_like_features(90, 2)
    X = X.astype(np.float64)
    near = RbfSVM().fit(X[:60], y[:60]).predict_proba(X[60:])
    far = RbfSVM().fit(X[:60] * 30, y[:60]).predict_proba(X[60:] * 30)
    np.testing.assert_allclose(near, far, rtol=0, atol=1e-6)
    assert near.std() > 0.1


def test_rbf_svm_takes_rows_that_are_all_the_same():
    X, y = np.ones((20, 3)), np.arange(20) % 2
    assert np.isfinite(RbfSVM().fit(X, y).predict_proba(X)).all()


def unit_rows(n, k):
    X, y = rows_like_features(n, k)
    return X.astype(np.float64) / np.linalg.norm(X, axis=1, keepdims=True), y


@pytest.mark.parametrize("balanced", [False, True])
def test_ridge_equals_scikit_learns_own(balanced):
    X, y = unit_rows(90, 2)
    y[:18] = 0
    weight = "balanced" if balanced else None
    theirs = RidgeClassifier(alpha=0.3, class_weight=weight).fit(X[:60], y[:60])
    ours = Ridge(alpha=0.3, balanced=balanced).fit(X[:60], y[:60])
    scores = (
        X[60:] @ ours.kept_[0] + ours.calibrated_.calibrated_classifiers_[0].estimator.intercept_
    )
    np.testing.assert_allclose(scores, theirs.decision_function(X[60:]), atol=1e-9)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("k", [2, 3])
def test_lda_equals_scikit_learns_own(k, balanced):
    X, y = unit_rows(90, k)
    y[:9] = 0
    theirs = CalibratedClassifierCV(
        LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage=0.4, priors=np.full(k, 1 / k) if balanced else None
        ),
        cv=CalibrationFolds(0),
        ensemble=False,
    ).fit(X[:60], y[:60])
    ours = DiscriminantAnalysis(shrinkage=0.4, balanced=balanced).fit(X[:60], y[:60])
    inner = ours.calibrated_.calibrated_classifiers_[0].estimator
    scores = (X[60:] @ ours.kept_.T + inner.intercept_).squeeze()
    wanted = theirs.calibrated_classifiers_[0].estimator.decision_function(X[60:])
    if k > 2:  # scores of classes differ by what is common to all of them
        scores, wanted = (s - s.mean(axis=1, keepdims=True) for s in (scores, wanted))
    np.testing.assert_allclose(scores, wanted, rtol=1e-7, atol=1e-7)
    if k == 2 and not balanced:
        np.testing.assert_allclose(
            ours.predict_proba(X[60:]), theirs.predict_proba(X[60:]), atol=1e-6
        )


def test_what_all_classes_scores_share_does_not_blur_ldas_calibration():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), (200, 60, 40, 100))
    common = (5 + 10 * rng.random((400, 1))) * rng.normal(size=300)
    X = rng.normal(size=(400, 300)) + common + 0.6 * rng.normal(size=(4, 300))[y]
    odd = np.arange(400) % 2 == 1
    ours = DiscriminantAnalysis().fit(X[odd], y[odd])
    assert (ours.predict(X[~odd]) == y[~odd]).mean() > 0.9


def test_lda_and_ridge_keep_weights_and_no_rows():
    X, y = unit_rows(60, 3)
    for kind in (Ridge, DiscriminantAnalysis):
        assert kind().fit(X, y).kept_.shape == (3, X.shape[1])


def test_products_that_do_not_fit_into_memory_are_refused_with_the_number_that_would(monkeypatch):
    free = SimpleNamespace(available=32e6)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    rows = np.ones((2000, 1), np.float32)
    with pytest.raises(PipelineError, match=r"(?s)2,000 rows needs about 0.1 GB.*at most 1,000"):
        RbfSVM().fit(rows, np.arange(2000) % 2)
    assert inner_products(rows[:1000]).shape == (1000, 1000)


def test_products_are_those_of_double_precision_over_any_number_of_columns():
    X = np.random.default_rng(0).random((30, 2500), dtype=np.float32)
    wide = X.astype(np.float64)
    np.testing.assert_allclose(inner_products(X), wide @ wide.T, rtol=1e-13)
