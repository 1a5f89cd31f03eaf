"""How a recipe of precision int8 rounds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.running import calibrate
from pipeline.data.dataset import Dataset
from pipeline.data.digests import read_image
from pipeline.data.images import decode
from pipeline.errors import DataError, ImageError, StoreError
from pipeline.features.folder import list_stores, read_recipe
from pipeline.features.keys import keys
from pipeline.features.store import FeatureStore

_CALIBRATION_IMAGES = 192


def stored_calibration(dataset: Dataset, recipe: Recipe, *, cache: Path) -> Recipe:
    """Return the recipe with the calibration that most of the images' stored rows have, if any.

    So images that were added change nothing for the others.
    """
    if not recipe.needs_calibration:
        return recipe
    wanted = keys(dataset)
    most, calibrated = 0, recipe
    for folder in list_stores(cache):
        with contextlib.suppress(StoreError):
            # To open a store is to read all of it: only those that may be the one.
            if replace(read_recipe(folder), calibration="none") == recipe:
                store = FeatureStore.at(folder)
                stored = len(set(wanted)) - len(store.missing(wanted))
                if stored > most:
                    most, calibrated = stored, store.recipe
    return calibrated


def measured_calibration(
    dataset: Dataset, recipe: Recipe, weights: Path | None, report: Callable[[int], None]
) -> Recipe:
    """Measure how a recipe of precision int8 rounds, on up to 192 training images.

    Those with the smallest digests are taken, which is as good as by chance.
    """
    if not recipe.needs_calibration:
        return recipe
    digests = dataset.digests
    path_of = {digests[place]: dataset.paths[place] for place in dataset.where("train")}
    sample = [(path_of[digest], digest) for digest in sorted(path_of)[:_CALIBRATION_IMAGES]]
    report(len(sample))
    pixels = []
    for path, digest in sample:
        with contextlib.suppress(ImageError):  # it is listed when its row is to be made
            pixels.append(decode(read_image(path, digest)[0], recipe.size, resize=recipe.resize))
    if not pixels:
        raise DataError(
            f"{dataset.name} has no training image to calibrate precision int8 on.",
            fix="add images to its training split, or use another --precision",
        )
    return calibrate(recipe, np.stack(pixels), weights)
