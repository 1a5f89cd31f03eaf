import numpy as np
import pytest
from rows import NAMES, rows_like_features
from sklearn.svm import SVC

from pipeline.errors import ModelError
from pipeline.heads.gram import RbfSVM
from pipeline.heads.registry import get_head
from pipeline.models.graphs import HeadGraph
from pipeline.system import tensorflow

CUSTOM = {
    "rows:calibrated_logistic",
    "rows:calibrated_svm",
    "sklearn.linear_model:LogisticRegression",
    "sklearn.linear_model:RidgeClassifier",
    "sklearn.discriminant_analysis:LinearDiscriminantAnalysis",
    "sklearn.svm:LinearSVC",
    "sklearn.ensemble:ExtraTreesClassifier",
    "sklearn.tree:DecisionTreeClassifier",
}
SHAPE = (2, 2, 24)


def graph_of(estimator, width, precise="float64"):
    _, keras = tensorflow.load()
    rows = keras.Input((width,))
    p = HeadGraph(precise).probabilities(estimator, rows)
    return keras.Model(rows, keras.ops.cast(p, "float32"))


def new_rows(k):
    """Rows like those of new images, of images that were learned from, and one of zeros."""
    X, y = rows_like_features(84, k, 96)
    unseen, _ = rows_like_features(60, k, 96, seed=5)
    return X, y, np.concatenate([unseen, X[:20], np.zeros((1, 96), np.float32)])


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", [*NAMES, *sorted(CUSTOM)])
def test_a_graph_gives_the_probabilities_of_its_classifier(name, classes):
    X, y, new = new_rows(classes)
    options = {"epochs": 2, "units": 8} if name == "dense" else {}
    fitted = get_head(name).build(0, **options).fit(X, y)
    expected = fitted.predict_proba(new)
    got = np.asarray(graph_of(fitted, 96)(new))
    assert np.abs(got - expected).max() < 1e-6
    assert expected.std() > 0.01
    coarse = np.asarray(graph_of(fitted, 96, "float32")(new))
    # All rows are equally far from the last one, of zeros, but for rounding.
    assert np.abs(coarse - expected)[:-1].max() < 1e-4


def test_machines_for_each_pair_of_classes_vote_as_in_older_models(monkeypatch):
    monkeypatch.setattr(RbfSVM, "_machine", lambda own: SVC(kernel="precomputed", C=own.C))
    X, y, new = new_rows(4)
    fitted = get_head("rbf-svm").build(0).fit(X, y)
    assert np.abs(np.asarray(graph_of(fitted, 96)(new)) - fitted.predict_proba(new)).max() < 1e-6


@pytest.mark.parametrize("pool", ["average", "max"])
@pytest.mark.parametrize("name", ["logistic", "knn", "dense"])
def test_pooled_and_balanced_rows_are_handled(name, pool):
    X, y, new = new_rows(3)
    head = get_head(name).with_pools([pool], SHAPE)
    options = {"epochs": 2, "units": 8} if name == "dense" else {}
    fitted = head.build(0, pool=pool, balanced=True, **options).fit(X, y)
    assert np.abs(np.asarray(graph_of(fitted, 96)(new)) - fitted.predict_proba(new)).max() < 1e-6


def test_the_row_of_a_training_image_may_have_other_last_bits():
    X, y, _ = new_rows(2)
    fitted = get_head("knn").build(0).fit(X, y)
    rng = np.random.default_rng(0)
    noise = rng.uniform(-1e-6, 1e-6, X.shape)
    least = np.where(X > 0, X, np.inf).argmin(axis=1)
    noise[np.arange(len(X)), least] = 1 / 256  # a value that is rounded the other way
    near = (X * (1 + noise)).astype(np.float32)
    for precise in ("float64", "float32"):
        got = np.asarray(graph_of(fitted, 96, precise)(near))
        assert np.abs(got - fitted.predict_proba(X)).max() < 1e-5


def test_another_classifier_is_one_error_that_says_what_can_be_exported():
    X, y, _ = new_rows(2)
    fitted = get_head("sklearn.naive_bayes:GaussianNB").build(0).fit(X, y)
    with pytest.raises(ModelError, match="cannot be exported: it has a GaussianNB") as error:
        graph_of(fitted, 96)
    assert "a logistic regression" in str(error.value)
