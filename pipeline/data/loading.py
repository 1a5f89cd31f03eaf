"""A source to a data set: entries, their digests and splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.dataset import Dataset, Quarantined
from pipeline.data.digests import CACHE, Digests, digest_files
from pipeline.data.entries import LAYOUTS, Entry
from pipeline.data.listing import list_entries
from pipeline.data.packed import PackedDigests, PackedPaths
from pipeline.data.splits import Shares, assign_splits, copies_across_splits, drawn_splits
from pipeline.data.targets import Targets
from pipeline.data.urls import Location
from pipeline.errors import DataError, ImageError

_DEFAULT = Shares()


def load_dataset(
    source: str | Path, *, seed: int = 0, shares: Shares = _DEFAULT, cache: str | Path = CACHE
) -> Dataset:
    """List the images of a data set that a classifier is to be trained on.

    As `list_dataset`, and checked by `Dataset.check_learnable`.

    Raises
    ------
    DataError
        There is nothing to learn from, or the listing contradicts itself.
    """
    dataset = list_dataset(source, seed=seed, shares=shares, cache=cache)
    dataset.check_learnable()
    return dataset


def list_dataset(
    source: str | Path, *, seed: int = 0, shares: Shares = _DEFAULT, cache: str | Path = CACHE
) -> Dataset:
    """List the images of a data set, with labels, digests and splits.

    Where no splits are given, an image's split follows from its group, or else from its
    digest, and the seed: adding images moves another only where a split would have less than a
    third of its share of a class, or groups would be far from the shares. A split
    that is missing from those given is taken out of the training images. Of files with the
    same bytes in several splits, those in the most held-out split stay.

    Files that have not changed since they were last listed are not read again. The cache folder
    keeps what is needed for that, also after an error or Ctrl-C; if it cannot be written, files
    are read again next time.

    Parameters
    ----------
    source : str or Path
        A folder of class folders; a folder with ``train/``, ``validation/``, ``test/`` of
        class folders; a CSV file with the columns ``path,label[,split][,group]``; or the
        word ``"demo"``. Folder, CSV file and the images that it names may be behind URLs.
    seed : int
        Another seed gives other splits.
    shares : Shares
        Expected shares of the images in the validation and test splits, where they are not given.
    cache : str or Path
        The cache folder, which need not exist.

    Raises
    ------
    DataError
        There are no images, or of one class only, or the listing contradicts itself.
    PipelineError
        What is behind a URL cannot be reached.
    """
    return _list(source, seed, shares, Path(cache))


def list_partly_labelled(
    source: str | Path, *, seed: int = 0, shares: Shares = _DEFAULT, cache: str | Path = CACHE
) -> Dataset:
    """As `list_dataset`, and images without a label too: they are of the class "".

    These are the images beside the class folders, those in a folder named unlabelled, and those
    whose label in a CSV file is empty. There need be no class.
    """
    return _list(source, seed, shares, Path(cache), unlabelled=True)


def _list(
    source: str | Path, seed: int, shares: Shares, cache: Path, *, unlabelled: bool = False
) -> Dataset:
    memory = Digests(cache)
    paths = None
    try:
        dataset = read_dataset(source, memory, seed=seed, shares=shares, unlabelled=unlabelled)
        paths = dataset.paths
    finally:  # what was read before an error or Ctrl-C is not read again
        memory.close()
        memory.save(source, paths)
    return dataset


def read_dataset(
    source: str | Path,
    memory: Digests,
    *,
    seed: int = 0,
    shares: Shares = _DEFAULT,
    unlabelled: bool = False,
) -> Dataset:
    """Do the same with an open memory of digests, which takes in what was read and is not saved."""
    listing = list_entries(source, unlabelled=unlabelled).composed()
    classes = listing.classes
    if len(classes) == 1 and not unlabelled:
        raise DataError(
            f"{source} has images of one class only: {classes[0]}.",
            expected=f"two classes or more, as {LAYOUTS}",
        )
    paths = [entry.path for entry in listing.entries]
    entries, digests, unreadable = _readable(
        listing.entries, digest_files(paths, memory, listing.signatures)
    )
    number = {name: label for label, name in enumerate(classes)}
    given = {entry.split for entry in listing.entries}
    splits = assign_splits(entries, digests, seed, shares, given)
    groups = tuple(entry.group for entry in entries)
    dataset = Dataset(
        name=listing.name,
        paths=PackedPaths(entry.path for entry in entries),
        digests=PackedDigests(digests),
        targets=Targets(np.array([number[entry.label] for entry in entries], np.int64), classes),
        splits=np.array(splits, dtype="<U10"),
        quarantined=(*listing.quarantined, *unreadable),
        groups=groups if any(groups) else (),
        drawn=drawn_splits(given, shares),
        remarks=tuple(listing.remarks),
    )
    return dataset.without(copies_across_splits(dataset))


def _readable(
    entries: Sequence[Entry], outcomes: Sequence[bytes | ImageError]
) -> tuple[list[Entry], list[bytes], list[Quarantined]]:
    kept, digests, quarantined = [], [], []
    for entry, outcome in zip(entries, outcomes):
        if isinstance(outcome, ImageError):
            quarantined.append(Quarantined.by(entry.path, outcome))
        else:
            kept.append(entry)
            digests.append(outcome)
    return kept, digests, quarantined


def list_files(files: Sequence[Location]) -> Dataset:
    """List image files without labels: all of one class, all to train on."""
    listed = [Entry(file, label="") for file in files]
    entries, digests, unreadable = _readable(listed, digest_files(files))
    return Dataset(
        name="files",
        paths=PackedPaths(entry.path for entry in entries),
        digests=PackedDigests(digests),
        targets=Targets(np.zeros(len(entries), np.int64), ("",)),
        splits=np.full(len(entries), "train", "<U10"),
        quarantined=tuple(unreadable),
    )
