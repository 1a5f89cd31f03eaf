"""A fitted head into files and back."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skops.io

from pipeline.backbones.recipe import Recipe
from pipeline.errors import ModelError
from pipeline.heads.dense import DenseHead, build_dense
from pipeline.heads.estimators import Classifier
from pipeline.heads.registry import TRUSTED_TYPES
from pipeline.models.checking import check_classifier, check_parts
from pipeline.models.files import (
    KERAS_FILE,
    KINDS,
    MANIFEST,
    SKLEARN_FILE,
    Manifest,
    damaged,
    read_checked,
)
from pipeline.models.head_files import check_skops, check_weights
from pipeline.models.network import Network, TunedClassifier


def save_head(
    estimator: Classifier | TunedClassifier, folder: Path
) -> tuple[list[Path], dict[str, Any]]:
    """Write a head into a model's folder; return its files, and what it was built with."""
    if isinstance(estimator, TunedClassifier):
        return estimator.save(folder), estimator.parameters
    if isinstance(estimator, DenseHead):
        file = folder / KERAS_FILE
        estimator.model_.save_weights(file)
        return [file], estimator.get_params()
    file = folder / SKLEARN_FILE
    skops.io.dump(estimator, file)
    return [file], {}


def load_head(
    folder: Path, manifest: Manifest, recipe: Recipe, trusted: Sequence[str]
) -> Classifier | TunedClassifier:
    """Load the head of a model, after checking every byte of its files."""
    kind = KINDS.get(tuple(manifest.files))
    if kind is None:
        named = " and ".join(manifest.files) or "no file"
        raise damaged(folder, f"{MANIFEST} names {named}, which is not what a head consists of")
    contents = {file: read_checked(folder, file, own) for file, own in manifest.files.items()}
    estimator: Classifier | TunedClassifier
    try:
        if kind == "sklearn":
            estimator = _load_sklearn(contents[SKLEARN_FILE], trusted, folder)
            check_parts(estimator)
        else:
            load = _load_dense if kind == "dense" else _load_tuned
            content = contents[KERAS_FILE]
            estimator = load(content, manifest.parameters, recipe, manifest.classes)
        check_classifier(estimator, math.prod(recipe.shape), len(manifest.classes))
    except ModelError:
        raise
    except Exception as error:  # skops, Keras and h5py raise many kinds
        raise ModelError(
            f"the model in {folder} cannot be loaded: {error}",
            expected="a head that this program saved, with its own types only",
            fix="do not use it unless you know who made it; train the model again",
        ) from error
    return estimator


def _load_sklearn(content: bytes, trusted: Sequence[str], folder: Path) -> Classifier:
    """Load a head of scikit-learn's kind, if it holds trusted types only."""
    check_skops(content)
    known = [*TRUSTED_TYPES, *trusted]
    if types := sorted(set(skops.io.get_untrusted_types(data=content)).difference(known)):
        options = " ".join(f"--trust {name}" for name in types)
        raise ModelError(
            f"the model in {folder} cannot be loaded: untrusted types are in it.",
            expected="a head that this program saved, with its own types only",
            fix="do not use it unless you know who made it: loading can run code of those types. "
            f"If you do, as for a head given as module:factory, add {options} to `pipeline "
            f"predict`, or from Python call Model.load(folder, trusted={types})",
        )
    estimator: Classifier = skops.io.loads(content, trusted=known)
    return estimator


def _load_dense(
    content: bytes, parameters: dict[str, Any], recipe: Recipe, classes: Sequence[str]
) -> Classifier:
    """Load the weights of a dense head."""
    check_weights(content)
    estimator = DenseHead(**parameters)
    features = math.prod(recipe.shape)
    _require_units(estimator.units, estimator.width(features), content)
    estimator.model_ = build_dense(
        estimator.width(features), len(classes), units=estimator.units, dropout=estimator.dropout
    )
    _load_weights(estimator.model_, content)
    estimator.classes_ = np.arange(len(classes))
    estimator.n_features_in_ = features
    return estimator


def _load_tuned(
    content: bytes, parameters: dict[str, Any], recipe: Recipe, classes: Sequence[str]
) -> TunedClassifier:
    """Load the weights of a fine-tuned network above its frozen part."""
    check_weights(content)
    _require_units(parameters.get("units", 1), 1, content)
    network = Network(recipe, len(classes), weights=None, **parameters)
    _load_weights(network.tail, content)
    return TunedClassifier(network, len(classes), parameters)


def _require_units(units: Any, width: int, content: bytes) -> None:
    """Refuse a network that is larger than its weights, before it is built."""
    if type(units) is not int or not 0 < 4 * units * width <= len(content):
        raise ValueError(f"{units} units are not in {len(content):,} bytes of weights")


def _load_weights(network: Any, content: bytes) -> None:
    """Load weights from the very bytes that were checked: Keras reads only files."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, KERAS_FILE)
        file.write_bytes(content)
        network.load_weights(file)
    if not all(np.isfinite(weights).all() for weights in network.get_weights()):
        raise ValueError("its weights are not finite numbers")
