# ruff: noqa: N806 -- X is what scikit-learn calls a matrix of rows
import importlib
import logging
import random
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import NAMES, SKLEARN, rows_in_views, rows_like_features
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from pipeline.errors import PipelineError
from pipeline.heads.dense import DenseHead, _shuffled_batches, build_dense
from pipeline.heads.estimators import CalibrationFolds, Pool
from pipeline.heads.gram import DiscriminantAnalysis, NearestNeighbours, RbfSVM, Ridge
from pipeline.heads.products import inner_products
from pipeline.heads.registry import HEADS, TRUSTED_TYPES, get_head

BOOSTING = "sklearn.ensemble:HistGradientBoostingClassifier"
CALIBRATED = [name for name in NAMES if HEADS[name].calibrated]


def fast(name, **params):
    quick = {"dense": {"epochs": 12, "learning_rate": 3e-3, "units": 32}, "mlp": {"epochs": 30}}
    return get_head(name).build(0, **(quick.get(name, {}) | params))


@pytest.fixture(scope="module")
def dense():
    X, y = rows_like_features(120, 2)
    V, w = rows_like_features(60, 2, seed=1)
    return fast("dense").fit(X, y, validation_data=(V, w))


def test_names_are_those_promised():
    assert list(HEADS) == NAMES
    assert all(head.name == name for name, head in HEADS.items())


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(PipelineError, match=rf"(?s)'svm'.*{', '.join(NAMES)}, or module:factory"):
        get_head("svm")


def test_scikit_learn_heads_never_import_tensorflow():
    script = (
        "import sys, numpy as np\n"
        "from pipeline.heads.registry import HEADS\n"
        "X = np.random.default_rng(0).random((20, 8), dtype=np.float32)\n"
        f"for name in {SKLEARN}:\n"
        "    HEADS[name].build(0).fit(X, np.arange(20) % 2).predict_proba(X)\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("name", HEADS)
def test_learns_classes_and_gives_probabilities_of_each(name, k):
    X, y = rows_like_features(160, k)
    unseen, truth = rows_like_features(80, k, seed=1)

    head = fast(name).fit(X, y)
    p = head.predict_proba(unseen)

    assert p.shape == (80, k)
    np.testing.assert_array_equal(head.classes_, np.arange(k))
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert p.min() >= 0
    np.testing.assert_array_equal(head.predict(unseen), p.argmax(axis=1))
    assert np.mean(p.argmax(axis=1) == truth) > 0.8
    assert -np.log(p[np.arange(80), truth]).mean() < 0.6 * np.log(k)


@pytest.mark.parametrize("name", SKLEARN)
def test_every_candidate_of_the_grid_fits_without_warning(name):
    X, y = rows_like_features(60, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for params in get_head(name).grid:
            p = get_head(name).build(0, **params).fit(X, y).predict_proba(X)
            assert np.isfinite(p).all()


def test_candidates_differ_and_are_not_repeated():
    for head in HEADS.values():
        assert len({tuple(sorted(params.items())) for params in head.grid}) == len(head.grid)


TREES = {"random-forest"}  # rounding, and weights that are all 1, change what it draws


@pytest.mark.parametrize("name", sorted(set(SKLEARN) - TREES))
def test_scale_of_the_features_does_not_matter(name):
    X, y = rows_like_features(60, 2)
    p, q = (fast(name).fit(X * s, y).predict_proba(X * s) for s in (1, 1 / 256))
    np.testing.assert_allclose(p, q, atol=1e-5)


def test_rows_are_brought_to_length_one_before_they_are_compared():
    X, y = rows_like_features(60, 2)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    theirs = LogisticRegression(C=3, max_iter=2000).fit(unit, y)
    ours = fast("logistic", C=3).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(unit), atol=1e-3)


def test_a_calibrated_head_holds_one_classifier_not_one_a_fold():
    X, y = rows_like_features(60, 2)
    assert len(fast("linear-svm").fit(X, y)[-1].calibrated_classifiers_) == 1
    assert len(fast("knn").fit(X, y)[-1].calibrated_.calibrated_classifiers_) == 1


@pytest.mark.parametrize("name", SKLEARN)
def test_same_seed_gives_the_same_bits_and_input_stays_unchanged(name):
    X, y = rows_like_features(60, 3)
    kept = X.copy()
    p, q = (get_head(name).build(5).fit(X, y).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(p, q)
    np.testing.assert_array_equal(X, kept)


@pytest.mark.parametrize("name", SKLEARN)
def test_a_class_of_two_rows_can_be_learned(name):
    X, y = rows_like_features(42, 2)
    y[:2] = 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p = fast(name).fit(X, y).predict_proba(X)
    assert p.shape == (42, 3)


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_class_of_one_row_is_refused_by_name_where_probabilities_need_calibration(name):
    X, y = rows_like_features(42, 2)
    y[0] = 2
    with pytest.raises(PipelineError, match="Class 2 has a single training image"):
        fast(name).fit(X, y)


def test_neighbours_are_at_most_the_rows_there_are():
    X, y = rows_like_features(6, 2)
    p = fast("knn", n_neighbors=40).fit(X, y).predict_proba(X)
    assert np.isfinite(p).all()


def test_a_row_of_zeros_is_no_obstacle():
    X, y = rows_like_features(60, 2)
    X[0] = 0
    for name in SKLEARN:
        assert np.isfinite(fast(name).fit(X, y).predict_proba(X)).all()


# --- on disk ---------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", SKLEARN)
def test_skops_gives_back_the_same_bits_trusting_only_what_is_listed(name, k):
    X, y = rows_like_features(60, k)
    head = fast(name).fit(X, y)
    again = skops.io.loads(skops.io.dumps(head), trusted=list(TRUSTED_TYPES))
    np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))


def test_every_trusted_type_is_needed_or_an_earlier_name_of_one_that_is():
    X, y = rows_like_features(40, 2)
    shape = (2, 2, 32)
    heads = [get_head(name).with_pools(["max"], shape) for name in (*SKLEARN, BOOSTING)]
    stored = [skops.io.dumps(head.build(0, balanced=True, pool="max").fit(X, y)) for head in heads]
    needed = {kind for data in stored for kind in skops.io.get_untrusted_types(data=data)}
    assert needed <= set(TRUSTED_TYPES)
    for earlier in set(TRUSTED_TYPES) - needed:
        module, _, name = earlier.rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        assert f"{kind.__module__}.{kind.__name__}" in needed


# --- rbf-svm ---------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3])
def test_rbf_svm_equals_scikit_learns_own(k):
    X, y = rows_like_features(90, k)
    X = X.astype(np.float64) / np.linalg.norm(X, axis=1, keepdims=True)
    theirs = CalibratedClassifierCV(
        SVC(C=10, gamma=1.5), cv=CalibrationFolds(3), ensemble=False
    ).fit(X[:60], y[:60])

    ours = RbfSVM(C=10, gamma=1.5, random_state=3).fit(X[:60], y[:60])

    np.testing.assert_allclose(
        ours.predict_proba(X[60:]), theirs.predict_proba(X[60:]), rtol=0, atol=1e-6
    )
    inner = theirs.calibrated_classifiers_[0].estimator
    np.testing.assert_array_equal(ours.support_, inner.support_)


def test_rbf_svm_keeps_support_vectors_only_and_sparse():
    X, y = rows_like_features(300, 2)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    svm = RbfSVM(C=10, gamma=0.5).fit(X, y)
    assert svm.kept_.shape[0] == len(svm.support_) < 200
    np.testing.assert_array_equal(svm.kept_.toarray(), X[svm.support_])
    assert svm.kept_.nnz == np.count_nonzero(X[svm.support_])


def test_rbf_svm_calls_rows_alone_what_it_calls_them_together():
    X, y = rows_like_features(60, 2)
    head = fast("rbf-svm").fit(X, y)
    alone = np.concatenate([head.predict_proba(X[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(alone, head.predict_proba(X)[:5], atol=1e-9)


# --- views of one image ----------------------------------------------------------------------


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


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_head_is_less_sure_when_it_is_not_calibrated_on_other_views_of_what_it_learned(name):
    X, y, images = rows_in_views(60, 2, views=3, d=16)
    together = fast(name, groups=images).fit(X, y).predict_proba(X)
    apart = fast(name).fit(X, y).predict_proba(X)
    assert together.max(axis=1).mean() < apart.max(axis=1).mean() - 0.02


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_head_calibrated_on_views_comes_back_from_disk_with_the_same_bits(name):
    X, y, images = rows_in_views(30, 2, views=3)
    head = fast(name, groups=images).fit(X, y)
    again = skops.io.loads(skops.io.dumps(head), trusted=list(TRUSTED_TYPES))
    np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))


def test_rbf_svm_with_views_equals_scikit_learns_own_on_the_same_folds():
    X, y, images = rows_in_views(30, 2, views=3)
    X = X.astype(np.float64) / np.linalg.norm(X, axis=1, keepdims=True)
    folds = CalibrationFolds(3, images)
    theirs = CalibratedClassifierCV(SVC(C=10, gamma=1.5), cv=folds, ensemble=False).fit(X, y)
    ours = RbfSVM(C=10, gamma=1.5, random_state=3, groups=images).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-6)
    without = RbfSVM(C=10, gamma=1.5, random_state=3).fit(X, y)
    assert np.abs(without.predict_proba(X) - ours.predict_proba(X)).max() > 0.01


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_class_of_one_image_is_refused_however_many_views_it_has(name):
    X, y, images = rows_in_views(21, 2, views=3)
    y[images == 0] = 2
    with pytest.raises(PipelineError, match="Class 2 has a single training image"):
        fast(name, groups=images).fit(X, y)


# --- the textbook's, on dense rows ------------------------------------------------------------


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


def test_lda_and_ridge_keep_weights_and_no_rows():
    X, y = unit_rows(60, 3)
    for kind in (Ridge, DiscriminantAnalysis):
        assert kind().fit(X, y).kept_.shape == (3, X.shape[1])


def test_forest_on_sparse_rows_grows_the_same_trees_as_on_dense_ones():
    X, y = rows_like_features(80, 2)
    ours = fast("random-forest").fit(X, y)
    theirs = RandomForestClassifier(100, random_state=0).fit(ours[:-1].transform(X).toarray(), y)
    V, _ = rows_like_features(40, 2, seed=1)
    unit = ours[:-1].transform(V).toarray()
    np.testing.assert_allclose(ours.predict_proba(V), theirs.predict_proba(unit), atol=1e-9)


def test_mlp_trains_for_the_epochs_that_it_is_told():
    X, y = rows_like_features(60, 2)
    assert fast("mlp", epochs=4).fit(X, y)[-1].n_iter_ == 4


def test_products_that_do_not_fit_into_memory_are_refused_with_the_number_that_would(monkeypatch):
    free = SimpleNamespace(available=32e6)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    rows = np.ones((2000, 1), np.float32)
    with pytest.raises(PipelineError, match=r"(?s)2,000 rows needs about 0.1 GB.*at most 1,000"):
        fast("rbf-svm").fit(rows, np.arange(2000) % 2)
    assert inner_products(rows[:1000]).shape == (1000, 1000)


def test_products_are_those_of_double_precision_over_any_number_of_columns():
    X = np.random.default_rng(0).random((30, 2500), dtype=np.float32)
    wide = X.astype(np.float64)
    np.testing.assert_allclose(inner_products(X), wide @ wide.T, rtol=1e-13)


# --- pooling ---------------------------------------------------------------------------------


def test_pooling_takes_the_mean_or_the_maximum_over_places():
    rows = np.random.default_rng(0).random((5, 2, 3, 7), dtype=np.float32)
    flat = rows.reshape(5, -1)
    average, largest = (Pool(kind, (2, 3, 7)).transform(flat) for kind in ("average", "max"))
    np.testing.assert_allclose(average, rows.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(largest, rows.max(axis=(1, 2)))
    np.testing.assert_array_equal(Pool("flatten", (2, 3, 7)).transform(flat), flat)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_on_pooled_rows_is_the_head_on_the_rows_that_pooling_gives(name):
    X, y = rows_like_features(60, 2)
    head = get_head(name).with_pools(["max"], (2, 2, 32))
    assert [params["pool"] for params in head.grid] == ["max"] * len(get_head(name).grid)
    params = {"epochs": 2} if name == "dense" else {}
    pooled = Pool("max", (2, 2, 32)).transform(X)
    ours = head.build(0, pool="max", **params).fit(X, y).predict_proba(X)
    theirs = get_head(name).build(0, **params).fit(pooled, y).predict_proba(pooled)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_several_poolings_are_each_tried_with_all_of_the_grid():
    grid = get_head("knn").with_pools(["flatten", "max"], (2, 2, 32)).grid
    assert [(c["pool"], c["n_neighbors"]) for c in grid] == [
        (pool, k) for pool in ("flatten", "max") for k in (40, 20, 10, 5)
    ]
    assert get_head("knn").with_pools(["flatten"], (2, 2, 32)) is get_head("knn")


@pytest.mark.parametrize("pools", [["mean"], []])
def test_an_unknown_pooling_is_answered_with_the_known_ones(pools):
    with pytest.raises(PipelineError, match="one of flatten, average, max"):
        get_head("knn").with_pools(pools, (2, 2, 32))


def test_rows_of_another_shape_are_not_pooled():
    with pytest.raises(PipelineError, match=r"\(4, 9\)(.|\n)*2 x 2 places of 3 channels"):
        Pool("max", (2, 2, 3)).transform(np.zeros((4, 9)))


# --- balanced --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_balanced_calls_more_rows_the_rare_class(name):
    X, y = rows_like_features(240, 2, d=12)
    rare = np.flatnonzero(y == 1)[24:]
    X, y = np.delete(X, rare, axis=0), np.delete(y, rare)
    plain, balanced = (fast(name, balanced=b).fit(X, y).predict_proba(X)[:, 1] for b in (0, 1))
    assert balanced.mean() > plain.mean() + 0.05
    recall = [(p[y == 1] > 0.5).mean() for p in (plain, balanced)]
    assert recall[1] >= recall[0]


@pytest.mark.parametrize("name", sorted(set(SKLEARN) - TREES))
def test_classes_of_one_size_are_balanced_already(name):
    X, y = rows_like_features(60, 2)
    plain, balanced = (fast(name, balanced=b).fit(X, y).predict_proba(X) for b in (False, True))
    np.testing.assert_allclose(balanced, plain, atol=1e-5)


# --- module:factory --------------------------------------------------------------------------


def scores_only():
    return LinearSVC()


def fails():
    raise RuntimeError("no such licence")


def regression():
    return LinearRegression()


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(
    "name", ["sklearn.naive_bayes:GaussianNB", "test_heads:scores_only", "sklearn.svm:SVC"]
)
def test_any_classifier_of_scikit_learns_kind_is_a_head(name, balanced):
    X, y = rows_like_features(80, 3)
    p, q = (get_head(name).build(3, balanced=balanced).fit(X, y).predict_proba(X) for _ in "12")
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert np.mean(p.argmax(axis=1) == y) > 0.9
    np.testing.assert_array_equal(p, q)


def test_naive_bayes_probabilities_sum_to_one_over_as_many_columns_as_features_have():
    X = np.random.default_rng(0).random((600, 4000), dtype=np.float32)
    y = np.arange(600) % 2  # nothing tells them apart, so no probability is just 0 or 1
    p = get_head("sklearn.naive_bayes:GaussianNB").build(0).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-9)


def test_a_classifier_from_elsewhere_comes_back_from_disk_with_the_same_bits():
    X, y = rows_like_features(60, 2)
    head = get_head("sklearn.naive_bayes:GaussianNB").build(0).fit(X, y)
    back = skops.io.loads(skops.io.dumps(head), trusted=TRUSTED_TYPES)
    np.testing.assert_array_equal(back.predict_proba(X), head.predict_proba(X))


def test_a_factory_gets_the_seed():
    made = get_head("sklearn.ensemble:ExtraTreesClassifier").build(7)
    assert made[-1].random_state == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:make", r"no_such_module:make cannot be imported: ModuleNotFoundError"),
        ("sklearn.svm:NoSuch", r"sklearn.svm:NoSuch cannot be imported: AttributeError"),
        ("sklearn.svm:", r"sklearn.svm: cannot be imported"),
        (":make", r":make cannot be imported"),
        ("test_heads:fails", r"test_heads:fails cannot be made: RuntimeError: no such licence"),
        ("sklearn.base:clone", r"cannot be made: TypeError: .*argument"),
        ("test_heads:regression", r"gave a LinearRegression, which is no classifier"),
        ("builtins:dict", r"gave a dict, which is no classifier"),
        ("sklearn.ensemble:VotingClassifier", r"cannot be made: TypeError"),
    ],
)
def test_a_factory_that_cannot_serve_is_named_with_its_error(name, message):
    with pytest.raises(PipelineError, match=message):
        get_head(name)


def test_a_classifier_without_weights_cannot_be_balanced():
    head = get_head("sklearn.neighbors:KNeighborsClassifier")
    with pytest.raises(PipelineError, match="KNeighborsClassifier takes no sample_weight"):
        head.build(0, balanced=True)


# --- dense -----------------------------------------------------------------------------------


def test_dense_network_has_the_recipes_parameters():
    network = build_dense(8192, 2)
    sizes = [layer.count_params() for layer in network.layers]
    assert sizes == [8192 * 256 + 256, 0, 256 + 1]
    # With VGG16's convolutional base: the recipe's 16,812,353.
    assert network.count_params() + 14_714_688 == 16_812_353


def test_dense_network_for_several_classes_ends_in_a_softmax():
    network = build_dense(10, 4, units=3)
    assert network.output_shape == (None, 4)
    assert network.count_params() == 10 * 3 + 3 + 3 * 4 + 4
    np.testing.assert_allclose(np.sum(network(np.ones((2, 10), "float32")), axis=1), 1, rtol=1e-5)


def test_dense_compiles_the_recipes_optimizer_at_the_recipes_rate_for_a_row():
    X, y = rows_like_features(133, 2)
    head = get_head("dense").build(0, epochs=1).fit(X, y)
    optimizer = head.model_.optimizer
    assert type(optimizer).__name__ == "RMSprop"
    assert float(optimizer.learning_rate) / 64 == pytest.approx(2e-5 / 20)
    assert int(optimizer.iterations) == 3  # batches of 64, 64 and 5
    assert head.get_params() == {
        "epochs": 1,
        "batch_size": 64,
        "learning_rate": 6.4e-5,
        "units": 256,
        "dropout": 0.5,
        "patience": 5,
        "random_state": 0,
        "balanced": False,
        "pool": "flatten",
        "shape": (4, 4, 512),
    }


def test_dense_sees_every_row_once_an_epoch_in_a_new_order():
    rows = np.arange(7, dtype=np.float32)[:, None]
    batches = list(_shuffled_batches(rows, np.arange(7), batch_size=3, epochs=2, seed=0))
    assert [len(labels) for _, labels in batches] == [3, 3, 1] * 2
    seen = np.concatenate([labels for _, labels in batches])
    np.testing.assert_array_equal(seen, np.concatenate([x[:, 0] for x, _ in batches]))
    first, second = seen[:7].tolist(), seen[7:].tolist()
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second


def test_dense_same_seed_same_weights_whatever_the_global_seeds_and_leaves_those_alone():
    import tensorflow as tf

    X, y = rows_like_features(60, 2)
    kinds = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        tf.random.set_seed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        kinds.append(fast("dense", epochs=2).fit(X, y).model_.get_weights())
        assert before == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    for a, b in zip(*kinds, strict=True):
        np.testing.assert_array_equal(a, b)

    other = clone(fast("dense", epochs=2)).set_params(random_state=1).fit(X, y)
    assert not np.array_equal(other.model_.get_weights()[0], kinds[0][0])


def test_dense_keeps_the_weights_of_the_best_epoch_on_validation():
    # Validation labels are wrong on purpose: each epoch of learning makes validation worse.
    X, y = rows_like_features(80, 2)
    head = fast("dense", epochs=30, patience=2).fit(X, y, validation_data=(X, 1 - y))
    losses = head.history_["val_loss"]
    assert len(losses) < 30
    assert head.best_epoch_ == np.argmin(losses) + 1
    p = head.predict_proba(X)[np.arange(80), 1 - y]
    assert -np.log(p).mean() == pytest.approx(min(losses), rel=1e-3)


def test_dense_history_has_one_figure_an_epoch(dense):
    assert set(dense.history_) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    lengths = {len(values) for values in dense.history_.values()}
    assert len(lengths) == 1
    assert all(type(v) is float for values in dense.history_.values() for v in values)
    assert dense.history_["loss"][-1] < dense.history_["loss"][0]


def test_dense_takes_labels_of_any_kind_in_training_and_validation():
    X, y = rows_like_features(40, 2)
    names = np.array(["functional", "defective"])[y]
    head = fast("dense").fit(X, names, validation_data=(X, names))
    best = head.history_["val_accuracy"][head.best_epoch_ - 1]
    assert best == pytest.approx(np.mean(head.predict(X) == names), abs=1e-6)
    assert best > 0.8


def test_dense_trains_for_all_epochs_without_validation_rows():
    X, y = rows_like_features(40, 2)
    head = fast("dense", epochs=3).fit(X, y)
    assert {name: len(v) for name, v in head.history_.items()} == {"loss": 3, "accuracy": 3}
    assert head.best_epoch_ == 3


def test_dense_reports_each_epoch_with_its_figures_and_prints_nothing(capfd, caplog):
    X, y = rows_like_features(40, 2)
    seen = []
    # TensorFlow logs that this process made many networks; that is the other tests' doing.
    caplog.set_level(logging.ERROR, logger="tensorflow")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head = fast("dense", epochs=3).fit(
            X, y, validation_data=(X, y), on_epoch=lambda *event: seen.append(event)
        )
    assert [(epoch, epochs) for epoch, epochs, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert [figures["val_loss"] for *_, figures in seen] == head.history_["val_loss"]
    assert capfd.readouterr() == ("", "")


def test_dense_can_be_rebuilt_from_its_weights(dense, tmp_path):
    X, _ = rows_like_features(10, 2, seed=3)
    dense.model_.save_weights(tmp_path / "head.weights.h5")

    again = clone(dense)
    again.classes_, again.n_features_in_ = dense.classes_, dense.n_features_in_
    again.model_ = build_dense(128, 2, units=again.units, dropout=again.dropout, seed=7)
    again.model_.load_weights(tmp_path / "head.weights.h5")

    np.testing.assert_array_equal(again.predict_proba(X), dense.predict_proba(X))


def test_dense_predicts_more_rows_than_one_chunk_in_order(dense):
    X, _ = rows_like_features(1030, 2, seed=4)
    p = dense.predict_proba(X)
    assert len(p) == 1030
    np.testing.assert_allclose(p[1020:], dense.predict_proba(X[1020:]), atol=1e-6)


def test_dense_names_the_epoch_in_which_the_loss_was_lost():
    X, y = rows_like_features(40, 3)
    with pytest.raises(PipelineError, match=r"(nan|inf) in epoch \d+"):
        fast("dense", learning_rate=1e30).fit(X, y)


def test_dense_refuses_validation_rows_of_a_class_it_never_saw():
    X, y = rows_like_features(40, 2)
    with pytest.raises(PipelineError, match=r"no training row has: \[2\]"):
        fast("dense").fit(X, y, validation_data=(X[:1], [2]))


def test_dense_refuses_rows_of_another_length(dense):
    with pytest.raises(ValueError, match="128 features"):
        dense.predict_proba(np.ones((2, 127), dtype=np.float32))


# --- scikit-learn's own checks ---------------------------------------------------------------


@parametrize_with_checks(
    [
        RbfSVM(),
        NearestNeighbours(5),
        Ridge(),
        DiscriminantAnalysis(),
        DenseHead(epochs=12, units=16, learning_rate=0.02, batch_size=10),
    ]
)
def test_keeps_scikit_learns_contract(estimator, check):
    if isinstance(estimator, DenseHead) and check.keywords.get("readonly_memmap"):
        pytest.skip("check_readonly_memmap_input covers it; each network takes half a second")
    check(estimator)
