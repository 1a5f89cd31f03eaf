"""A fitted classifier on disk and back: one folder that can be handed to someone else.

The folder holds `manifest.json` (recipe, classes, digests) and the head: `head.skops` for
scikit-learn's, `head.weights.h5` for Keras's. Neither is a pickle: loading runs no code of theirs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import heads
from pipeline.augment import Augmentation
from pipeline.backbone import Backbone, vgg16_recipe
from pipeline.errors import ImageError, ModelError, PipelineError
from pipeline.evaluate.threshold import Threshold
from pipeline.extraction import Forward, Task, Views, compute_rows
from pipeline.heads import Classifier, DenseHead
from pipeline.network import Network, TunedClassifier
from pipeline.recipe import Recipe
from pipeline.urls import Location, locate

SCHEMA = 1
"""Version of the model folder's layout."""

_MANIFEST = "manifest.json"
_SKLEARN_FILE = "head.skops"
_KERAS_FILE = "head.weights.h5"
_WHOLE_FILE = "model.keras"  # for use elsewhere: here it would be a second copy of the base
_KINDS = {(_SKLEARN_FILE,): "sklearn", (_KERAS_FILE,): "dense", (_KERAS_FILE, _WHOLE_FILE): "tuned"}


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes
    ----------
    path : Path or Url
        The image file.
    label : str or None
        What it is called: the likeliest class, or what the model's threshold says; None where the
        image could not be read.
    probabilities : dict of str to float
        Probability of each class; empty where the image could not be read.
    error : str or None
        Why the image could not be read.
    """

    path: Location
    label: str | None
    probabilities: dict[str, float]
    error: str | None = None


@dataclass(frozen=True)
class Model:
    """A fitted head, and all that is needed to apply it to an image file.

    Attributes
    ----------
    recipe : Recipe
        How an image becomes a row.
    head : str
        Name of the head.
    classes : tuple of str
        Class names, in the order of the head's probabilities.
    estimator : Classifier or TunedClassifier
        The fitted head, on flattened rows.
    views : int
        Number of views of an image whose probabilities are averaged, view 0 included.
    augmentation : str
        `pipeline.augment.Augmentation.name` of the views beyond view 0.
    trained_on : str
        `pipeline.dataset.Dataset.digest` of the images, labels and splits that it was trained on.
    threshold : Threshold or None
        From which probability on an image is called the positive one of two classes; None for the
        likeliest class.
    """

    recipe: Recipe
    head: str
    classes: tuple[str, ...]
    estimator: Classifier | TunedClassifier
    views: int = 1
    augmentation: str = "none"
    trained_on: str = ""
    threshold: Threshold | None = None

    def call(self, p: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Tell the class of each row, shape (n,), from probabilities of shape (n, k)."""
        if self.threshold:
            return self.threshold.apply(p)
        likeliest: npt.NDArray[np.int64] = p.argmax(axis=1)
        return likeliest

    def probabilities(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Apply the head to features.

        Parameters
        ----------
        rows : ndarray of float32, shape (n, height, width, channels)

        Returns
        -------
        ndarray of float64, shape (n, len(classes))
        """
        return np.asarray(self.estimator.predict_proba(rows.reshape(len(rows), -1)), np.float64)

    def predict(
        self,
        paths: Sequence[str | Path],
        *,
        weights: Path | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        backbone: Forward | None = None,
    ) -> Iterator[Prediction]:
        """Classify image files.

        Parameters
        ----------
        paths : sequence of str or Path
            The files.
        weights : Path, optional
            File with the backbone's weights; see `pipeline.weights.load_weights`.
        on_progress : callable, optional
            Called with the number of images done, and to do, after each batch.
        backbone : callable, optional
            What computes rows from pixels, in place of the recipe's backbone.

        Yields
        ------
        Prediction
            One for each file, in order.
        """
        files = [locate(path) for path in paths]
        report = on_progress or (lambda done, total: None)
        report(0, len(files))
        forward = backbone or Backbone(self.recipe, weights)
        done = 0
        tasks = (Task(file, views=tuple(range(self.views))) for file in files)
        recipe = replace(self.recipe, augmentation=self.augmentation)
        for batch in compute_rows(tasks, recipe, forward):
            rows = [row for _, found in batch if isinstance(found, list) for row in found]
            values = iter(self.probabilities(np.stack(rows)) if rows else ())
            for task, outcome in batch:
                if isinstance(outcome, ImageError):
                    yield Prediction(task.path, None, {}, outcome.found)
                else:
                    mean = np.mean([next(values) for _ in outcome], axis=0)
                    label = self.classes[int(self.call(mean[None])[0])]
                    yield Prediction(task.path, label, dict(zip(self.classes, mean.tolist())))
            done += len(batch)
            report(done, len(files))

    def save(self, folder: Path) -> None:
        """Write the model into a new folder.

        Raises
        ------
        FileExistsError
            The folder is there already.
        """
        folder.mkdir(parents=True)
        parameters: dict[str, Any] = {}
        if isinstance(self.estimator, TunedClassifier):
            files = self.estimator.save(folder)
            parameters = self.estimator.parameters
        elif isinstance(self.estimator, DenseHead):
            files = [folder / _KERAS_FILE]
            self.estimator.model_.save_weights(files[0])
            parameters = self.estimator.get_params()
        else:
            import skops.io

            files = [folder / _SKLEARN_FILE]
            skops.io.dump(self.estimator, files[0])
        manifest = {
            "schema": SCHEMA,
            "head": self.head,
            "classes": list(self.classes),
            "parameters": parameters,
            "recipe": asdict(self.recipe),
            "views": self.views,
            "augmentation": self.augmentation,
            "trained_on": self.trained_on,
            "threshold": self.threshold.to_dict() if self.threshold else None,
            "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        }
        manifest["digest"] = _digest(manifest)
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, *, trusted: Sequence[str] = ()) -> Model:
        """Read what `save` wrote, after checking every byte of it.

        Parameters
        ----------
        folder : Path
            The model's own folder.
        trusted : sequence of str
            Types that may be in it beside those of this program's own heads and those that skops
            trusts, which are most of scikit-learn's: what a head that was given as
            ``module:factory`` brings along. Loading them can run code of theirs.

        Raises
        ------
        ModelError
            There is no model, a file of it is missing or was changed, it is of a newer schema,
            it holds types that are not to be trusted, or this installation makes other features
            than those it was trained on.
        """
        manifest = _read_manifest(folder)
        try:
            files = dict(manifest["files"])
            recipe = Recipe.from_fields(manifest["recipe"])
            head, classes = str(manifest["head"]), tuple(manifest["classes"])
            parameters = dict(manifest["parameters"])
            # Models that were saved before there were views do not name them.
            views = int(manifest.get("views", 1))
            augmentation = str(manifest.get("augmentation", "none"))
            trained_on = str(manifest.get("trained_on", ""))
            fields = manifest.get("threshold")
            threshold = Threshold.from_dict(fields) if fields else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(folder, f"{_MANIFEST} is not a manifest") from error
        kind = _KINDS.get(tuple(files))
        if kind is None:
            named = " and ".join(files) or "no file"
            raise _damaged(
                folder, f"{_MANIFEST} names {named}, which is not what a head consists of"
            )
        _require_same_features(recipe, views, augmentation, folder)
        contents = {file: _read_checked(folder, file, digest) for file, digest in files.items()}
        estimator: Classifier | TunedClassifier
        try:
            if kind == "sklearn":
                estimator = _load_sklearn(contents[_SKLEARN_FILE], trusted, folder)
            elif kind == "dense":
                estimator = _load_dense(folder / _KERAS_FILE, parameters, recipe, classes)
            else:
                estimator = _load_tuned(folder / _KERAS_FILE, parameters, recipe, classes)
        except ModelError:
            raise
        except Exception as error:  # skops, Keras and h5py raise many kinds
            raise ModelError(
                f"the model in {folder} cannot be loaded: {error}",
                expected="a head that this program saved, with its own types only",
                fix="do not use it unless you know who made it; train the model again",
            ) from error
        return cls(recipe, head, classes, estimator, views, augmentation, trained_on, threshold)


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


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        schema = int(manifest["schema"])
    except OSError as error:
        raise ModelError(
            f"there is no model in {folder}: {_MANIFEST} cannot be read ({error.strerror}).",
            expected="a folder that `pipeline classify` wrote: runs/<name>, or one of its models",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{_MANIFEST} is not a manifest") from error
    if schema > SCHEMA:
        raise ModelError(
            f"the model in {folder} is of schema version {schema}.",
            expected=f"version {SCHEMA} or older, which is what this installation reads",
            fix="update cached-feature-pipeline",
        )
    if manifest.pop("digest", None) != _digest(manifest):
        raise _damaged(folder, f"{_MANIFEST} was changed since the model was saved")
    return manifest


def _digest(manifest: dict[str, Any]) -> str:
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _damaged(folder: Path, reason: str) -> ModelError:
    return ModelError(
        f"the model in {folder} is damaged: {reason}.",
        expected="the files as `pipeline classify` wrote them",
        fix="copy the folder again from where it came, or train the model again",
    )


def _read_checked(folder: Path, file: str, digest: str) -> bytes:
    try:
        content = (folder / file).read_bytes()
    except OSError as error:
        raise _damaged(folder, f"{file} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(folder, f"{file} was changed since the model was saved")
    return content


def _require_same_features(recipe: Recipe, views: int, augmentation: str, folder: Path) -> None:
    """Refuse a model whose features this installation would make in another way."""
    try:
        Views(count=views, augmentation=Augmentation.from_name(augmentation))
        same = recipe == vgg16_recipe(
            layer=recipe.layer,
            size=recipe.size,
            scaling=recipe.scaling,
            precision=recipe.precision,
            resize=recipe.resize,
            calibration=recipe.calibration,
        )
    except (PipelineError, TypeError, ValueError):
        same = False
    if not same:
        raise ModelError(
            f"the model in {folder} was trained on features that this installation cannot make.",
            expected="a recipe that this version of cached-feature-pipeline knows",
            fix="use the version that made it, or train the model again",
        )


def _load_sklearn(content: bytes, trusted: Sequence[str], folder: Path) -> Classifier:
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


def _load_dense(
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


def _load_tuned(
    file: Path, parameters: dict[str, Any], recipe: Recipe, classes: Sequence[str]
) -> TunedClassifier:
    network = Network(recipe, len(classes), weights=None, **parameters)
    network.tail.load_weights(file)
    return TunedClassifier(network, len(classes), parameters)
