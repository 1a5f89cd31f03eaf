"""Images that occur more than once in a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.analysis.neighbours import Neighbours, Places, Rows, find_neighbours
from pipeline.evaluation.groups import connect

Kind = Literal["same bytes", "near"]

_NEIGHBOURS = 10
_HELD_OUT = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True)
class DuplicateThresholds:
    """How similar two rows must be to be near-duplicates.

    The similarity is the cosine of the flattened features, the distance 1 - cosine. Two images are
    near-duplicates if their similarity is at least `outright`; or if it is at least `close` and
    their distance at most `apart` times the distance from either image to its third nearest other
    image. Where all images are similar, the first rule is the stricter; where they are not, the
    second finds copies that were changed more.

    The values were chosen on the demo (the default features, in bfloat16) with
    copies of 250 of its photographs, added one at a time. Photographs of different solar cells have
    a similarity of 0.917 to their nearest (median; 99th percentile 0.989; maximum 0.993). Copies
    have a similarity (1st percentile, median) of 0.998, 0.999 as JPEG of quality 95; 0.991, 0.998
    of quality 75; 0.976, 0.995 of quality 60; 0.980, 0.992 at half the size. No single threshold
    separates them: 0.99 reports 1 % of all photographs and finds 80 % of the copies of quality 60
    and of half the size. These values were among the best that report less than 1 % of the
    photographs and also work for other pictures. They find 84 % and 83 % of those copies, all of
    quality 75 or better, 95 % of all, and report 0.8 % of the photographs: 13 pairs, of which 8
    look the same to the eye, of wafers apparently cut next to each other. Of copies of 125 of 1,000
    photographs from ImageNet, one of each class, they find 99 % to 100 % of each kind and report no
    other; no two of those are more similar than 0.71.

    Other layers, sizes and backbones have other similarities: `apart` adapts to them, `outright`
    and `close` do not.
    """

    outright: float = 0.991
    close: float = 0.95
    apart: float = 0.12


_THRESHOLDS = DuplicateThresholds()


@dataclass(frozen=True)
class DuplicatePair:
    """Two images that are the same, or nearly.

    Attributes
    ----------
    first, second : int
        Positions of the images.
    similarity : float
        Cosine of their features, at most 1.
    kind : {"same bytes", "near"}
        Whether the files are the same, or only the features nearly or wholly.
    splits : tuple of str
        Of the first, and of the second.
    same_label : bool
        Whether both have the same label.
    """

    first: int
    second: int
    similarity: float
    kind: Kind
    splits: tuple[str, str]
    same_label: bool

    @property
    def across(self) -> bool:
        """Whether the two are in different splits."""
        return self.splits[0] != self.splits[1]


@dataclass(frozen=True)
class Duplicates:
    """Images that occur more than once.

    Attributes
    ----------
    pairs : tuple of DuplicatePair
        Pairs across splits first, then by similarity. For m images with the same bytes or the same
        features there are m - 1 pairs, each with the least held-out of them; for other images,
        pairs with their 10 nearest are considered.
    groups : ndarray of int64, shape (n,)
        Images connected by pairs have the same number, so that folds can keep them together.
    thresholds : DuplicateThresholds
        How near-duplicates were told from other images.
    """

    pairs: tuple[DuplicatePair, ...]
    groups: Places = field(repr=False)
    thresholds: DuplicateThresholds

    @property
    def across(self) -> tuple[DuplicatePair, ...]:
        """The pairs across splits."""
        return tuple(pair for pair in self.pairs if pair.across)

    @property
    def contradictory(self) -> tuple[DuplicatePair, ...]:
        """The pairs whose images have different labels."""
        return tuple(pair for pair in self.pairs if not pair.same_label)


def find_duplicates(
    rows: Rows,
    digests: Sequence[bytes],
    labels: Places,
    splits: npt.NDArray[np.str_],
    *,
    neighbours: Neighbours | None = None,
) -> Duplicates:
    """Find images that occur more than once, except mirrored copies.

    Mirrored copies would need the features of the mirrored images: of photographs from ImageNet,
    the stored features of a copy, mirrored on their grid, have a median similarity of 0.68 to the
    original (other images: up to 0.71), of the demo's 0.64, since the grid is not centred on the
    picture and the network's filters are not symmetric.
    """
    nearest = neighbours or find_neighbours(rows, _NEIGHBOURS)[0]
    features = [hashlib.sha256(row.tobytes()).digest() for row in rows]
    rank = [_HELD_OUT[split] for split in splits]
    matches: dict[tuple[int, int], tuple[float, Kind]] = {}

    def add(pairs: Iterable[tuple[int, int, float]], kind: Kind) -> None:
        for first, second, similarity in pairs:
            key = (first, second)
            if (rank[second], second) < (rank[first], first):
                key = (second, first)
            matches.setdefault(key, (similarity, kind))

    add(_pair_equal(digests, rank), "same bytes")
    add(_pair_equal(features, rank), "near")
    similar = _pair_similar(nearest, _THRESHOLDS)
    add((pair for pair in similar if features[pair[0]] != features[pair[1]]), "near")
    pairs = [
        DuplicatePair(
            first,
            second,
            similarity,
            kind,
            (str(splits[first]), str(splits[second])),
            bool(labels[first] == labels[second]),
        )
        for (first, second), (similarity, kind) in matches.items()
    ]
    pairs.sort(key=lambda pair: (not pair.across, -pair.similarity, pair.first, pair.second))
    edges = np.array([(pair.first, pair.second) for pair in pairs], np.int64).reshape(-1, 2)
    return Duplicates(tuple(pairs), connect(edges.T, len(rows)), _THRESHOLDS)


def _pair_equal(names: Sequence[bytes], rank: Sequence[int]) -> Iterator[tuple[int, int, float]]:
    """Pair images of the same name, each with the first of the least held-out split."""
    first: dict[bytes, int] = {}
    for place in sorted(range(len(names)), key=rank.__getitem__):
        if (known := first.setdefault(names[place], place)) != place:
            yield known, place, 1.0


def _pair_similar(
    nearest: Neighbours, thresholds: DuplicateThresholds
) -> Iterator[tuple[int, int, float]]:
    """Pair rows with those of their neighbours that are near-duplicates."""
    close = min(thresholds.close, thresholds.outright)
    first, column = np.nonzero(nearest.similarities >= close)
    second = nearest.places[first, column]
    similarity = nearest.similarities[first, column]
    around = np.minimum(
        _third_distance(nearest, first, second), _third_distance(nearest, second, first)
    )
    is_close = similarity >= thresholds.close
    is_isolated = is_close & (1 - similarity <= thresholds.apart * around)
    for pair in np.flatnonzero((similarity >= thresholds.outright) | is_isolated):
        yield int(first[pair]), int(second[pair]), min(float(similarity[pair]), 1.0)


def _third_distance(nearest: Neighbours, places: Places, but: Places) -> npt.NDArray[np.float32]:
    """Give the distance from each place to its third nearest, without one; 0 if there is none."""
    listed = (nearest.places[places, :3] == but[:, None]).any(axis=1)
    third = nearest.distances[places, 2 + listed]
    return np.where(np.isfinite(third), third, np.float32(0))
