"""Test images for a closer look: the most confident mistakes, and some correct ones to compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.analysis.neighbours import Places, Rows, most_similar
from pipeline.data.dataset import Dataset

if TYPE_CHECKING:
    from pipeline.analysis.class_maps import ClassMaps
    from pipeline.models.model import Model

MISTAKES = 24
"""The most mistakes that are shown."""

_CORRECT = 12  # at most, two of each class
_NEIGHBOURS = 3
_BLOCK = 1024  # rows


@dataclass(frozen=True)
class SimilarImage:
    """An image that a head was trained on, and its similarity to another (cosine of features)."""

    place: int
    similarity: float


@dataclass(frozen=True)
class ExampleImages:
    """Test images, and how a head classifies them.

    Attributes
    ----------
    dataset : Dataset
        The data set that `places` are positions in.
    model : Model
        The head.
    probabilities : ndarray of float64, shape (n, k)
        Its probabilities for the images.
    predicted : ndarray of int64, shape (n,)
        The class that each image is called.
    places : ndarray of int64, shape (n,)
        The images: mistakes by falling confidence, then correct ones.
    neighbours : tuple of tuple of SimilarImage
        For each image the most similar images that the head was trained on, the most similar
        first; empty if there were no features to compare.
    maps : ClassMaps
        For each image, where it has features of the predicted class.
    maps_of : str
        Name of the head that they are made for.
    """

    dataset: Dataset
    model: Model
    probabilities: npt.NDArray[np.float64]
    predicted: Places
    places: Places
    neighbours: tuple[tuple[SimilarImage, ...], ...]
    maps: ClassMaps
    maps_of: str = ""


def find_examples(
    model: Model,
    dataset: Dataset,
    probabilities: npt.NDArray[np.float64],
    read: Callable[[Places], Rows],
    features: Iterable[tuple[Rows, Places]] = (),
    *,
    read_features: Callable[[Places], Rows] | None = None,
    predicted: Places | None = None,
    mapped: Model | None = None,
) -> ExampleImages:
    """Choose the test images with the most confident predictions, and look at them closely.

    Maps are those of `mapped`, where that is another model, because `model` does not take the rows
    that `read` gives.
    """
    from pipeline.analysis.class_maps import find_class_maps

    if predicted is None:
        predicted = model.call(probabilities)
    test = dataset.where("test")
    confidence = probabilities[test, predicted[test]]
    confident = test[np.argsort(-confidence, kind="stable")]
    is_right = dataset.targets.right(predicted[confident], confident)
    correct = [
        place
        for label in range(len(dataset.classes))
        for place in confident[is_right & (predicted[confident] == label)][:2]
    ]
    places = np.array([*confident[~is_right][:MISTAKES], *correct[:_CORRECT]], np.int64)
    rows = read(places)
    return ExampleImages(
        dataset,
        model,
        probabilities[places],
        predicted[places],
        places,
        _similar_images(
            dataset, places, read_features(places) if read_features else rows, features
        ),
        find_class_maps(mapped or model, rows, predicted[places]),
        (mapped or model).head,
    )


def _similar_images(
    dataset: Dataset, places: Places, rows: Rows, features: Iterable[tuple[Rows, Places]]
) -> tuple[tuple[SimilarImage, ...], ...]:
    """Find the training images most similar to the images at some places, which have these rows."""
    trained = dataset.where("train", "validation")
    if not len(trained):  # in cross-validation, every image is trained on in all folds but its own
        trained = np.arange(len(dataset))
    nearest = most_similar(rows, _only(trained, features), _NEIGHBOURS + 1)
    return tuple(
        tuple(
            SimilarImage(int(other), min(float(similarity), 1.0))
            for other, similarity in zip(others, similarities)
            if other not in (place, -1)
        )[:_NEIGHBOURS]
        for place, others, similarities in zip(places, nearest.places, nearest.similarities)
    )


def _only(wanted: Places, features: Iterable[tuple[Rows, Places]]) -> Iterator[tuple[Rows, Places]]:
    """Leave out of blocks of rows those that are not wanted, without a copy of a whole block."""
    for rows, places in features:
        for start in range(0, len(rows), _BLOCK):
            part = places[start : start + _BLOCK]
            is_wanted = np.isin(part, wanted)
            yield rows[start : start + _BLOCK][is_wanted], part[is_wanted]
