"""What the cache knows of a data set, and what a run would have to do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.backbones.recipe import Recipe
from pipeline.data.dataset import Quarantined
from pipeline.data.digests import Digests
from pipeline.data.loading import list_dataset
from pipeline.data.urls import Location, Url, locate
from pipeline.features.calibration import stored_calibration
from pipeline.features.store import FeatureStore


@dataclass(frozen=True)
class Status:
    """A data set against the cache, each file in one of five lists.

    Attributes
    ----------
    store : FeatureStore
        The store that was looked at.
    reused : int
        Number of images whose rows are there.
    new : tuple of Path or Url
        Images without a row, that were not listed by the last run.
    changed : tuple of Path or Url
        Images without a row, that had other bytes in the last run.
    removed : tuple of Path or Url
        Files that the last run listed, and that are no longer listed.
    unreadable : tuple of Quarantined
        Files that take no part, as far as can be told without decoding them.
    """

    store: FeatureStore
    reused: int
    new: tuple[Location, ...]
    changed: tuple[Location, ...]
    removed: tuple[Location, ...]
    unreadable: tuple[Quarantined, ...]


def status(source: str | Path, recipe: Recipe, *, cache: Path) -> Status:
    """Compare a data set with the cache and with the last run, and change nothing.

    Parameters
    ----------
    source : str or Path
        As for `pipeline.data.loading.load_dataset`.
    recipe : Recipe
        How images become rows.
    cache : Path
        The cache folder.

    Raises
    ------
    PipelineError
        The data set or the cache cannot be read.
    """
    with Digests(cache) as remembered:
        dataset = list_dataset(source, remembered=remembered)
        store = FeatureStore(cache, stored_calibration(dataset, recipe, cache=cache))
        new: list[Location] = []
        changed: list[Location] = []
        for path, digest in zip(dataset.paths, dataset.digests):
            if (digest, 0) not in store:
                last = remembered.last(path)
                (changed if last not in (None, digest) else new).append(path)
        seen = (*dataset.paths, *(bad.path for bad in dataset.quarantined))
        listed = {  # as Digests has them
            path if isinstance(path, Url) else os.path.abspath(path)  # noqa: PTH100
            for path in seen
        }
        seen_before = remembered.paths_of(source)
        removed = [locate(path) for path in seen_before if path not in listed]
    return Status(
        store,
        len(dataset) - len(new) - len(changed),
        tuple(new),
        tuple(changed),
        tuple(removed),
        dataset.quarantined,
    )
