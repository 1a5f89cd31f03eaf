"""A fitted classifier on disk and back: one folder that can be handed to someone else.

The folder holds `manifest.json` (recipe, classes, digests) and the head: `head.skops` for
scikit-learn's, `head.weights.h5` for Keras's. Neither is a pickle: loading runs no code of theirs.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import remake_recipe
from pipeline.data.augmentation import Augmentation
from pipeline.data.digests import read_image
from pipeline.data.images import as_file
from pipeline.data.urls import Location, locate
from pipeline.errors import ImageError, ModelError, PipelineError, in_one_line
from pipeline.evaluation.threshold import Threshold, call, positive_class
from pipeline.features.computing import IN_MEMORY
from pipeline.features.extractor import Extractor
from pipeline.features.listener import Listener
from pipeline.features.lookup import RowLookup
from pipeline.features.views import Views
from pipeline.models.files import (
    MANIFEST,
    Manifest,
    damaged,
    read_manifest,
    write_manifest,
)
from pipeline.models.portable import Portable
from pipeline.system.machine import free_memory

if TYPE_CHECKING:
    from pipeline.heads.estimators import Classifier
    from pipeline.models.network import TunedClassifier

Image: TypeAlias = str | Path | bytes | npt.NDArray[np.uint8]
"""An image file, what is in it, or its pixels."""

_IMAGES_AT_ONCE = 64
_AXES_OF_ROWS = 4  # view, height, width, channel
_PER_PIXEL = 1000  # bytes that a network takes for each pixel of a picture, or more than it


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes
    ----------
    path : Path, Url or None
        The image file; None for what came as bytes or pixels.
    label : str or None
        What it is called: the likeliest class, or what the model's threshold says; None where the
        image could not be read.
    probabilities : dict of str to float
        Probability of each class; empty where the image could not be read.
    error : str or None
        Why the image could not be read.
    """

    path: Location | None
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
    estimator : Classifier, TunedClassifier or None
        The fitted head, on flattened rows; None for a model that was exported.
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
    portable : Portable or None
        The same model as one graph, which then gives the probabilities of images whose rows are not
        in the cache.
    original : callable or None
        Where `estimator` is None: loads the model that was exported, to apply it to rows.
    """

    recipe: Recipe
    head: str
    classes: tuple[str, ...]
    estimator: Classifier | TunedClassifier | None
    views: int = 1
    augmentation: str = "none"
    trained_on: str = ""
    threshold: Threshold | None = None
    positive: int | None = None
    portable: Portable | None = field(default=None, repr=False, compare=False)
    original: Callable[[], Model] | None = field(default=None, repr=False, compare=False)
    _opened: dict[object, RowLookup] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def positive_class(self) -> str | None:
        """Name of the class whose probability is shown; None for that of the likeliest."""
        return positive_class(self.classes, self.threshold, self.positive)

    @property
    def takes_rows(self) -> bool:
        """Whether it can be applied to features: an exported file alone takes pictures only."""
        return self.estimator is not None or self.original is not None

    @property
    def remark(self) -> str:
        """What to know where two ways lead from an image to its class; empty where one does."""
        if self.portable is None or self.original is None or self.recipe.precision == "float32":
            return ""
        return (
            f"Images whose features are not in the cache are classified in float32, by the model's "
            f"exported file; features are in {self.recipe.precision}, from which probabilities "
            "differ by as much as `pipeline export` said"
        )

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
        if self.estimator is None:
            return self._whole().probabilities(rows)
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

    @overload
    def predict(  # type: ignore[overload-overlap]  # str is a sequence of str
        self, images: Image, *, extractor: Extractor | None = ..., listener: Listener | None = ...
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        images: Sequence[Image],
        *,
        extractor: Extractor | None = ...,
        listener: Listener | None = ...,
    ) -> Iterator[Prediction]: ...

    def predict(
        self,
        images: Image | Sequence[Image],
        *,
        extractor: Extractor | None = None,
        listener: Listener | None = None,
    ) -> Prediction | Iterator[Prediction]:
        """Classify images; for files whose rows are in the cache, no network is run.

        The network is loaded when it is first needed, and stays loaded. So does the list of what is
        in the cache. Several threads may call this at once; the network computes for one at a time.

        Parameters
        ----------
        images : path, bytes or ndarray, or a sequence of these
            Image files: where they are, or what is in them. Or pixels: uint8, 0 to 255, of shape
            (height, width, 3) in the order RGB, or (height, width) for grey, of any size; what is
            made of them is what is made of the same pixels in a PNG.
        extractor : Extractor, optional
            Where rows are looked up, and where the backbone's weights are; its recipe does not
            matter, as the model has its own.
        listener : Listener, optional
            Told how many images are done, and of damaged shards.

        Returns
        -------
        Prediction, or iterator of Prediction
            For one image that; for several one for each, in order, some at a time.
        """
        listener, extractor = listener or Listener(), extractor or Extractor()
        if isinstance(images, str | Path | bytes) or _is_picture(images):
            ((prediction, _),) = self.predict_rows([images], extractor, listener)  # type: ignore[list-item]
            return prediction
        found = self.predict_rows(images, extractor, listener)  # type: ignore[arg-type]
        return (prediction for prediction, _ in found)

    def predict_rows(
        self, images: Sequence[Image], extractor: Extractor, listener: Listener
    ) -> Iterator[tuple[Prediction, npt.NDArray[np.float32] | ImageError]]:
        """Classify images, and give with each answer what it follows from: see `predictions`."""
        listener.rows_made(0, len(images))
        outcomes = self._lookup(extractor).rows(map(_in_file, images), listener)
        done = 0
        while block := list(itertools.islice(outcomes, _IMAGES_AT_ONCE)):
            yield from zip(self.predictions(block), (outcome for _, outcome in block))
            done += len(block)
            listener.rows_made(done, len(images))

    def probabilities_of_pixels(
        self, pictures: npt.NDArray[np.uint8], extractor: Extractor
    ) -> npt.NDArray[np.float64]:
        """Classify decoded pictures, (n, size, size, 3), as they are: without further views."""
        found = self._lookup(extractor).compute(pictures)
        is_row = found.ndim == _AXES_OF_ROWS
        return self.probabilities(found) if is_row else found.astype(np.float64)

    def _lookup(self, extractor: Extractor) -> RowLookup:
        """Open cache and network, or take those that were opened before."""
        key = (Path(extractor.cache).absolute(), extractor.weights, extractor.forward)
        if key not in self._opened:
            augmentation = Augmentation.from_name(self.augmentation)
            views = Views(count=self.views, augmentation=augmentation, everywhere=True)
            extractor = replace(extractor, recipe=self.recipe)
            if self.portable and not extractor.forward:
                extractor = replace(extractor, forward=self.portable.probabilities)
            lookup = extractor.lookup(views, stored=self.takes_rows)
            return self._opened.setdefault(key, lookup)
        return self._opened[key]

    def _whole(self) -> Model:
        """Load the model that this one was exported from."""
        if self.original is None:
            raise ModelError(
                "an exported model takes images; its network and its head cannot be parted.",
                expected="a run, or a model's folder in one",
            )
        return self.original()

    def predictions(
        self, outcomes: Sequence[tuple[Location, npt.NDArray[np.float32] | ImageError]]
    ) -> Iterator[Prediction]:
        """Classify images by what a `RowLookup` gave of them: rows, or why there are none.

        The head is applied to all rows at once: for some heads a call costs as much as its rows.
        What has the shape of probabilities, (views, k), is from `portable`.
        """
        answers = [each for _, each in outcomes if not isinstance(each, ImageError)]
        rows = [each for each in answers if each.ndim == _AXES_OF_ROWS]
        values = iter(self.probabilities(np.concatenate(rows)) if rows else ())
        for place, outcome in outcomes:
            path = None if place is IN_MEMORY else place
            if isinstance(outcome, ImageError):
                yield Prediction(path, None, {}, outcome.found)
                continue
            is_row = outcome.ndim == _AXES_OF_ROWS
            p = [next(values) for _ in outcome] if is_row else outcome
            mean = np.asarray(p).mean(axis=0, dtype=np.float64)
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

        if self.estimator is None:
            self._whole().save(folder)
            return
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
        require_same_features(recipe, manifest.views, manifest.augmentation, folder)
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


def _is_picture(images: object) -> bool:
    """Tell one picture's pixels from several, and from an array of paths."""
    return isinstance(images, np.ndarray) and images.ndim in (2, 3) and images.dtype != object


def _in_file(image: Image) -> Location | bytes:
    if isinstance(image, np.ndarray):
        return as_file(image)
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        return locate(image)
    raise PipelineError(
        f"a {type(image).__name__} is no image.",
        expected="the path of an image file, its bytes, or an array of pixels",
    )


def read_picture(image: Image) -> bytes:
    """Return the bytes of an image's file."""
    file = _in_file(image)
    return file if isinstance(file, bytes) else read_image(file)[0]


def require_same_features(recipe: Recipe, views: int, augmentation: str, folder: Path) -> None:
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
