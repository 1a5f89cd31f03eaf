# ruff: noqa: N803 -- X, C and unused arguments are scikit-learn's interface
"""The classifiers ("heads") that are trained on cached features, by name.

Rows come in as a ``(n, d)`` float32 matrix, one flattened row an image; ``d = 8192`` by default.
About 93 % of the values are zeros, none is negative, and there are fewer rows than columns. What follows from that, measured on 2,624
photographs of solar cells (three seeded splits, judged on validation):

* Every scikit-learn head first brings each row to length one. Raw values, square roots and
  per-column scaling (``MaxAbsScaler``, ``StandardScaler(with_mean=False)``) were each worse on at
  least one split, by 1 to 4 points; this was about 1 point from the best at worst. It needs no
  fitting, and makes ``C`` and ``gamma`` mean the same whether features were made with the
  network's own preprocessing or with the textbook's 1/255.
* ``logistic``, ``linear-svm``, ``random-forest`` and ``mlp`` get sparse rows (logistic regression:
  6 times as fast, forests twice). ``ridge``, ``lda``, ``rbf-svm`` and ``knn`` need the rows' inner
  products only, which BLAS computes once: see `pipeline.heads.gram`.
* Every head gives probabilities. Those of ``logistic``, ``mlp`` and ``dense`` come from their loss,
  those of ``random-forest`` from its trees. The others are calibrated by Platt's sigmoid on
  out-of-fold scores, inside the training rows.
* Grids go over the least log loss of 5-fold cross-validation on these images to either side, in
  steps that change it by about 0.01. Flattened and pooled rows have theirs at different places:
  ``lda`` at a shrinkage of 0.8 and 0.3, ``logistic`` at ``C`` of 10 and 100.
* ``mlp`` has the least at 10 epochs or nearly, on 300 of these images as on all; from 20 on it
  learns by heart. ``random-forest`` has nothing to search: leaves of three or five images were
  never better than leaves of one by more than 0.002, and the size of leaves matters little in
  general (P. Probst et al., *Tunability*, Journal of Machine Learning Research 20, 2019).
* Two classes make ``lda`` and ``ridge`` the same direction, with other constants.

Importing this module never imports TensorFlow; only fitting or building ``dense`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer
from sklearn.svm import LinearSVC

from pipeline.errors import PipelineError
from pipeline.heads.custom import make_classifier
from pipeline.heads.dense import DenseHead, build_dense
from pipeline.heads.estimators import Balanced, CalibrationFolds, Classifier, Pool
from pipeline.heads.gram import DiscriminantAnalysis, NearestNeighbours, RbfSVM, Ridge
from pipeline.heads.pooling import POOLS, Pooling
from pipeline.heads.products import GramClassifier

__all__ = [
    "HEADS",
    "POOLS",
    "TRUSTED_TYPES",
    "Classifier",
    "DenseHead",
    "GramClassifier",
    "Head",
    "Pool",
    "Pooling",
    "build_dense",
    "get_head",
    "sparse_unit_rows",
]

TRUSTED_TYPES: tuple[str, ...] = (
    "pipeline.heads.estimators.Balanced",
    "pipeline.heads.estimators.CalibrationFolds",
    "pipeline.heads.estimators.Pool",
    "pipeline.heads.gram.DiscriminantAnalysis",
    "pipeline.heads.gram.DualDiscriminant",
    "pipeline.heads.gram.DualRidge",
    "pipeline.heads.gram.NearestNeighbours",
    "pipeline.heads.gram.RbfSVM",
    "pipeline.heads.gram.Ridge",
    "pipeline.heads.gram.Votes",
    "pipeline.heads.machines.DualDiscriminant",
    "pipeline.heads.machines.DualRidge",
    "pipeline.heads.machines.Votes",
    "scipy.sparse._csr.csr_array",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
)
"""What ``skops.io.load`` must be told to trust beyond its defaults for scikit-learn heads."""


@dataclass(frozen=True)
class Head:
    """A kind of classifier, and what of it is to be chosen on validation.

    Attributes
    ----------
    name : str
        What the user calls it.
    summary : str
        What it is, in a line.
    build : callable
        ``build(seed, *, balanced=False, **params)`` gives a fresh, unfitted estimator. Balanced,
        all classes count the same, however many images each has.
    grid : tuple of mapping
        The candidates: parameters for ``build``, from strong to weak regularisation.
    early_stopping : bool
        Whether ``fit`` also takes ``validation_data`` and ``on_epoch``, as `DenseHead` does.
    calibrated : bool
        Whether ``build`` also takes ``groups``, as `CalibrationFolds` does.
    """

    name: str
    summary: str
    build: Callable[..., Classifier]
    grid: tuple[Mapping[str, Any], ...] = field(default=({},))
    early_stopping: bool = False
    calibrated: bool = False

    def with_pools(self, pools: Sequence[str], shape: tuple[int, int, int]) -> Head:
        """Give this head on pooled rows; each way is a candidate, with each of the grid.

        Parameters
        ----------
        pools : sequence of str
            Some of `POOLS`. ``"flatten"`` alone is the head as it is.
        shape : tuple of int
            Height, width and channels of a row, which comes flattened.

        Raises
        ------
        PipelineError
            There is no such pooling, or none is named.
        """
        named = list(dict.fromkeys(pools))
        unknown = [pool for pool in named if pool not in POOLS]
        if unknown or not named:
            raise PipelineError(
                f"There is no pooling {', '.join(map(repr, unknown)) or 'named'}.",
                expected=f"one of {', '.join(POOLS)}, or several.",
            )
        if named == ["flatten"]:
            return self

        def build(seed: int, *, pool: Pooling = "flatten", **params: Any) -> Classifier:
            return _pooled(self.build(seed, **params), pool, shape)

        grid = tuple({"pool": pool, **params} for pool in named for params in self.grid)
        return replace(self, build=build, grid=grid)


def _pooled(estimator: Any, pool: Pooling, shape: tuple[int, int, int]) -> Classifier:
    if isinstance(estimator, DenseHead):
        return estimator.set_params(pool=pool, shape=shape)  # type: ignore[no-any-return]
    if pool == "flatten":
        return estimator  # type: ignore[no-any-return]
    return make_pipeline(Pool(pool, shape), *(step for _, step in estimator.steps))  # type: ignore[no-any-return]


Groups = NDArray[np.int64] | None


def sparse_unit_rows() -> list[Any]:
    """Give the steps that linear heads begin with: sparse rows, then of length one."""
    return [FunctionTransformer(csr_array), Normalizer()]


def _calibrated(
    classifier: Any, seed: int, groups: Groups, balanced: bool
) -> CalibratedClassifierCV | Balanced:
    # One classifier on all rows, not one per fold: a model a fifth as large and as slow.
    calibrated = CalibratedClassifierCV(
        classifier, cv=CalibrationFolds(seed, groups), ensemble=False
    )
    return Balanced(calibrated) if balanced else calibrated


def _logistic(seed: int, *, balanced: bool = False, C: float = 10.0) -> Classifier:
    # At C = 300 it took 120 iterations; 2,000 leaves room for harder data.
    classifier = LogisticRegression(
        C=C, max_iter=2000, random_state=seed, class_weight="balanced" if balanced else None
    )
    return make_pipeline(*sparse_unit_rows(), classifier)  # type: ignore[no-any-return]


def _linear_svm(
    seed: int, *, groups: Groups = None, balanced: bool = False, C: float = 1.0
) -> Classifier:
    # Not the dual: liblinear draws from one generator for the whole process, so fits that run side
    # by side would disturb each other's order and, within the tolerance, the result.
    svm = LinearSVC(C=C, dual=False, max_iter=20_000)
    return make_pipeline(*sparse_unit_rows(), _calibrated(svm, seed, groups, balanced))  # type: ignore[no-any-return]


def _on_products(kind: type[GramClassifier]) -> Callable[..., Classifier]:
    def build(
        seed: int, *, groups: Groups = None, balanced: bool = False, **params: Any
    ) -> Classifier:
        machine = kind(random_state=seed, groups=groups, balanced=balanced, **params)
        return make_pipeline(Normalizer(), machine)  # type: ignore[no-any-return]

    return build


def _random_forest(
    seed: int, *, balanced: bool = False, min_samples_leaf: int = 1, n_estimators: int = 100
) -> Classifier:
    forest = RandomForestClassifier(
        n_estimators,
        min_samples_leaf=min_samples_leaf,
        random_state=seed,
        class_weight="balanced" if balanced else None,
    )
    return make_pipeline(*sparse_unit_rows(), forest)  # type: ignore[no-any-return]


_MLP_BATCH = 32  # small, or there are too few steps where there are few images


def _mlp(seed: int, *, balanced: bool = False, epochs: int = 10, units: int = 32) -> Classifier:
    # Ended after so many epochs (3 or more), and not when it has converged: that is what
    # regularises it. No epoch but the first is an improvement by 1e9, and it ends with the next
    # after n_iter_no_change without one.
    network: Any = MLPClassifier(
        (units,),
        batch_size=_MLP_BATCH,
        learning_rate_init=3e-3,
        max_iter=epochs + 1,
        n_iter_no_change=epochs - 2,
        tol=1e9,
        random_state=seed,
    )
    return make_pipeline(*sparse_unit_rows(), Balanced(network) if balanced else network)  # type: ignore[no-any-return]


def _dense(seed: int, *, balanced: bool = False, **params: Any) -> Classifier:
    return DenseHead(random_state=seed, balanced=balanced, **params)


HEADS: Mapping[str, Head] = MappingProxyType(
    {
        head.name: head
        for head in (
            Head(
                "logistic",
                "logistic regression",
                _logistic,
                tuple({"C": c} for c in (1.0, 3.0, 10.0, 30.0, 100.0)),
            ),
            Head(
                "ridge",
                "ridge regression on the classes",
                _on_products(Ridge),
                tuple({"alpha": a} for a in (3.0, 1.0, 0.3, 0.1)),
                calibrated=True,
            ),
            Head(
                "lda",
                "linear discriminant analysis with a shrunk covariance",
                _on_products(DiscriminantAnalysis),
                tuple({"shrinkage": s} for s in (0.9, 0.8, 0.6, 0.3)),
                calibrated=True,
            ),
            Head(
                "linear-svm",
                "linear support vector machine",
                _linear_svm,
                tuple({"C": c} for c in (0.1, 0.3, 1.0, 3.0)),
                calibrated=True,
            ),
            Head(
                "rbf-svm",
                "support vector machine with a Gaussian kernel",
                _on_products(RbfSVM),
                tuple({"gamma": g, "C": c} for g in (1.0, 2.0, 4.0) for c in (3.0, 10.0)),
                calibrated=True,
            ),
            Head(
                "knn",
                "k nearest neighbours by angle",
                _on_products(NearestNeighbours),
                tuple({"n_neighbors": k} for k in (40, 20, 10, 5)),
                calibrated=True,
            ),
            Head(
                "random-forest",
                "100 randomised decision trees",
                _random_forest,
            ),
            Head(
                "mlp",
                "a network with one hidden layer (scikit-learn)",
                _mlp,
                tuple({"epochs": n} for n in (5, 10)),
            ),
            Head(
                "dense",
                "the recipe's densely connected network (Keras)",
                _dense,
                # The recipe regularises by dropout and by stopping early on validation.
                early_stopping=True,
            ),
        )
    }
)
"""Every head, by name."""


def get_head(name: str) -> Head:
    """Give the head of that name.

    Parameters
    ----------
    name : str
        One of `HEADS`, or ``module:factory`` for any scikit-learn classifier: what the module's
        factory gives when called without arguments. It gets dense rows of length one, in
        float64, and `seed` where it takes a ``random_state``. One that gives no probabilities is
        calibrated.

    Raises
    ------
    PipelineError
        If there is none; the message lists the names. Or the module is not there, or the factory
        raises or gives no classifier.
    """
    if ":" in name:
        make_classifier(name, 0, balanced=False)  # what cannot work is said before the work

        def build(seed: int, *, groups: Groups = None, balanced: bool = False) -> Classifier:
            made = make_classifier(name, seed, balanced=balanced)
            if not hasattr(made, "predict_proba"):
                made = _calibrated(made, seed, groups, balanced)
            # A sum of logarithms over thousands of columns, as in naive Bayes, needs the digits: in
            # float32 its probabilities do not sum to 1.
            return make_pipeline(FunctionTransformer(np.float64), Normalizer(), made)  # type: ignore[no-any-return]

        return Head(name, f"what {name} makes", build, calibrated=True)
    try:
        return HEADS[name]
    except KeyError:
        raise PipelineError(
            f"There is no head named {name!r}.",
            expected=f"one of {', '.join(HEADS)}, or module:factory for a scikit-learn classifier.",
        ) from None
