"""Heads by module:factory."""

import numpy as np
import pytest
import skops.io
from rows import rows_like_features
from sklearn.linear_model import LinearRegression
from sklearn.svm import LinearSVC

from pipeline.errors import PipelineError
from pipeline.heads.registry import TRUSTED_TYPES, get_head


def scores_only():
    return LinearSVC()


def fails():
    raise RuntimeError("no such licence")


def regression():
    return LinearRegression()


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(
    "name", ["sklearn.naive_bayes:GaussianNB", "test_custom:scores_only", "sklearn.svm:SVC"]
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
        ("test_custom:fails", r"test_custom:fails fails: RuntimeError: no such licence"),
        ("sklearn.base:clone", r"fails: TypeError: .*argument"),
        ("test_custom:regression", r"is a LinearRegression, not a classifier"),
        ("builtins:dict", r"is a dict, not a classifier"),
        ("sklearn.ensemble:VotingClassifier", r"fails: TypeError"),
    ],
)
def test_a_factory_that_cannot_serve_is_named_with_its_error(name, message):
    with pytest.raises(PipelineError, match=message):
        get_head(name)


def test_a_classifier_without_weights_cannot_be_balanced():
    head = get_head("sklearn.neighbors:KNeighborsClassifier")
    with pytest.raises(PipelineError, match="KNeighborsClassifier takes no sample_weight"):
        head.build(0, balanced=True)
