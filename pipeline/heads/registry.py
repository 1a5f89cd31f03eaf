# ruff: noqa: N803 -- X, C and unused arguments are scikit-learn's interface
"""The classifiers ("heads") that are trained on cached features, by name.

Rows are a ``(n, d)`` float32 matrix, a row an image. With the default backbone and layer and images
of 150 x 150 pixels d is 8,192; about 93 % of the values are zeros, none is negative, and there are
fewer rows than columns. Measured on 2,624 photographs of solar cells (three seeds, judged on
validation):

* Every scikit-learn head first scales each row to length one. Raw values, square roots and scaled
  columns (``MaxAbsScaler``, ``StandardScaler(with_mean=False)``) were each worse on at least one
  seed, by 1 to 4 points; length one was at worst about 1 point below the best. It needs no
  fitting, and makes ``C`` and ``gamma`` mean the same whatever the scaling of pixels.
* ``logistic``, ``linear-svm``, ``random-forest`` and ``mlp`` get sparse rows (logistic regression
  is 6 times as fast), unless more than half of the values are not zero. ``ridge``,
  ``lda``, ``rbf-svm`` and ``knn`` need only the rows' inner products, which are computed once: see
  `pipeline.heads.gram`.
* ``logistic``, ``mlp`` and ``dense`` are trained to give probabilities, and ``random-forest``
  counts votes. The others are calibrated by Platt's sigmoid on out-of-fold scores of the training
  rows.
* Grids go beyond the least log loss of 5-fold cross-validation on both sides, in steps that change
  it by about 0.01. Flattened and pooled rows differ in where it is: ``lda`` at a shrinkage of 0.8
  and 0.3, ``logistic`` at ``C`` of 10 and 100.
* ``mlp`` has its least log loss at about 10 epochs, with 300 images as with all; from 20 epochs on
  it overfits. ``random-forest`` has no grid: leaves of three or five images were never better than
  leaves of one by more than 0.002, and in general the size of leaves matters little (P. Probst et
  al., *Tunability*, Journal of Machine Learning Research 20, 2019).
* ``dense`` centres and scales rows. ``textbook-dense`` is the same network as the textbook trains
  it, on rows as they are; ``all`` does not include it.
* With two classes, ``lda`` and ``ridge`` have the same direction, with other constants.

Importing this module does not import TensorFlow; only fitting or building ``dense`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer
from sklearn.svm import LinearSVC

from pipeline.errors import PipelineError, did_you_mean
from pipeline.heads.custom import make_classifier
from pipeline.heads.dense import DenseHead, TextbookDenseHead
from pipeline.heads.estimators import (
    Balanced,
    CalibrationFolds,
    Classifier,
    CoarseForest,
    Groups,
    Pool,
    sparse_rows,
)
from pipeline.heads.gram import DiscriminantAnalysis, NearestNeighbours, RbfSVM, Ridge
from pipeline.heads.pooling import Pooling, check_pools
from pipeline.heads.products import GramClassifier

TRUSTED_TYPES: tuple[str, ...] = (
    "pipeline.heads.estimators.Balanced",
    "pipeline.heads.estimators.CalibrationFolds",
    "pipeline.heads.estimators.CoarseForest",
    "pipeline.heads.estimators.Pool",
    "pipeline.heads.estimators.sparse_rows",
    "pipeline.heads.gram.DiscriminantAnalysis",
    "pipeline.heads.gram.DualDiscriminant",
    "pipeline.heads.gram.DualRidge",
    "pipeline.heads.gram.NearestNeighbours",
    "pipeline.heads.gram.RbfSVM",
    "pipeline.heads.gram.Ridge",
    "pipeline.heads.gram.Votes",
    "pipeline.heads.machines.DualDiscriminant",
    "pipeline.heads.machines.DualRidge",
    "pipeline.heads.machines.DualSVM",
    "pipeline.heads.machines.Votes",
    "scipy.sparse._csr.csr_array",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
)
"""What ``skops.io.load`` must be told to trust, beyond its defaults, to read scikit-learn heads.

Models of version 0.1.0 name `DualDiscriminant`, `DualRidge` and `Votes` in `pipeline.heads.gram`.
"""


@dataclass(frozen=True)
class Head:
    """A kind of classifier, and the parameters to choose from.

    Attributes
    ----------
    name : str
        As users call it.
    build : callable
        ``build(seed, *, balanced=False, **parameters)`` returns a fresh, unfitted estimator.
        Balanced, all classes count the same, however many images each has.
    grid : tuple of mapping
        The candidates: parameters for ``build``, from strong to weak regularisation.
    early_stopping : bool
        Whether ``fit`` also takes ``validation_data`` and ``on_epoch``, as `DenseHead.fit` does.
    calibrated : bool
        Whether ``build`` also takes ``groups``, as `CalibrationFolds` does.
    triangular : bool
        Whether it learns the same, in less time, from `triangular_rows` where rows are dense.
    """

    name: str
    build: Callable[..., Classifier]
    grid: tuple[Mapping[str, Any], ...] = field(default=({},))
    early_stopping: bool = False
    calibrated: bool = False
    triangular: bool = False

    def candidate(
        self,
        seed: int,
        parameters: Mapping[str, Any],
        *,
        balanced: bool = False,
        groups: Groups | None = None,
    ) -> Classifier:
        """Return an unfitted estimator with these parameters.

        `groups`, of the rows that it will be fitted to, only matter to a calibrated head.
        """
        options: dict[str, Any] = {"balanced": True} if balanced else {}
        if self.calibrated and groups is not None:
            options["groups"] = groups
        return self.build(seed, **parameters, **options)

    def with_pools(self, pools: Sequence[str], shape: tuple[int, int, int]) -> Head:
        """Return this head on pooled rows: each pooling with each of the grid is a candidate.

        `shape` is the height, width and channels of a row before it was flattened.
        """
        named = list(dict.fromkeys(pools))
        check_pools(named)
        if named == ["flatten"]:
            return self

        def build(seed: int, *, pool: Pooling = "flatten", **params: Any) -> Classifier:
            return _pooled(self.build(seed, **params), pool, shape)

        grid = tuple({"pool": pool, **params} for pool in named for params in self.grid)
        return replace(self, build=build, grid=grid)

    def only(self, wanted: Callable[[Mapping[str, Any]], bool]) -> Head:
        """Return this head with the candidates that are wanted."""
        return replace(self, grid=tuple(filter(wanted, self.grid)))


def _pooled(estimator: Any, pool: Pooling, shape: tuple[int, int, int]) -> Classifier:
    if isinstance(estimator, DenseHead):
        return estimator.set_params(pool=pool, shape=shape)  # type: ignore[no-any-return]
    if pool == "flatten":
        return estimator  # type: ignore[no-any-return]
    return make_pipeline(Pool(pool, shape), *(step for _, step in estimator.steps))  # type: ignore[no-any-return]


def _sparse_unit_rows() -> list[Any]:
    return [FunctionTransformer(sparse_rows), Normalizer()]


def _calibrated(
    classifier: Any, seed: int, groups: Groups | None, balanced: bool
) -> CalibratedClassifierCV | Balanced:
    # One classifier on all rows, not one a fold: the model is smaller and predicts faster.
    calibrated = CalibratedClassifierCV(
        classifier, cv=CalibrationFolds(seed, groups), ensemble=False
    )
    return Balanced(calibrated) if balanced else calibrated


def _logistic(seed: int, *, balanced: bool = False, C: float = 10.0) -> Classifier:
    # 120 iterations were enough at C = 300; 2,000 leave room for harder data.
    classifier = LogisticRegression(
        C=C, max_iter=2000, random_state=seed, class_weight="balanced" if balanced else None
    )
    return make_pipeline(*_sparse_unit_rows(), classifier)  # type: ignore[no-any-return]


def _linear_svm(
    seed: int, *, groups: Groups | None = None, balanced: bool = False, C: float = 1.0
) -> Classifier:
    # The dual solver draws from one generator for the whole process, so fits in parallel threads
    # would change each other's results, within the tolerance.
    svm = LinearSVC(C=C, dual=False, max_iter=20_000)
    return make_pipeline(*_sparse_unit_rows(), _calibrated(svm, seed, groups, balanced))  # type: ignore[no-any-return]


def _on_products(kind: type[GramClassifier]) -> Callable[..., Classifier]:
    def build(
        seed: int, *, groups: Groups | None = None, balanced: bool = False, **params: Any
    ) -> Classifier:
        machine = kind(random_state=seed, groups=groups, balanced=balanced, **params)
        return make_pipeline(Normalizer(), machine)  # type: ignore[no-any-return]

    return build


def _random_forest(
    seed: int, *, balanced: bool = False, min_samples_leaf: int = 1, n_estimators: int = 100
) -> Classifier:
    forest = CoarseForest(
        n_estimators,
        min_samples_leaf=min_samples_leaf,
        random_state=seed,
        class_weight="balanced" if balanced else None,
    )
    return make_pipeline(*_sparse_unit_rows(), forest)  # type: ignore[no-any-return]


_MLP_BATCH = 32  # with larger batches, few images make too few steps


def _mlp(seed: int, *, balanced: bool = False, epochs: int = 10, units: int = 32) -> Classifier:
    # A fixed number of epochs (3 or more) regularises it. No epoch improves the loss by `tol`, so
    # training ends as soon as n_iter_no_change allows; with max_iter alone it would warn.
    # (`partial_fit` for each epoch shuffles otherwise; on the demo it was 0.4 points worse.)
    network: Any = MLPClassifier(
        (units,),
        batch_size=_MLP_BATCH,
        learning_rate_init=3e-3,
        max_iter=epochs + 1,
        n_iter_no_change=epochs - 2,
        tol=1e9,
        random_state=seed,
    )
    return make_pipeline(*_sparse_unit_rows(), Balanced(network) if balanced else network)  # type: ignore[no-any-return]


def _dense(seed: int, *, kind: type[DenseHead] = DenseHead, **params: Any) -> Classifier:
    return kind(random_state=seed, **params)


def _grid(parameter: str, *values: float) -> tuple[Mapping[str, Any], ...]:
    return tuple({parameter: value} for value in values)


_ALL = (
    Head("logistic", _logistic, _grid("C", 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)),
    Head("ridge", _on_products(Ridge), _grid("alpha", 3.0, 1.0, 0.3, 0.1, 0.03), calibrated=True),
    Head(
        "lda",
        _on_products(DiscriminantAnalysis),
        _grid("shrinkage", 0.9, 0.8, 0.6, 0.3),
        calibrated=True,
    ),
    Head(
        "linear-svm", _linear_svm, _grid("C", 0.3, 1.0, 3.0, 10.0), calibrated=True, triangular=True
    ),
    Head("rbf-svm", _on_products(RbfSVM), _grid("gamma", 0.5, 1.0, 2.0), calibrated=True),
    Head(
        "knn", _on_products(NearestNeighbours), _grid("n_neighbors", 40, 20, 10, 5), calibrated=True
    ),
    Head("random-forest", _random_forest),
    Head("mlp", _mlp, _grid("epochs", 5, 10)),
    # Regularised by dropout and early stopping, so there is no grid.
    Head("dense", _dense, early_stopping=True),
)

HEADS: Mapping[str, Head] = MappingProxyType({head.name: head for head in _ALL})
"""The heads that ``all`` stands for, by name."""

_TEXTBOOK = Head(
    "textbook-dense",
    partial(_dense, kind=TextbookDenseHead, learning_rate=6.4e-5),
    early_stopping=True,
)
KNOWN_HEADS: Mapping[str, Head] = MappingProxyType({**HEADS, _TEXTBOOK.name: _TEXTBOOK})
"""Every head, by name."""


def get_head(name: str) -> Head:
    """Return the head of a name.

    Parameters
    ----------
    name : str
        One of `KNOWN_HEADS`, or ``module:factory`` for any scikit-learn classifier: what the
        factory returns when called without arguments. It is fitted to dense rows of length one, in
        float64; its ``random_state``, if it has one, is set to the seed; it is calibrated if it
        has no ``predict_proba``.

    Raises
    ------
    PipelineError
        The name is unknown (the message lists the names), the module or factory cannot be
        imported, or the factory raises or returns no classifier.
    """
    if name in KNOWN_HEADS:
        return KNOWN_HEADS[name]
    if ":" not in name:
        raise PipelineError(
            f"unknown head {name!r}.",
            expected=f"one of {', '.join(KNOWN_HEADS)}, "
            "or module:factory for a scikit-learn classifier",
            fix=did_you_mean(name, list(KNOWN_HEADS)),
        )
    make_classifier(name, 0, balanced=False)  # fail now, not when it is first fitted

    def build(seed: int, *, groups: Groups | None = None, balanced: bool = False) -> Classifier:
        made = make_classifier(name, seed, balanced=balanced)
        if not hasattr(made, "predict_proba"):
            made = _calibrated(made, seed, groups, balanced)
        # In float32, sums over thousands of columns lose so many digits that the probabilities of
        # naive Bayes do not sum to 1.
        return make_pipeline(FunctionTransformer(np.float64), Normalizer(), made)  # type: ignore[no-any-return]

    return Head(name, build, calibrated=True)
