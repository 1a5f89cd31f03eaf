"""Which image is in which split: as given, or drawn from its digest or group."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from pipeline.data.dataset import SPLITS, Dataset, Quarantined
from pipeline.data.entries import Entry
from pipeline.errors import DataError


@dataclass(frozen=True)
class Shares:
    """The expected shares of the validation and test splits, where splits are not given.

    Parameters
    ----------
    validation, test : float
        0 or more; together less than 1.

    Raises
    ------
    DataError
        Nothing would be left to train on.
    """

    validation: float = 0.15
    test: float = 0.25

    def __post_init__(self) -> None:
        total = self.validation + self.test
        if not (self.validation >= 0 and self.test >= 0 and total < 1):  # also refuses NaN
            raise DataError(
                f"shares of {self.validation} for validation and {self.test} for test leave "
                "nothing to train on.",
                expected="shares of 0 or more that add up to less than 1",
            )


def assign_splits(
    entries: Sequence[Entry],
    digests: Sequence[bytes],
    seed: int,
    shares: Shares,
    given: Iterable[str] = (),
) -> list[str]:
    """Give each entry its split: the given one, or one drawn by its group or digest.

    A split that no entry is given is drawn from those given to train on; but not one in `given`,
    all of whose files are skipped.
    """
    given = {entry.split for entry in entries}.union(given)
    splits = []
    for entry, digest in zip(entries, digests, strict=True):
        drawn = _draw(entry, digest, seed, shares)
        if entry.split in ("validation", "test"):
            splits.append(entry.split)
        elif entry.split == "train" and drawn in given:
            splits.append("train")
        else:
            splits.append(drawn)
    split_of: dict[str, str] = {}
    for entry, split in zip(entries, splits, strict=True):
        if entry.group and split_of.setdefault(entry.group, split) != split:
            raise DataError(
                f"the group {entry.group} is in {split_of[entry.group]} and in {split}.",
                expected="every group in one split",
                fix="give its images the same split, or no split at all",
            )
    return splits


def drawn_splits(given: Collection[str], shares: Shares) -> tuple[str, ...]:
    """Tell into which splits images may be drawn, from those that are given; "" is for none."""
    share_of = {"validation": shares.validation, "test": shares.test}
    held_out = [split for split, share in share_of.items() if share > 0]
    if "" in given:
        return ("train", *held_out)
    return tuple(split for split in held_out if split not in given and "train" in given)


def _draw(entry: Entry, digest: bytes, seed: int, shares: Shares) -> str:
    unit = b"group:" + entry.group.encode() if entry.group else digest
    drawn = hashlib.sha256(b"%d:" % seed + unit).digest()
    number = int.from_bytes(drawn[:8], "big") / 2**64
    if number < shares.test:
        return "test"
    return "validation" if number < shares.test + shares.validation else "train"


def copies_across_splits(dataset: Dataset) -> list[Quarantined]:
    """Find files with the same bytes as one in a more held-out split."""
    keeper: dict[bytes, int] = {}
    rank = [SPLITS.index(split) for split in dataset.splits]
    for place, digest in enumerate(dataset.digests):
        kept = keeper.setdefault(digest, place)
        if rank[place] > rank[kept]:
            keeper[digest] = place
    return [
        Quarantined(
            dataset.paths[place],
            f"the same bytes as {dataset.paths[kept]}, which is in {dataset.splits[kept]}",
        )
        for place, digest in enumerate(dataset.digests)
        if rank[kept := keeper[digest]] > rank[place]
    ]
