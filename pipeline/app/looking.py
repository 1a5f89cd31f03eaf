"""All images of a data set and their rows, as the page shows them: by number, never by path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.analysis.image_table import NO_LABEL, PLAIN, ImageTable
from pipeline.analysis.similarity import Gallery, NearImage
from pipeline.data.dataset import Dataset
from pipeline.data.decoding import VERSION
from pipeline.data.digests import read_image
from pipeline.data.images import thumbnail
from pipeline.data.urls import Unopened
from pipeline.errors import ImageError, PipelineError, printable
from pipeline.report.words import common_folder

Rows = npt.NDArray[np.float32]

LABEL_SO_FAR = "label so far"
"""What images are coloured by while they are labelled."""

_AT_ONCE = ("class", "split", "group")


@dataclass(frozen=True)
class Collection:
    """Images, and what the page can show of each.

    Parameters
    ----------
    table : ImageTable
        What is known of them.
    gallery : Gallery
        The same images, to look for similar ones.
    """

    table: ImageTable
    gallery: Gallery

    @property
    def dataset(self) -> Dataset:
        """The images."""
        return self.table.dataset

    def __len__(self) -> int:
        return len(self.table)

    def columns(self, more: Sequence[str] = ()) -> dict[str, Any]:
        """List what is known of each image, one entry of a list each, and what can be asked for."""
        paths, kinds = list(map(str, self.dataset.paths)), self.table.kinds
        folder = common_folder(paths)
        return {
            "names": [printable(path.removeprefix(folder)) for path in paths],
            "colours": {kind: self.column(kind) for kind in kinds if kind in _AT_ONCE},
            "more": [*more, *(kind for kind in kinds if kind not in _AT_ONCE)],
            "plain": PLAIN,
        }

    def column(self, kind: str) -> dict[str, Any]:
        """Tell one thing of each image, which may have to be worked out."""
        return column_of(self.table.column(kind))

    def picture(self, number: int, side: int) -> bytes:
        """Make a small JPEG of an image, if its file still is what it was."""
        path = self.dataset.paths[self._checked(number)]
        if isinstance(path, Unopened):
            raise ImageError("the features came without the pictures")
        content, _ = read_image(path, self.dataset.digests[number])
        decoding = str(getattr(self.table.extraction.recipe, "decoding", VERSION))
        return thumbnail(content, side, decoding)

    def similar_to(self, row: Rows, count: int) -> list[dict[str, Any]]:
        """Describe the images to learn from whose features are most like a row of features."""
        return self._described(self.gallery.nearest(row[None], count, among=self._learned))

    def similar(self, number: int, count: int) -> list[dict[str, Any]]:
        """Describe the images that are most like one of them."""
        return self._described(self.gallery.most_like(self._checked(number), count))

    @cached_property
    def _learned(self) -> npt.NDArray[np.int64]:
        """Positions of the images to learn from, which in cross-validation are all with a label."""
        places = self.dataset.where("train", "validation")
        return np.intersect1d(places if len(places) else np.arange(len(self)), self.table.labelled)

    def _described(self, similar: Sequence[NearImage]) -> list[dict[str, Any]]:
        names = self.table.names()
        return [
            {
                "number": near.place,
                "path": printable(near.path),
                "label": names[near.place] or NO_LABEL,
                "split": str(self.dataset.splits[near.place]),
                "distance": round(near.distance, 4),
            }
            for near in similar
        ]

    def as_csv(self, numbers: Sequence[int]) -> tuple[bytes, int]:
        """Write images as a CSV that `pipeline classify` takes; tell how many were left out."""
        return self.table.selection([*map(self._checked, numbers)])

    def _checked(self, number: int) -> int:
        if not 0 <= number < len(self):
            raise PipelineError(f"there is no image {number}.", expected=f"0 to {len(self) - 1}")
        return number


def column_of(names: Iterable[str]) -> dict[str, Any]:
    """Give each image the number of its name, in a list of all names."""
    unique, numbers = np.unique(
        np.array([*map(str, names)], object).astype(str), return_inverse=True
    )
    return {"names": [*map(printable, unique.tolist())], "of": numbers.tolist()}
