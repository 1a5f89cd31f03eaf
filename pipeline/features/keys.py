"""What names a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.dataset import Dataset

Key = tuple[bytes, int]
"""What names a row: the SHA-256 digest of the image file's bytes, and the view's number."""
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: views of an image lie apart


def keys(dataset: Dataset) -> list[Key]:
    """Name the row of each image of a data set, in its order."""
    return [(digest, 0) for digest in dataset.digests]


@dataclass(frozen=True)
class Keys:
    """Names of rows, in columns.

    Attributes
    ----------
    digests : ndarray of uint8, shape (n, 32)
    views : ndarray of uint16, shape (n,)
    """

    digests: npt.NDArray[np.uint8]
    views: npt.NDArray[np.uint16]

    @classmethod
    def of(cls, keys: Sequence[Key]) -> Keys:
        """Put keys into columns."""
        digests = np.frombuffer(b"".join(digest for digest, _ in keys), np.uint8)
        views = np.array([view for _, view in keys], np.uint16)
        return cls(digests.reshape(len(keys), 32), views)

    @classmethod
    def joined(cls, parts: Sequence[Keys]) -> Keys:
        """Join several."""
        digests = np.concatenate([keys.digests for keys in parts])
        return cls(digests, np.concatenate([keys.views for keys in parts]))

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[Key]:
        return zip(map(bytes, self.digests), self.views.tolist())

    def take(self, places: npt.NDArray[np.intp] | slice) -> Keys:
        """Return those at some places."""
        return Keys(self.digests[places], self.views[places])

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """A number for each, evenly spread as digests are; of view 0, in the digests' order."""
        start = np.ascontiguousarray(self.digests[:, :8]).view(">u8")[:, 0].astype(np.uint64)
        return start + self.views * _SPREAD
