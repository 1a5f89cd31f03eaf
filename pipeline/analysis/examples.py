"""Test images looked at one by one: what a head takes them for, why, and what they look like.

The surest mistakes, and for comparison some that are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.analysis.class_maps import ClassMaps, find_class_maps
from pipeline.analysis.neighbours import Neighbour, Places, Rows, nearest_images
from pipeline.data.dataset import Dataset
from pipeline.models.model import Model

MISTAKES = 24
"""Most mistakes that are looked at."""

_RIGHT = 12  # most right ones, and two of a class


@dataclass(frozen=True)
class Examples:
    """Test images, and what a head makes of them.

    Attributes
    ----------
    dataset : Dataset
        What `places` are positions in.
    model : Model
        The head.
    probabilities : ndarray of float64, shape (n, k)
        What it says of them.
    predicted : ndarray of int64, shape (n,)
        What each is called.
    places : ndarray of int64, shape (n,)
        Which images: the mistakes, the surest first, then the right ones.
    neighbours : tuple of tuple of Neighbour
        For each the most similar images that were learned from, the nearest first; empty where
        there were no features to compare.
    maps : ClassMaps
        For each what speaks for the class that it is taken for.
    """

    dataset: Dataset
    model: Model
    probabilities: npt.NDArray[np.float64]
    predicted: Places
    places: Places
    neighbours: tuple[tuple[Neighbour, ...], ...]
    maps: ClassMaps


def find_examples(
    model: Model,
    dataset: Dataset,
    probabilities: npt.NDArray[np.float64],
    read: Callable[[Places], Rows],
    features: Iterable[tuple[Rows, Places]] = (),
    *,
    read_features: Callable[[Places], Rows] | None = None,
    predicted: Places | None = None,
) -> Examples:
    """Look at the test images that a head was surest of.

    Parameters
    ----------
    model : Model
        The head.
    dataset : Dataset
        Its n images.
    probabilities : ndarray of float64, shape (n, k)
        What it says of each.
    read : callable
        Positions in, the rows that the head takes out.
    features : iterable of (ndarray of float32, ndarray of int64), optional
        Features of all images, some at a time, and their positions: to find the most similar by.
    read_features : callable, optional
        Positions in, features out, where the head takes other rows.
    predicted : ndarray of int64, shape (n,), optional
        What each image is called, where that is not for the model to say: in cross-validation a
        fit without the image, and its threshold, called it.
    """
    if predicted is None:
        predicted = model.call(probabilities)
    test = dataset.where("test")
    surest = test[np.argsort(-probabilities[test].max(axis=1), kind="stable")]
    is_right = dataset.targets.right(predicted[surest], surest)
    right = [
        place
        for label in range(len(dataset.classes))
        for place in surest[is_right & (predicted[surest] == label)][:2]
    ]
    places = np.array([*surest[~is_right][:MISTAKES], *right[:_RIGHT]], np.int64)
    rows = read(places)
    seen = read_features(places) if read_features else rows
    learned = dataset.where("train", "validation")
    # In cross-validation every image is learned from in all folds but its own.
    near = nearest_images(
        seen, places, learned if len(learned) else np.arange(len(dataset)), features
    )
    maps = find_class_maps(model, rows, predicted[places])
    return Examples(dataset, model, probabilities[places], predicted[places], places, near, maps)
