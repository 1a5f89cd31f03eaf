"""The files of a saved model, checked before they are loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbones.recipe import Recipe
from pipeline.errors import ModelError
from pipeline.heads import registry as heads
from pipeline.heads.dense import DenseHead
from pipeline.heads.estimators import Classifier
from pipeline.models.network import Network, TunedClassifier

SCHEMA = 1
"""Version of the model folder's layout."""

MANIFEST = "manifest.json"
SKLEARN_FILE = "head.skops"
KERAS_FILE = "head.weights.h5"
_WHOLE_FILE = "model.keras"  # for use elsewhere: here it would be a second copy of the base
KINDS = {(SKLEARN_FILE,): "sklearn", (KERAS_FILE,): "dense", (KERAS_FILE, _WHOLE_FILE): "tuned"}


def find_model(folder: Path, head: str | None = None) -> Path:
    """Find the model's own folder, given that or a run's.

    Parameters
    ----------
    folder : Path
        ``runs/<name>``, or a model's folder.
    head : str, optional
        Which head of the run; the default is the one that was best on validation.

    Raises
    ------
    ModelError
        There is no such run, model or head.
    """
    run_file = folder / "run.json"
    if not run_file.exists():
        if head:
            raise ModelError(
                f"{folder} is not a run, so there is no head to choose in it.",
                expected="the folder of a run, which holds run.json",
                fix="leave --head away if it is a model's own folder",
            )
        return folder
    try:
        name = head or json.loads(run_file.read_bytes())["best"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{run_file} cannot be read: {error}.", fix="name one of the folders in models/ itself"
        ) from error
    heads_there = sorted(path.name for path in (folder / "models").glob("*"))
    if folder_name(str(name)) not in heads_there:
        raise ModelError(
            f"the run {folder} has no head {name!r}.",
            expected=f"one of {', '.join(heads_there)}",
            fix=f"name another head or run, or train it: `pipeline classify DATA --head {name}`",
        )
    return folder / "models" / folder_name(str(name))


def folder_name(head: str) -> str:
    """Give a head's name as part of a file's: Windows allows no colon there."""
    return head.replace(":", "--")


def read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        schema = int(manifest["schema"])
    except OSError as error:
        raise ModelError(
            f"there is no model in {folder}: {MANIFEST} cannot be read ({error.strerror}).",
            expected="a folder that `pipeline classify` wrote: runs/<name>, or one of its models",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(folder, f"{MANIFEST} is not a manifest") from error
    if schema > SCHEMA:
        raise ModelError(
            f"the model in {folder} is of schema version {schema}.",
            expected=f"version {SCHEMA} or older, which is what this installation reads",
            fix="update cached-feature-pipeline",
        )
    if manifest.pop("digest", None) != digest_of_manifest(manifest):
        raise damaged(folder, f"{MANIFEST} was changed since the model was saved")
    return manifest


def digest_of_manifest(manifest: dict[str, Any]) -> str:
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def damaged(folder: Path, reason: str) -> ModelError:
    return ModelError(
        f"the model in {folder} is damaged: {reason}.",
        expected="the files as `pipeline classify` wrote them",
        fix="copy the folder again from where it came, or train the model again",
    )


def read_checked(folder: Path, file: str, digest: str) -> bytes:
    try:
        content = (folder / file).read_bytes()
    except OSError as error:
        raise damaged(folder, f"{file} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise damaged(folder, f"{file} was changed since the model was saved")
    return content


def load_sklearn(content: bytes, trusted: Sequence[str], folder: Path) -> Classifier:
    import skops.io

    known = [*heads.TRUSTED_TYPES, *trusted]
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


def load_dense(
    file: Path, parameters: dict[str, Any], recipe: Recipe, classes: Sequence[str]
) -> Classifier:
    estimator = DenseHead(**parameters)
    features = int(np.prod(recipe.shape))
    estimator.model_ = heads.build_dense(
        estimator.width(features), len(classes), units=estimator.units, dropout=estimator.dropout
    )
    estimator.model_.load_weights(file)
    estimator.classes_ = np.arange(len(classes))
    estimator.n_features_in_ = features
    return estimator


def load_tuned(
    file: Path, parameters: dict[str, Any], recipe: Recipe, classes: Sequence[str]
) -> TunedClassifier:
    network = Network(recipe, len(classes), weights=None, **parameters)
    network.tail.load_weights(file)
    return TunedClassifier(network, len(classes), parameters)
