"""A fitted classifier on disk and back: one folder that can be handed to someone else.

The folder holds `manifest.json` (recipe, classes, digests) and the head: `head.skops` for
scikit-learn's, `head.weights.h5` for Keras's. Neither is a pickle: loading runs no code of theirs.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import remake_recipe
from pipeline.data.augmentation import Augmentation
from pipeline.data.urls import Location, locate
from pipeline.errors import ImageError, ModelError, PipelineError, in_one_line
from pipeline.evaluation.threshold import Threshold, call
from pipeline.features.extractor import Extractor
from pipeline.features.listener import Listener
from pipeline.features.views import Views
from pipeline.models.files import MANIFEST, Manifest, damaged, read_manifest, write_manifest
from pipeline.system.machine import free_memory

if TYPE_CHECKING:
    from pipeline.heads.estimators import Classifier
    from pipeline.models.network import TunedClassifier

_IMAGES_AT_ONCE = 64
_PER_PIXEL = 1000  # bytes that a network takes for each pixel of a picture, or more than it


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
        `pipeline.data.augmentation.Augmentation.name` of the views beyond view 0.
    trained_on : str
        `Dataset.digest` of the images, labels and splits that it was trained on.
    threshold : Threshold or None
        From which probability on an image is called the positive one of two classes; None for the
        likeliest class.
    positive : int or None
        Of two classes, the one that its figures are of; None where that is not known.
    """

    recipe: Recipe
    head: str
    classes: tuple[str, ...]
    estimator: Classifier | TunedClassifier
    views: int = 1
    augmentation: str = "none"
    trained_on: str = ""
    threshold: Threshold | None = None
    positive: int | None = None

    @property
    def positive_class(self) -> str | None:
        """Name of the class whose probability is shown; None for that of the likeliest."""
        positive = self.threshold.positive if self.threshold else self.positive
        return None if positive is None or len(self.classes) != 2 else self.classes[positive]

    def call(self, p: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Tell the class of each row, shape (n,), from probabilities of shape (n, k)."""
        return call(p, self.threshold)

    def probabilities(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Apply the head to features.

        Parameters
        ----------
        rows : ndarray of float32, shape (n, height, width, channels)

        Returns
        -------
        ndarray of float64, shape (n, len(classes))
        """
        try:
            p = np.asarray(self.estimator.predict_proba(rows.reshape(len(rows), -1)), np.float64)
        except (PipelineError, MemoryError):
            raise
        except Exception as error:  # any classifier of scikit-learn's, or of one's own
            raise ModelError(
                f"the head {self.head} cannot be applied to these images: {in_one_line(error)}",
                fix="leave out those that are unlike all that it learned from, or use another head",
            ) from error
        if p.shape != (len(rows), len(self.classes)) or not np.isfinite(p).all():
            raise ModelError(
                f"the head {self.head} does not give probabilities of its classes.",
                expected="finite numbers, one for each class",
                fix="do not use this model; train it again",
            )
        return p

    def predict(
        self,
        paths: Sequence[str | Path],
        *,
        extractor: Extractor | None = None,
        listener: Listener | None = None,
    ) -> Iterator[Prediction]:
        """Classify image files; of those whose rows are in the cache, no network is run.

        Parameters
        ----------
        paths : sequence of str or Path
            The files.
        extractor : Extractor, optional
            Where rows are looked up, and where the backbone's weights are; its recipe does not
            matter, as the model has its own.
        listener : Listener, optional
            Told how many images are done, and of damaged shards.

        Yields
        ------
        Prediction
            One for each file, in order.
        """
        listener = listener or Listener()
        files = [locate(path) for path in paths]
        listener.rows_made(0, len(files))
        extractor = replace(extractor or Extractor(), recipe=self.recipe)
        views = Views(
            count=self.views,
            augmentation=Augmentation.from_name(self.augmentation),
            everywhere=True,
        )
        outcomes = extractor.rows_of_files(files, views, listener=listener)
        done = 0
        while block := list(itertools.islice(outcomes, _IMAGES_AT_ONCE)):
            yield from self._predictions(block)
            done += len(block)
            listener.rows_made(done, len(files))

    def _predictions(
        self, outcomes: Sequence[tuple[Location, npt.NDArray[np.float32] | ImageError]]
    ) -> Iterator[Prediction]:
        """Apply the head to all rows at once: for some heads a call costs as much as its rows."""
        rows = [rows for _, rows in outcomes if not isinstance(rows, ImageError)]
        values = iter(self.probabilities(np.concatenate(rows)) if rows else ())
        for path, outcome in outcomes:
            if isinstance(outcome, ImageError):
                yield Prediction(path, None, {}, outcome.found)
                continue
            mean = np.mean([next(values) for _ in outcome], axis=0)
            label = self.classes[int(self.call(mean[None])[0])]
            yield Prediction(path, label, dict(zip(self.classes, mean.tolist())))

    def save(self, folder: Path) -> None:
        """Write the model into a new folder.

        Raises
        ------
        FileExistsError
            The folder is there already.
        """
        from pipeline.models.loading import save_head  # scikit-learn comes with it

        folder.mkdir(parents=True)
        files, parameters = save_head(self.estimator, folder)
        manifest = Manifest(
            head=self.head,
            classes=self.classes,
            parameters=parameters,
            recipe=asdict(self.recipe),
            views=self.views,
            augmentation=self.augmentation,
            trained_on=self.trained_on,
            threshold=self.threshold,
            positive=self.positive,
            files={file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        )
        write_manifest(folder, manifest)

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
        from pipeline.models.loading import load_head  # scikit-learn comes with it

        manifest = read_manifest(folder)
        try:
            recipe = Recipe.from_fields(manifest.recipe)
        except ValueError as error:
            raise damaged(folder, f"{MANIFEST} is not a manifest: {error}") from error
        _require_same_features(recipe, manifest.views, manifest.augmentation, folder)
        estimator = load_head(folder, manifest, recipe, trusted)
        return cls(
            recipe,
            manifest.head,
            manifest.classes,
            estimator,
            manifest.views,
            manifest.augmentation,
            manifest.trained_on,
            manifest.threshold,
            manifest.positive,
        )


def _require_same_features(recipe: Recipe, views: int, augmentation: str, folder: Path) -> None:
    """Refuse a model whose features this installation would make in another way."""
    try:
        Views(count=views, augmentation=Augmentation.from_name(augmentation))
        same = recipe == remake_recipe(recipe) and _PER_PIXEL * recipe.size**2 < free_memory()
    except (PipelineError, TypeError, ValueError):
        same = False
    if not same:
        raise ModelError(
            f"the model in {folder} was trained on features that this installation cannot make.",
            expected="a recipe that this version of cached-feature-pipeline knows",
            fix="use the version that made it, or train the model again",
        )
