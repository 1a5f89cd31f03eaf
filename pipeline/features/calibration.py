"""How a recipe of precision int8 rounds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.running import calibrate
from pipeline.data.dataset import Dataset
from pipeline.data.digests import read_image
from pipeline.errors import DataError, ImageError, StoreError
from pipeline.features.folder import list_stores, read_recipe
from pipeline.features.keys import keys
from pipeline.features.store import FeatureStore

_CALIBRATION_IMAGES = 48  # as near to float32 as with 192, and a quarter of the time: decision 9


def calibrated_store(
    dataset: Dataset, recipe: Recipe, *, cache: Path, hold: Iterable[bytes]
) -> FeatureStore | None:
    """Open the store whose calibration most of the images' stored rows have, if there is one.

    So images that were added change nothing for the others.
    """
    wanted = keys(dataset)
    most, calibrated = 0, None
    for folder in list_stores(cache):
        with contextlib.suppress(StoreError):
            # To open a store is to read all of it: only those that may be the one.
            if replace(read_recipe(folder), calibration="none") == recipe:
                store = FeatureStore.at(folder, hold=hold)
                stored = len(set(wanted)) - len(store.missing(wanted))
                if stored > most:
                    most, calibrated = stored, store
    return calibrated


def measured_calibration(
    dataset: Dataset, recipe: Recipe, weights: Path | None, report: Callable[[int], None]
) -> Recipe:
    """Measure how a recipe of precision int8 rounds, on up to 48 training images.

    Those with the smallest digests are taken, which is as good as by chance.
    """
    digests = dataset.digests
    path_of = {digests[place]: dataset.paths[place] for place in dataset.where("train")}
    sample = [(path_of[digest], digest) for digest in sorted(path_of)[:_CALIBRATION_IMAGES]]
    report(len(sample))
    pixels = []
    for path, digest in sample:
        with contextlib.suppress(ImageError):  # it is listed when its row is to be made
            pixels.append(recipe.decode(read_image(path, digest)[0]))
    if not pixels:
        raise DataError(
            f"{dataset.name} has no training image to calibrate precision int8 on.",
            fix="add images to its training split, or use another --precision",
        )
    return calibrate(recipe, np.stack(pixels), weights)
