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
from pipeline.errors import DataError, ImageError
from pipeline.features.keys import keys
from pipeline.features.store import CACHE, FeatureStore, open_stores

_CALIBRATION_IMAGES = 192


def calibrated(
    dataset: Dataset,
    recipe: Recipe,
    *,
    cache: str | Path = CACHE,
    weights: Path | None = None,
    on_calibration: Callable[[int], None] | None = None,
) -> Recipe:
    """Settle how a recipe of precision ``"int8"`` rounds; any other is given back as it is.

    If the cache holds rows of these images, the calibration is that of the store which holds most:
    images that were added change nothing for the others. Else it is measured on up to 192 training
    images, those with the smallest digests, which is as good as by chance.

    Parameters
    ----------
    dataset, recipe, cache, weights
        As for `extract`, which does this by itself.
    on_calibration : callable, optional
        Called with the number of images, before the calibration is measured on them.

    Raises
    ------
    PipelineError
        OpenVINO is not installed, or the cache, the weights or the images cannot be read.
    """
    found = stored_calibration(dataset, recipe, cache=cache)
    if not found.needs_calibration:
        return found
    return _calibrate(dataset, recipe, weights, on_calibration or (lambda count: None))


def stored_calibration(dataset: Dataset, recipe: Recipe, *, cache: str | Path = CACHE) -> Recipe:
    """Return the recipe with the calibration that most of the images' stored rows have, if any."""
    if not recipe.needs_calibration:
        return recipe
    wanted = keys(dataset)
    most, found = 0, recipe
    for store in open_stores(Path(cache)):
        if isinstance(store, FeatureStore) and replace(store.recipe, calibration="none") == recipe:
            there = len(set(wanted)) - len(store.missing(wanted))
            if there > most:
                most, found = there, store.recipe
    return found


def _calibrate(
    dataset: Dataset, recipe: Recipe, weights: Path | None, report: Callable[[int], None]
) -> Recipe:
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
