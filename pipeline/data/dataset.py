"""A data set: images, what is to be learned of them, and their splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby

import numpy as np
import numpy.typing as npt

from pipeline.data.names import nfc, remarks_on
from pipeline.data.packed import PackedDigests, PackedPaths, packed
from pipeline.data.targets import Targets
from pipeline.data.urls import Location
from pipeline.errors import DataError, ImageError

SPLITS = ("train", "validation", "test")
"""The splits, from the least held-out to the most."""


@dataclass(frozen=True)
class Quarantined:
    """A file that is skipped, why, and what to do about it where that is known."""

    path: Location
    reason: str
    fix: str = field(default="", compare=False)

    @classmethod
    def by(cls, path: Location, error: ImageError) -> Quarantined:
        """Return a file that an error refused."""
        return cls(path, error.found, error.fix)


@dataclass(frozen=True)
class Dataset:
    """Images with labels and splits, in columns; entry i of each belongs to image i.

    Attributes
    ----------
    name : str
        What to call the data set.
    paths : sequence of Path or Url
        The image files.
    digests : sequence of bytes
        SHA-256 of each file's bytes, 32 bytes each.
    targets : Targets
        What is to be learned: the class of each image.
    splits : ndarray of str, shape (n,)
        ``"train"``, ``"validation"`` or ``"test"``.
    quarantined : tuple of Quarantined
        Files that are skipped.
    groups : tuple of str
        Group of each image, empty where it has none. No entries at all where no image has one.
    drawn : tuple of str
        Splits that the seed may put images into.
    remarks : tuple of str
        What to know of how the data set was read, in sentences.
    """

    name: str
    paths: Sequence[Location]
    digests: Sequence[bytes]
    targets: Targets
    splits: npt.NDArray[np.str_]
    quarantined: tuple[Quarantined, ...] = ()
    groups: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        groups = tuple(map(nfc, self.groups))
        remarks = [*self.remarks, *remarks_on("class", self.targets.classes)]
        if groups != self.groups:
            remarks += remarks_on("group", self.groups)
        object.__setattr__(self, "targets", self.targets.composed())
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "remarks", tuple(dict.fromkeys(remarks)))

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted."""
        return self.targets.classes

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all images' digests, labels and splits, whatever their order and names."""
        # Of lines, sorted: by images' digests, and those of one digest as a whole.
        texts = np.ascontiguousarray(packed(self.digests)).view("S32").ravel()
        total = hashlib.sha256()
        separator = ""
        for digest, places in groupby(np.argsort(texts), key=self.digests.__getitem__):
            names = ((self.targets.name(place), self.splits[place]) for place in places)
            for line in sorted(f"{digest.hex()} {name} {split}" for name, split in names):
                total.update((separator + line).encode(errors="surrogateescape"))
                separator = "\n"
        return total.hexdigest()

    def where(self, *splits: str) -> npt.NDArray[np.int64]:
        """Return the positions of the images that are in one of `splits`."""
        return np.flatnonzero(np.isin(self.splits, splits))

    def without(self, quarantined: Sequence[Quarantined]) -> Dataset:
        """Return the data set less some files, which join `quarantined`."""
        if not quarantined:
            return self
        gone = {bad.path for bad in quarantined}
        kept = [place for place, path in enumerate(self.paths) if path not in gone]
        return replace(self.take(kept), quarantined=(*self.quarantined, *quarantined))

    def take(self, places: Sequence[int] | npt.NDArray[np.int64]) -> Dataset:
        """Return a data set of some of the images, in this order."""
        return replace(
            self,
            paths=PackedPaths(self.paths[place] for place in places),
            digests=PackedDigests(self.digests[place] for place in places),
            targets=self.targets.take(places),
            splits=self.splits[places],
            groups=tuple(self.groups[place] for place in places) if self.groups else (),
        )

    def all_in(self, split: str) -> Dataset:
        """Return the data set with all images in one split, for cross-validation."""
        return replace(self, splits=np.full(len(self), split, self.splits.dtype))

    def check_learnable(self) -> None:
        """Refuse a data set that no classifier can be trained on.

        Raises
        ------
        DataError
            No image can be used, all are of one class, or a class has fewer than two to train on.
        """
        reasons = shorten(f"{bad.path}: {bad.reason}" for bad in self.quarantined)
        cure = first_fix(self.quarantined)
        if not self.paths:
            raise DataError(
                f"none of the {len(self.quarantined)} files of {self.name} can be used; {reasons}",
                expected="" if cure else "images in a format of JPEG, PNG, WebP, BMP, GIF, TIFF",
                fix=cure,
            )
        if len(self.classes) < 2:
            raise DataError(
                f"{self.name} has images of one class only: {self.classes[0]}.",
                expected="two classes or more",
            )
        skipped = f"; {len(self.quarantined)} files skipped: {reasons}" if reasons else ""
        counts = self.targets.counts()
        if (few := np.flatnonzero(counts < 2)).size:
            raise DataError(
                "too few images of the class "
                f"{shorten(f'{self.classes[c]} ({counts[c]})' for c in few)}{skipped}",
                expected="at least two of each class: one to learn from, one to be tested on",
                fix=either(cure, "add images of it, or leave the class out"),
            )
        in_train = self.targets.counts(self.where("train"))
        if (few := np.flatnonzero(in_train < 2)).size:
            raise DataError(
                "too few training images of the class "
                f"{shorten(f'{self.classes[c]} ({in_train[c]})' for c in few)}{skipped}",
                expected="at least two of each class in the training split",
                fix=either(
                    cure,
                    "add images of it, give the splits yourself, or try another --seed"
                    if (self.targets.counts(self.where("train", *self.drawn))[few] > 1).all()
                    else "add images of it to the training split, or leave the class out",
                ),
            )

    def require_all_splits(self) -> None:
        """Refuse a data set that lacks images to train on, to choose by or to be judged on.

        Raises
        ------
        DataError
            A split is empty.
        """
        for split in SPLITS:
            if not self.where(split).size:
                raise DataError(
                    f"the {split} split of {self.name} is empty.",
                    expected=f"images in all of {', '.join(SPLITS)}",
                    fix="add images, give the splits yourself, or try another --seed"
                    if split in self.drawn
                    else f"add images to the {split} split",
                )


def first_fix(quarantined: Iterable[Quarantined]) -> str:
    """Return what to do about the first skipped file of which that is known."""
    return next((bad.fix for bad in quarantined if bad.fix), "")


def either(first: str, other: str) -> str:
    """Advise one thing, if there is one, or else another."""
    return f"{first.removesuffix('.')}; or {other}" if first else other


def count_splits(dataset: Dataset) -> dict[str, Counter[str]]:
    """Count the images of each class in each split."""
    return {
        split: +Counter(  # without the classes that have no image in the split
            dict(zip(dataset.classes, dataset.targets.counts(dataset.where(split)).tolist()))
        )
        for split in SPLITS
    }


def shorten(names: Iterable[str]) -> str:
    """Write the first five of some names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
