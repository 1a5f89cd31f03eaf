"""Which image is in which split: as given, or drawn from its digest or group.

See `docs/decisions/0027-small-classes-and-groups-have-their-share.md`.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.dataset import SPLITS, Dataset, Quarantined
from pipeline.data.entries import Entry
from pipeline.errors import DataError

_ORDER = ("test", "validation", "train")
_FEWEST_TO_LEARN_FROM = 2  # images of a class: what `Dataset.check_learnable` asks for
_TOLERANCE = 0.05  # by which the share of a split of groups may be off
_ATTEMPTS = 200  # draws of groups: 14 patients of very different size need about ten
_MOST_DRAWN = 10**6  # groups, times the draws of each: a second or two


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
    splits = [entry.split for entry in entries]
    units = [b"group:" + e.group.encode() if e.group else d for e, d in zip(entries, digests)]
    for kind in ("", "train"):
        places = [place for place, entry in enumerate(entries) if entry.split == kind]
        may_be = drawn_splits({kind} if kind == "" else given - {""}, shares)
        labels = [entries[place].label for place in places]
        draw = _Draw(seed, shares, may_be, [units[place] for place in places], labels)
        grouped = any(entries[place].group for place in places)
        drawn = draw.by_group() if grouped else draw.by_class()
        for place in places:
            splits[place] = drawn[units[place]]
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


@dataclass(frozen=True)
class _Draw:
    """Draws the splits of images that are given none.

    A unit is a group, or else the bytes of a file: entry i of `units` and `labels` is of image i.
    What may not be drawn is trained on.
    """

    seed: int
    shares: Shares
    may_be: Collection[str]
    units: Sequence[bytes]
    labels: Sequence[str]

    def by_class(self) -> dict[bytes, str]:
        """Draw, and correct where a class has less than a third of its share of a split.

        The images of a class stand in the order of their numbers, those for testing first; a
        correction moves the ends of the splits, so that it concerns no more images than it must.
        """
        label_of: dict[bytes, str] = {}
        for unit, label in zip(self.units, self.labels):
            label_of[unit] = min(label, label_of.get(unit, label))
        of_class: dict[str, list[tuple[int, float, bytes]]] = {}
        for unit, label in label_of.items():
            split, number = self._draw(unit)
            of_class.setdefault(label, []).append((_ORDER.index(split), number, unit))
        return {
            unit: split
            for drawn in of_class.values()
            for (_, _, unit), split in zip(sorted(drawn), self._corrected(drawn))
        }

    def _corrected(self, drawn: Sequence[tuple[int, float, bytes]]) -> list[str]:
        n = len(drawn)
        test_share, validation_share = (
            getattr(self.shares, split) if split in self.may_be else 0.0
            for split in ("test", "validation")
        )
        train = min(n, max(_FEWEST_TO_LEARN_FROM, _third(1 - test_share - validation_share, n)))
        test = min(n - train, _third(test_share, n))
        validation = min(n - train - test, _third(validation_share, n))
        counts = [sum(order == place for order, *_ in drawn) for place in range(2)]
        tested = min(max(counts[0], test), n - train - validation)
        chosen_by = min(max(counts[1], validation), n - train - tested)
        rest = n - tested - chosen_by
        return ["test"] * tested + ["validation"] * chosen_by + ["train"] * rest

    def by_group(self) -> dict[bytes, str]:
        """Draw until the splits are near their shares, and have every class that they can have."""
        names = list(dict.fromkeys(self.units))
        number = {unit: place for place, unit in enumerate(names)}
        classes = {label: place for place, label in enumerate(sorted(set(self.labels)))}
        pairs = Counter(zip(map(number.__getitem__, self.units), self.labels))
        unit, label, count = (
            np.array(column, np.int64)
            for column in zip(*((u, classes[name], many) for (u, name), many in pairs.items()))
        )
        units_of = np.bincount(label, minlength=len(classes))
        best, least = {}, np.inf
        for attempt in range(max(1, min(_ATTEMPTS, _MOST_DRAWN // len(names)))):
            drawn = {name: self._draw(name, attempt)[0] for name in names}
            place = np.array([_ORDER.index(split) for split in drawn.values()])[unit]
            counts = np.zeros((len(_ORDER), len(classes)))
            np.add.at(counts, (place, label), count)
            if (badness := self._badness(counts, units_of)) < least:
                best, least = drawn, badness
            if not least:
                break
        return best

    def _badness(self, counts: npt.NDArray[np.float64], units_of: npt.NDArray[np.int64]) -> float:
        """Measure how far images of each split and class are from what was asked for."""
        shares = counts.sum(axis=1) / counts.sum()
        badness = 0.0
        for place, split in enumerate(_ORDER[:2]):
            if split in self.may_be:
                off = abs(shares[place] - getattr(self.shares, split))
                badness += max(0.0, off - _TOLERANCE)
                # A class of one group is trained on; of two, it is tested on, too.
                badness += np.count_nonzero((counts[place] == 0) & (units_of >= 2 + place))
        few = np.minimum(counts.sum(axis=0), _FEWEST_TO_LEARN_FROM)
        return float(badness + np.count_nonzero(counts[2] < few))

    def _draw(self, unit: bytes, attempt: int = 0) -> tuple[str, float]:
        """Return a unit's split, and a number by which units of a split can be ordered."""
        again = b"%d:" % attempt if attempt else b""
        drawn = hashlib.sha256(b"%d:" % self.seed + again + unit).digest()
        number = int.from_bytes(drawn[:8], "big") / 2**64
        start = self.shares.test
        split = "train"
        if number < start:
            split = "test"
        elif number < start + self.shares.validation:
            split = "validation"
        if split not in self.may_be:
            split = "train"
        return split, number if "test" in self.may_be else (number - start) % 1


def _third(share: float, n: int) -> int:
    """Return the fewest of n images that a split of this share is to have."""
    return max(1, math.ceil(share * n / 3)) if share else 0


def copies_across_splits(dataset: Dataset) -> list[Quarantined]:
    """Find files with the same bytes as one in a more held-out split.

    An image that has a label stays, whatever the splits of copies without one.
    """
    keeper: dict[bytes, int] = {}
    has_label = np.array([name != "" for name in dataset.classes])[dataset.targets.labels]
    rank = [
        (labelled, SPLITS.index(split))
        for labelled, split in zip(has_label.tolist(), dataset.splits, strict=True)
    ]
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
        if dataset.splits[kept := keeper[digest]] != dataset.splits[place]
    ]
