"""A head that was loaded, looked through before it predicts: it may be a stranger's.

scikit-learn believes what is in a fitted estimator. Its compiled parts read memory at the indices
that they find there, follow a tree's nodes as long as there is a next one, and end the process
where an index is wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import is_classifier
from sklearn.ensemble import BaseEnsemble
from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.exceptions import NotFittedError
from sklearn.neighbors._base import NeighborsBase
from sklearn.svm._base import BaseLibSVM, BaseSVC
from sklearn.tree._tree import Tree

_NEED_NOT_BE_FINITE = {
    *("cv_results_", "oob_decision_function_", "pvalues_", "scores_"),  # what a fit was like
    *("bin_edges_", "bin_thresholds_"),  # the outer ones are infinite
    *("_fill_value_above", "_fill_value_below", "_fill_value_orig"),  # of isotonic calibration
}
_PLAIN = (str, bytes, int, float, complex, type, type(None))


def check_parts(estimator: Any) -> None:
    """Refuse, with a ValueError, what holds numbers that are not finite, or indices out of bounds.

    Nothing of it is run.
    """
    if not is_classifier(estimator):
        raise ValueError(f"a {type(estimator).__name__} is not a classifier")
    for part in _parts(estimator):
        _check_part(part)


def check_classifier(estimator: Any, width: int, classes: int) -> None:
    """Refuse, with a ValueError, what is not fitted, or not to rows of so many values.

    Its classes must be the numbers from 0 on. It is tried on one row, of which it may say that it
    is like none that it learned from, as some classifiers do with an error or with NaN.
    """
    if not np.array_equal(getattr(estimator, "classes_", ()), range(classes)):
        raise ValueError(f"it is not fitted, or not to {classes} classes")
    known = getattr(estimator, "n_features_in_", None)
    if known not in (None, width):
        raise ValueError(f"it is for rows of {known} values, not of {width}")
    row = np.linspace(0.5, 1.5, width, dtype=np.float32)[None]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            p = np.asarray(estimator.predict_proba(row))
        except ValueError as error:
            if known is None or isinstance(error, NotFittedError):
                raise
            return
    if p.shape != (1, classes) or p.dtype.kind != "f":
        raise ValueError("what it predicts are not probabilities of its classes")


def _parts(estimator: Any) -> Iterator[Any]:
    """Yield an estimator and all that it holds, each once."""
    seen: set[int] = set()
    stack = [estimator]
    while stack:
        part = stack.pop()
        if isinstance(part, _PLAIN) or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, dict):
            stack += [value for name, value in part.items() if name not in _NEED_NOT_BE_FINITE]
        elif isinstance(part, list | tuple | set):
            stack += part
        elif isinstance(part, np.ndarray) and part.dtype == object:
            stack += part.ravel().tolist()
        elif hasattr(part, "__dict__") and not issparse(part):
            stack.append(vars(part))


def _check_part(part: Any) -> None:
    """Check one part of an estimator, as far as compiled code relies on it."""
    if isinstance(part, np.ndarray | np.generic) and part.dtype.kind == "f":
        _require(bool(np.isfinite(part).all()), "its numbers are not finite")
    elif issparse(part):
        _require(part.format in ("csr", "csc"), f"it has sparse rows in the format {part.format}")
        part.check_format(full_check=True)
        _check_part(part.data)
    elif isinstance(part, Tree):
        _check_tree(part)
    elif isinstance(part, BaseLibSVM) and hasattr(part, "support_"):
        _check_svm(part)
    elif isinstance(part, NeighborsBase) and hasattr(part, "_fit_X"):
        _check_neighbours(part)
    elif hasattr(part, "_predictors"):
        for predictor in _flat(part._predictors):
            _check_predictor(predictor, part.n_features_in_)
    elif isinstance(getattr(part, "tree_", None), Tree):
        _require(part.tree_.n_features == part.n_features_in_, "a tree is for other rows")
    elif isinstance(part, BaseEnsemble) and hasattr(part, "estimators_"):
        _check_ensemble(part)


def _check_tree(tree: Tree) -> None:
    _require(0 < tree.node_count == tree.capacity, "a tree has more nodes than are there")
    left, right, feature = tree.children_left, tree.children_right, tree.feature
    inner = left != -1  # where there is a next node; each comes after its parent
    numbers = np.arange(tree.node_count)[inner]
    for following in (left[inner], right[inner]):
        good = (following > numbers) & (following < tree.node_count)
        _require(bool(good.all()), "a tree's nodes do not follow each other")
    good = (feature[inner] >= 0) & (feature[inner] < tree.n_features)
    _require(bool(good.all()), "a tree asks for values that rows do not have")
    _check_part(tree.value)
    _check_part(tree.threshold)


def _check_predictor(predictor: Any, width: int) -> None:
    """Check a tree of gradient boosting by histograms."""
    nodes: Any = getattr(predictor, "nodes", np.empty(0))
    right_type = isinstance(predictor, TreePredictor) and nodes.dtype == PREDICTOR_RECORD_DTYPE
    _require(right_type and nodes.ndim == 1 and len(nodes) > 0, "a tree has no nodes")
    numbers, inner = np.arange(len(nodes)), nodes[nodes["is_leaf"] == 0]
    numbers = numbers[nodes["is_leaf"] == 0]
    for following in (inner["left"], inner["right"]):
        good = (following > numbers) & (following < len(nodes))
        _require(bool(good.all()), "a tree's nodes do not follow each other")
    good = (inner["feature_idx"] >= 0) & (inner["feature_idx"] < width)
    good &= inner["is_categorical"] == 0
    _require(bool(good.all()), "a tree asks for values that rows do not have")
    _check_part(nodes["value"])


def _check_ensemble(ensemble: Any) -> None:
    """Check that trees are for the rows that they get, unchecked, from what holds them."""
    estimators = ensemble.estimators_
    columns = getattr(ensemble, "n_trees_per_iteration_", None)
    if columns is not None:  # gradient boosting
        _require(np.shape(estimators)[1:] == (columns,), "it has other trees than classes")
        _require(all(hasattr(own, "tree_") for own in _flat(estimators)), "a tree has no nodes")
        first = ensemble._raw_predict_init(np.ones((1, ensemble.n_features_in_), np.float32))
        _require(first.shape == (1, columns), "it has other trees than classes")
    if hasattr(ensemble, "estimators_features_"):  # each gets columns of its own, and checks them
        return
    for own in _flat(estimators):
        good = getattr(own, "n_features_in_", None) == ensemble.n_features_in_
        _require(good, "a tree is for other rows")


def _check_svm(svm: Any) -> None:
    support, counts = np.asarray(svm.support_), np.asarray(svm._n_support)
    k, dual = len(svm.classes_), svm._dual_coef_
    pairs = k * (k - 1) // 2
    shapes = [(dual.shape, (k - 1, len(support))), (np.shape(svm._intercept_), (pairs,))]
    shapes += [(np.shape(svm.dual_coef_), dual.shape), (counts.shape, (k,))]
    if svm.kernel != "precomputed":
        width = svm.n_features_in_
        shapes += [(svm.support_vectors_.shape, (len(support), width)), (svm.shape_fit_[1], width)]
    good = isinstance(svm, BaseSVC) and k > 1 and "_impl" not in vars(svm)
    good = good and all(found == expected for found, expected in shapes)
    good = good and all(np.shape(own) in ((0,), (pairs,)) for own in (svm._probA, svm._probB))
    good = good and counts.min() >= 0 and counts.sum() == len(support) > 0
    good = good and support.ndim == 1 and 0 <= support.min() <= support.max() < svm.shape_fit_[0]
    _require(bool(good), "its support vectors do not fit each other")


def _check_neighbours(neighbours: Any) -> None:
    rows = neighbours._fit_X
    good = neighbours.n_samples_fit_ == rows.shape[0] > 0 and len(rows.shape) == 2
    if hasattr(neighbours, "classes_"):
        labels = np.asarray(neighbours._y)
        good = good and labels.shape == (rows.shape[0],) and labels.dtype.kind in "iu"
        good = good and 0 <= labels.min() <= labels.max() < len(neighbours.classes_)
    _require(bool(good), "its neighbours do not fit each other")


def _flat(parts: Any) -> Sequence[Any]:
    """List the trees of nested lists, or of an array."""
    if isinstance(parts, np.ndarray):
        return parts.ravel().tolist()
    return [own for part in parts for own in (part if isinstance(part, list) else [part])]


def _require(good: bool, otherwise: str) -> None:
    if not good:
        raise ValueError(otherwise)
