"""All images of a data set and their rows, as the page shows them: by number, never by path."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.analysis.image_map import map_images
from pipeline.analysis.problems import Problems, find_problems
from pipeline.analysis.similarity import Gallery, NearImage
from pipeline.data.dataset import Dataset
from pipeline.data.decoding import VERSION
from pipeline.data.digests import read_image
from pipeline.data.images import thumbnail
from pipeline.data.targets import Targets
from pipeline.data.urls import Location, Unopened
from pipeline.errors import ImageError, PipelineError, printable
from pipeline.features.extractor import Extraction
from pipeline.models.model import Model
from pipeline.report.words import common_folder
from pipeline.system.cells import to_cell

Rows = npt.NDArray[np.float32]

NO_LABEL = "no label"
LABEL_SO_FAR = "label so far"
"""What images are coloured by while they are labelled."""


@dataclass(frozen=True)
class Collection:
    """Images, and what the page can show of each.

    Parameters
    ----------
    extraction : Extraction
        The images, and where their rows are.
    gallery : Gallery
        The same images, to look for similar ones.
    model : Model, optional
        Predicts classes from these rows.
    labels : callable, optional
        Gives the label of each image by now, where images are labelled meanwhile.
    """

    extraction: Extraction
    gallery: Gallery
    model: Model | None = None
    labels: Callable[[], Sequence[str]] | None = None

    @property
    def dataset(self) -> Dataset:
        """The images."""
        return self.extraction.dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def columns(self, more: Sequence[str] = ()) -> dict[str, Any]:
        """List what is known of each image, one entry of a list each, and what can be asked for."""
        paths = list(map(str, self.dataset.paths))
        folder = common_folder(paths)
        predicted = ["predicted class"] if self._predicts else []
        return {
            "names": [printable(path.removeprefix(folder)) for path in paths],
            "colours": {
                "class": column_of(name or NO_LABEL for name in self._names()),
                "split": column_of(self.dataset.splits.tolist()),
                **({"group": column_of(self.dataset.groups)} if self.dataset.groups else {}),
            },
            "more": [*more, *predicted, "suspicious label", "copy"],
        }

    def column(self, kind: str) -> dict[str, Any]:
        """Work out what takes a while: predicted classes, suspicious labels, copies."""
        if kind == "predicted class" and self._predicts:
            return column_of(self.predicted)
        if kind == "suspicious label":
            labels = self._problems.labels
            names = np.full(len(self), "label not checked", object)
            if labels.judged:
                names[self._labelled] = "label not suspicious"
            for suspect in labels.suspects:
                if suspect.likely:
                    names[self._labelled[suspect.place]] = "label likely wrong"
            return column_of(names)
        if kind == "copy":
            names = np.full(len(self), "no copy", object)
            for pair in reversed(self._problems.duplicates.pairs):  # those across splits come last
                for place in (pair.first, pair.second):
                    names[self._labelled[place]] = (
                        "copy in another split" if pair.across else "copy"
                    )
            return column_of(names)
        raise PipelineError(f"images have no {kind!r}.")

    @property
    def _predicts(self) -> bool:
        """Whether there is a model that takes rows: an exported file takes pictures only."""
        model = self.model
        return model is not None and (model.estimator is not None or model.original is not None)

    def points(self) -> list[list[float]]:
        """Give each image a place near those of similar ones, both coordinates from 0 to 1."""
        places = map_images(self.extraction)
        low, high = places.min(axis=0), places.max(axis=0)
        shares: npt.NDArray[np.float64] = (places - low) / np.maximum(high - low, 1e-12)
        points: list[list[float]] = shares.round(4).tolist()
        return points

    @cached_property
    def predicted(self) -> list[str]:
        """The class that the model calls each image, known ones included."""
        assert self.model is not None  # noqa: S101 -- for the type checker
        names = np.empty(len(self), object)
        keys = [(digest, 0) for digest in self.dataset.digests]
        for rows, places in self.extraction.store.blocks(keys):
            called = self.model.call(self.model.probabilities(rows))
            names[places] = [self.model.classes[number] for number in called]
        return [*names]

    @cached_property
    def _labelled(self) -> npt.NDArray[np.int64]:
        """Positions of the images that have a label."""
        names = np.array(self.dataset.classes)[self.dataset.targets.labels]
        return np.flatnonzero(names != "")

    @cached_property
    def _problems(self) -> Problems:
        """What may be wrong with the images that have a label."""
        places, dataset = self._labelled, self.dataset
        rows = self.extraction.rows(places=places.tolist())
        if "" in dataset.classes:  # it is the first
            labelled = dataset.take(places)
            targets = Targets(labelled.targets.labels - 1, dataset.classes[1:])
            dataset = replace(labelled, targets=targets)
        dataset.check_learnable()
        return find_problems(dataset, rows, repeats=0)

    def picture(self, number: int, side: int) -> bytes:
        """Make a small JPEG of an image, if its file still is what it was."""
        path = self.dataset.paths[self._checked(number)]
        if isinstance(path, Unopened):
            raise ImageError("the features came without the pictures")
        content, _ = read_image(path, self.dataset.digests[number])
        decoding = str(getattr(self.extraction.recipe, "decoding", VERSION))
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
        return np.intersect1d(places if len(places) else np.arange(len(self)), self._labelled)

    def _described(self, similar: Sequence[NearImage]) -> list[dict[str, Any]]:
        names = self._names()
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

    def _names(self) -> Sequence[str]:
        """Give the label of each image by now, empty where it has none."""
        return self.labels() if self.labels else self._given

    @cached_property
    def _given(self) -> list[str]:
        return [*map(self.dataset.targets.name, range(len(self)))]

    def as_csv(self, numbers: Sequence[int]) -> tuple[str, int]:
        """Write images as a CSV that `pipeline classify` takes; tell how many were left out.

        Those without a label are left out.
        """
        names = self._names()
        written = [number for number in map(self._checked, numbers) if names[number]]
        if not written:
            raise PipelineError(
                "none of these images has a label.", fix="label them: pipeline app DATA --label"
            )
        splits, groups = self.dataset.splits, self.dataset.groups
        columns = {
            "path": [str(_from_anywhere(self.dataset.paths[number])) for number in written],
            "label": [names[number] for number in written],
        }
        if "train" in splits[written]:  # else classify draws splits
            columns["split"] = splits[written].tolist()
        if groups:
            columns["group"] = [groups[number] for number in written]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(map(to_cell, row) for row in zip(*columns.values(), strict=True))
        return text.getvalue(), len(numbers) - len(written)

    def _checked(self, number: int) -> int:
        if not 0 <= number < len(self):
            raise PipelineError(f"there is no image {number}.", expected=f"0 to {len(self) - 1}")
        return number


def _from_anywhere(path: Location) -> Location:
    """Return a path that holds wherever the CSV file will lie."""
    return path.absolute()


def column_of(names: Iterable[str]) -> dict[str, Any]:
    """Give each image the number of its name, in a list of all names."""
    unique, numbers = np.unique(
        np.array([*map(str, names)], object).astype(str), return_inverse=True
    )
    return {"names": [*map(printable, unique.tolist())], "of": numbers.tolist()}
