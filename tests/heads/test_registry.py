"""Every head by its name: what it learns, how sure it is, what of it is written."""

import importlib
import subprocess
import sys
import warnings

import numpy as np
import pytest
import skops.io
from rows import NAMES, SKLEARN, rows_in_views, rows_like_features
from sklearn.linear_model import LogisticRegression

from pipeline.errors import PipelineError
from pipeline.heads.estimators import CoarseForest, Pool
from pipeline.heads.registry import HEADS, TRUSTED_TYPES, get_head

BOOSTING = "sklearn.ensemble:HistGradientBoostingClassifier"


CALIBRATED = [name for name in NAMES if HEADS[name].calibrated]


def fast(name, **params):
    quick = {"dense": {"epochs": 12, "learning_rate": 3e-3, "units": 32}, "mlp": {"epochs": 30}}
    return get_head(name).build(0, **(quick.get(name, {}) | params))


def test_there_are_nine_heads_by_these_names():
    assert list(HEADS) == NAMES
    assert all(head.name == name for name, head in HEADS.items())


def test_the_textbooks_own_network_is_trained_where_it_is_asked_for():
    assert get_head("textbook-dense").name == "textbook-dense"
    assert "textbook-dense" not in HEADS


def test_an_unknown_name_is_answered_with_the_known_ones():
    known = ", ".join([*NAMES, "textbook-dense"])
    with pytest.raises(PipelineError, match=rf"(?s)'svm'.*{known}, or module:factory"):
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
    with pytest.raises(PipelineError, match="class 2 has a single training image"):
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


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", SKLEARN)
def test_skops_gives_back_the_same_bits_trusting_only_what_is_listed(name, k):
    X, y = rows_like_features(60, k)
    head = fast(name).fit(X, y)
    again = skops.io.loads(skops.io.dumps(head), trusted=list(TRUSTED_TYPES))
    np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))


def test_every_trusted_type_is_needed_or_an_earlier_name_of_one_that_is():
    shape = (2, 2, 32)
    pools = ("flatten", "max")  # rows that are mostly zeros, and rows that are not
    heads = [get_head(name).with_pools(pools, shape) for name in (*SKLEARN, BOOSTING)]
    stored = [
        skops.io.dumps(head.build(0, balanced=True, pool=pool).fit(*rows_like_features(40, k)))
        for head in heads
        for pool in pools
        for k in (2, 3)
    ]
    needed = {kind for data in stored for kind in skops.io.get_untrusted_types(data=data)}
    assert needed <= set(TRUSTED_TYPES)
    for earlier in set(TRUSTED_TYPES) - needed:
        module, _, name = earlier.rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        assert f"{kind.__module__}.{kind.__name__}" in needed


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


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_class_of_one_image_is_refused_however_many_views_it_has(name):
    X, y, images = rows_in_views(21, 2, views=3)
    y[images == 0] = 2
    with pytest.raises(PipelineError, match="class 2 has a single training image"):
        fast(name, groups=images).fit(X, y)


def test_forest_on_sparse_rows_grows_the_same_trees_as_on_dense_ones():
    X, y = rows_like_features(80, 2)
    ours = fast("random-forest").fit(X, y)
    theirs = CoarseForest(100, random_state=0).fit(ours[:-1].transform(X).toarray(), y)
    V, _ = rows_like_features(40, 2, seed=1)
    unit = ours[:-1].transform(V).toarray()
    np.testing.assert_allclose(ours.predict_proba(V), theirs.predict_proba(unit), atol=1e-9)


def test_mlp_trains_for_the_epochs_that_it_is_told():
    X, y = rows_like_features(60, 2)
    assert fast("mlp", epochs=4).fit(X, y)[-1].n_iter_ == 4


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
    with pytest.raises(PipelineError, match="one or several of flatten, average, max"):
        get_head("knn").with_pools(pools, (2, 2, 32))


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
