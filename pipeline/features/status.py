"""What the cache knows of a data set, and what a run would have to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.data.dataset import Quarantined
from pipeline.data.digests import Digests
from pipeline.data.loading import read_dataset
from pipeline.data.urls import Location, locate, whole_name
from pipeline.features.extractor import Extractor
from pipeline.features.keys import keys
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
        Files that are skipped; more may turn out to be damaged when they are decoded.
    remarks : tuple of str
        What to know of how the data set was read, in sentences.
    """

    store: FeatureStore
    reused: int
    new: tuple[Location, ...]
    changed: tuple[Location, ...]
    removed: tuple[Location, ...]
    unreadable: tuple[Quarantined, ...]
    remarks: tuple[str, ...]


def status(source: str | Path, extractor: Extractor) -> Status:
    """Compare a data set with the cache and with the last run, and change nothing."""
    with Digests(Path(extractor.cache)) as memory:
        dataset = read_dataset(source, memory)
        plan = extractor.settle(dataset, calibrate=False).plan(dataset)
        dataset, store = plan.dataset, plan.store
        new: list[Location] = []
        changed: list[Location] = []
        missing = set(store.missing(keys(dataset)))
        for path, digest in zip(dataset.paths, dataset.digests):
            if (digest, 0) in missing:
                last = memory.last(path)
                (changed if last not in (None, digest) else new).append(path)
        seen = (*dataset.paths, *(bad.path for bad in dataset.quarantined))
        listed = {*map(whole_name, seen)}
        before = memory.paths_of(source)
        removed = [locate(path) for path in before if path not in listed]
    return Status(
        store,
        len(dataset) - len(new) - len(changed),
        tuple(new),
        tuple(changed),
        tuple(removed),
        dataset.quarantined,
        (*dataset.remarks, *plan.remarks),
    )
