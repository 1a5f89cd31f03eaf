"""Images that are there more than once, and what that may be worth on the test images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.analysis.neighbours import Neighbours, Rows, find_neighbours
from pipeline.evaluation.groups import connect

Kind = Literal["same bytes", "near", "mirrored"]

_NEIGHBOURS = 10
_HELD_OUT = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True)
class Alike:
    """How similar two rows must be to be called near-duplicates.

    The similarity is the cosine of the flattened features, the distance 1 - cosine. A pair is
    named if its similarity is at least `outright`; or at least `close`, and its distance at most
    `apart` times that from either image to its third nearest other. Where images are much alike,
    the first rule is the stricter; where they are not, the second finds copies that were changed
    more.

    The defaults were set on the demo, VGG16's ``block5_pool`` at 150 pixels in bfloat16, with
    copies of 250 of its photographs, each planted on its own. Photographs of different solar cells
    are as similar as 0.917 to their nearest (median; 99 %: 0.989; the most: 0.993), while copies
    have a similarity of (1 %, median) 0.998, 0.999 as JPEG of quality 95; 0.991, 0.998 of 75;
    0.976, 0.995 of 60; 0.980, 0.992 at half the size. No one threshold tells them apart: 0.99 names
    1 % of all photographs and finds 80 % of the copies of quality 60 and of half the size. The
    defaults were among the best found that name less than 1 % of the photographs and serve for
    other pictures too. They find 84 % and 83 % of these, all of quality 75 or better, 95 % of all,
    and name 0.8 % of the photographs: 13 pairs, of which 8 by eye show the same pattern, of wafers
    that seem to have been cut next to each other. Of copies of 125 of 1,000 photographs from
    ImageNet, one a class, they find 99 % to 100 % of each kind, and name none of the others, of
    which no two are more similar than 0.71.

    Other layers, sizes and backbones have other similarities; `apart` adapts to these, the others
    do not.
    """

    outright: float = 0.991
    close: float = 0.95
    apart: float = 0.12


ALIKE = Alike()
"""What is called a near-duplicate, unless told otherwise."""


@dataclass(frozen=True)
class Pair:
    """Two images that are the same, or nearly.

    Attributes
    ----------
    first, second : int
        Positions of the images.
    similarity : float
        Cosine of their features, to 1; of the mirrored first's and the second's for mirrored ones.
    kind : {"same bytes", "near", "mirrored"}
        What is the same: the file; the features, nearly or wholly; or these with one mirrored.
    splits : tuple of str
        Of the first, and of the second.
    same_label : bool
        Whether both are said to be of the same class.
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
    """Images that are there more than once.

    Attributes
    ----------
    pairs : tuple of Pair
        Those across splits first, and of these the most similar first. Of m images with the same
        bytes, or the same features, there are m - 1 pairs, each with the least held-out of them;
        of the others, each one's 10 nearest are looked at.
    groups : ndarray of int64, shape (n,)
        Images that pairs connect have the same number, others each its own: to keep them together
        in folds.
    thresholds : Alike
        What was called a near-duplicate.
    """

    pairs: tuple[Pair, ...]
    groups: npt.NDArray[np.int64] = field(repr=False)
    thresholds: Alike

    @property
    def across(self) -> tuple[Pair, ...]:
        """The pairs across splits."""
        return tuple(pair for pair in self.pairs if pair.across)

    @property
    def contradictory(self) -> tuple[Pair, ...]:
        """The pairs with two labels for the same picture."""
        return tuple(pair for pair in self.pairs if not pair.same_label)


def find_duplicates(
    rows: Rows,
    digests: Sequence[bytes],
    labels: npt.NDArray[np.int64],
    splits: npt.NDArray[np.str_],
    *,
    neighbours: Neighbours | None = None,
    mirrored: Rows | None = None,
    alike: Alike = ALIKE,
) -> Duplicates:
    """Find images that are there more than once.

    Mirrored copies are found with the features of the mirrored images alone, and with them as well
    as others. Mirroring the grid of stored features instead does not do: of photographs from
    ImageNet, the so mirrored features of a mirrored copy have a median similarity of 0.68 to the
    original (the most similar other one: up to 0.71), of the demo's 0.64, and of no more than 42 %
    is the original the nearest. The grid is not centred on the picture, and the filters below are
    not symmetric.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, ...)
        Features.
    digests : sequence of bytes
        Of the images' files.
    labels : ndarray of int64, shape (n,)
        Classes.
    splits : ndarray of str, shape (n,)
        ``"train"``, ``"validation"`` or ``"test"``.
    neighbours : Neighbours, optional
        What `find_neighbours` found among all rows, if that is there; at least four of each.
    mirrored : ndarray of float32, shape (n, ...), optional
        Features of the mirrored images.
    alike : Alike
        What to call a near-duplicate.

    Raises
    ------
    PipelineError
        Features are not finite.
    """
    nearest = neighbours or find_neighbours(rows, _NEIGHBOURS)[0]
    features = [hashlib.sha256(row.tobytes()).digest() for row in rows]
    rank = [_HELD_OUT[split] for split in splits]
    found: dict[tuple[int, int], tuple[float, Kind]] = {}

    def add(pairs: Iterable[tuple[int, int, float]], kind: Kind) -> None:
        for one, other, similarity in pairs:
            key = (one, other) if (rank[one], one) < (rank[other], other) else (other, one)
            found.setdefault(key, (similarity, kind))

    add(_same(digests, rank), "same bytes")
    add(_same(features, rank), "near")
    searches: list[tuple[Neighbours, Kind]] = [(nearest, "near")]
    if mirrored is not None:
        [turned] = find_neighbours(rows, _NEIGHBOURS, queries=mirrored)
        searches.append((turned, "mirrored"))
    for one, kind in searches:
        pairs = _alike(one, nearest, alike)
        add((pair for pair in pairs if features[pair[0]] != features[pair[1]]), kind)
    named = [
        Pair(
            first,
            second,
            similarity,
            kind,
            (str(splits[first]), str(splits[second])),
            bool(labels[first] == labels[second]),
        )
        for (first, second), (similarity, kind) in found.items()
    ]
    named.sort(key=lambda pair: (not pair.across, -pair.similarity, pair.first, pair.second))
    ends = np.array([(pair.first, pair.second) for pair in named], np.int64).reshape(-1, 2)
    return Duplicates(tuple(named), connect(ends.T, len(rows)), alike)


def _same(names: Sequence[bytes], rank: Sequence[int]) -> Iterator[tuple[int, int, float]]:
    """Pair what has the same name, each with the first of the least held-out split."""
    first: dict[bytes, int] = {}
    for place in sorted(range(len(names)), key=rank.__getitem__):
        if (known := first.setdefault(names[place], place)) != place:
            yield known, place, 1.0


def _alike(
    asked: Neighbours, nearest: Neighbours, alike: Alike
) -> Iterator[tuple[int, int, float]]:
    """Pair rows with those of their neighbours that the thresholds call alike."""
    one, column = np.nonzero(asked.similarities >= min(alike.close, alike.outright))
    other = asked.places[one, column]
    similarity = asked.similarities[one, column]
    around = np.minimum(_third(asked, one, other), _third(nearest, other, one))
    is_alone = (similarity >= alike.close) & (1 - similarity <= alike.apart * around)
    for pair in np.flatnonzero((similarity >= alike.outright) | is_alone):
        yield int(one[pair]), int(other[pair]), min(float(similarity[pair]), 1.0)


def _third(
    nearest: Neighbours, places: npt.NDArray[np.int64], but: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Give the distance from each place to its third nearest other, leaving one out; 0 if none."""
    listed = (nearest.places[places, :3] == but[:, None]).any(axis=1)
    third = nearest.distances[places, 2 + listed]
    return np.where(np.isfinite(third), third, np.float32(0))
