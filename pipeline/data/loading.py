"""Entries to a data set: digests, splits, copies."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.dataset import SPLITS, Dataset, Quarantined
from pipeline.data.digests import Digests, digest_files
from pipeline.data.listing import LAYOUTS, Entry, Listing, list_entries
from pipeline.data.packed import PackedDigests, PackedPaths
from pipeline.data.targets import Targets
from pipeline.data.urls import Location
from pipeline.errors import DataError, ImageError


def load_dataset(
    source: str | Path,
    *,
    seed: int = 0,
    validation: float = 0.15,
    test: float = 0.25,
    remembered: Digests | None = None,
) -> Dataset:
    """List the images of a data set that is to be learned from.

    As `list_dataset`, and checked by `Dataset.check_learnable`.

    Raises
    ------
    DataError
        There is nothing there to learn from, or the listing contradicts itself.
    """
    dataset = list_dataset(
        source, seed=seed, validation=validation, test=test, remembered=remembered
    )
    dataset.check_learnable()
    return dataset


def list_dataset(
    source: str | Path,
    *,
    seed: int = 0,
    validation: float = 0.15,
    test: float = 0.25,
    remembered: Digests | None = None,
) -> Dataset:
    """List the images of a data set, with labels, digests and splits.

    Where no splits are given, an image's split follows from its group, or else from its
    digest, and the seed, and from nothing else: adding images never moves another. A split
    that is missing from those given is taken out of the training images. Of files with the
    same bytes in several splits, those in the most held-out split stay.

    Parameters
    ----------
    source : str or Path
        A folder of class folders; a folder with ``train/``, ``validation/``, ``test/`` of
        class folders; a CSV file with the columns ``path,label[,split][,group]``; or the
        word ``"demo"``. Folder, CSV file and the images that it names may be behind URLs.
    seed : int
        Another seed gives other splits.
    validation, test : float
        Expected share of the images in these splits, where they are not given.
    remembered : Digests, optional
        Spares reading files that have not changed, and takes in what was read.

    Raises
    ------
    DataError
        There are no images, or of one class only, or the listing contradicts itself.
    PipelineError
        What is behind a URL cannot be reached. What was read is in `remembered`.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):  # NaN fails this too
        raise DataError(
            f"shares of {validation} for validation and {test} for test leave nothing to train on.",
            expected="shares of 0 or more that add up to less than 1",
        )
    listing = list_entries(source)
    entries = listing.entries
    classes = tuple(sorted({entry.label for entry in entries}))
    if entries and len(classes) < 2:
        raise DataError(
            f"{source} has images of one class only: {classes[0]}.",
            expected=f"two classes or more, as {LAYOUTS}",
        )
    entries, digests, unreadable = _with_digests(listing, remembered)
    number = {name: label for label, name in enumerate(classes)}
    splits = _assign_splits(entries, digests, seed=seed, validation=validation, test=test)
    groups = tuple(entry.group for entry in entries)
    dataset = Dataset(
        name=listing.name,
        paths=PackedPaths(entry.path for entry in entries),
        digests=PackedDigests(digests),
        targets=Targets(np.array([number[entry.label] for entry in entries], np.int64), classes),
        splits=np.array(splits, dtype="<U10"),
        quarantined=(*listing.quarantined, *unreadable),
        groups=groups if any(groups) else (),
    )
    return dataset.without(_copies_across_splits(dataset))


def _with_digests(
    listing: Listing, remembered: Digests | None
) -> tuple[list[Entry], list[bytes], list[Quarantined]]:
    kept, digests, quarantined = [], [], []
    paths = [entry.path for entry in listing.entries]
    for entry, found in zip(listing.entries, digest_files(paths, remembered, listing.looks)):
        if isinstance(found, ImageError):
            quarantined.append(Quarantined(entry.path, found.found))
        else:
            kept.append(entry)
            digests.append(found)
    return kept, digests, quarantined


def _assign_splits(
    entries: Sequence[Entry],
    digests: Sequence[bytes],
    *,
    seed: int,
    validation: float,
    test: float,
) -> list[str]:
    given = {entry.split for entry in entries}
    splits = []
    for entry, digest in zip(entries, digests, strict=True):
        drawn = _draw(entry, digest, seed=seed, validation=validation, test=test)
        if entry.split in ("validation", "test"):
            splits.append(entry.split)
        elif entry.split == "train" and drawn in given:
            splits.append("train")
        else:
            splits.append(drawn)
    of_group: dict[str, str] = {}
    for entry, split in zip(entries, splits, strict=True):
        if entry.group and of_group.setdefault(entry.group, split) != split:
            raise DataError(
                f"the group {entry.group} stands in {of_group[entry.group]} and in {split}.",
                expected="every group in one split",
                fix="give its images the same split, or no split at all",
            )
    return splits


def _draw(entry: Entry, digest: bytes, *, seed: int, validation: float, test: float) -> str:
    unit = b"group:" + entry.group.encode() if entry.group else digest
    drawn = hashlib.sha256(b"%d:" % seed + unit).digest()
    share = int.from_bytes(drawn[:8], "big") / 2**64
    if share < test:
        return "test"
    return "validation" if share < test + validation else "train"


def _copies_across_splits(dataset: Dataset) -> list[Quarantined]:
    """Find files whose very bytes stand in a more held-out split."""
    keeper: dict[bytes, int] = {}
    rank = [SPLITS.index(split) for split in dataset.splits]
    for place, digest in enumerate(dataset.digests):
        known = keeper.setdefault(digest, place)
        if rank[place] > rank[known]:
            keeper[digest] = place
    return [
        Quarantined(
            dataset.paths[place],
            f"the same bytes as {dataset.paths[kept]}, which is in {dataset.splits[kept]}",
        )
        for place, digest in enumerate(dataset.digests)
        if rank[kept := keeper[digest]] > rank[place]
    ]


def list_files(files: Sequence[Location]) -> Dataset:
    """List image files without labels: all of one class, all to train on."""
    digests = digest_files(files)
    readable = [(file, digest) for file, digest in zip(files, digests) if isinstance(digest, bytes)]
    return Dataset(
        name="files",
        paths=PackedPaths(file for file, _ in readable),
        digests=PackedDigests(digest for _, digest in readable),
        targets=Targets(np.zeros(len(readable), np.int64), ("",)),
        splits=np.full(len(readable), "train", "<U10"),
        quarantined=tuple(
            Quarantined(file, error.found)
            for file, error in zip(files, digests)
            if isinstance(error, ImageError)
        ),
    )
