"""What is known of each image: labels, predicted classes, copies, a place on a map."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.analysis.image_map import map_images
from pipeline.analysis.problems import Problems, find_problems
from pipeline.data.dataset import Dataset
from pipeline.data.targets import Targets
from pipeline.errors import PipelineError
from pipeline.features.extractor import Extraction
from pipeline.models.model import Model
from pipeline.system.cells import to_cell

NO_LABEL = "no label"
PLAIN = (NO_LABEL, "label not suspicious", "label not checked", "no copy", "copies not looked for")
"""What most images are, and nothing to look for: a chart has them in grey."""

_PREDICTED = "predicted class"
_CHECKED = ("suspicious label", "copy")  # they need labels that can be learned from


@dataclass(frozen=True)
class ImageTable:
    """Images, and what is known of each: from `pipeline.open_images`.

    Parameters
    ----------
    extraction : Extraction
        The images, and where their rows are; those without a label are of the class "".
    model : Model, optional
        Predicts classes from these rows.
    labels : callable, optional
        Gives the label of each image by now, where images are labelled meanwhile.
    seed : int
        Random seed of the check of labels.

    Examples
    --------
    >>> from pipeline import open_images
    >>> table = open_images("photos", run="runs/photos")  # doctest: +SKIP
    >>> table.column("predicted class"), table.column("suspicious label")  # doctest: +SKIP
    """

    extraction: Extraction
    model: Model | None = None
    labels: Callable[[], Sequence[str]] | None = None
    seed: int = 0

    @property
    def dataset(self) -> Dataset:
        """The images."""
        return self.extraction.dataset

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The columns that there are."""
        return _kinds(self.dataset, self._predicts)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know of how the model fits these images, in sentences."""
        remarks = []
        if self.model and self.model.trained_on not in ("", self._known.digest):
            remarks += ["The model was trained on other images, labels or splits than these."]
        if self.model and self._predicts and self.model.views > 1:
            views = f"without the average of its {self.model.views} views"
            remarks += [f"Classes are predicted from the images themselves, {views}."]
        return tuple(remarks)

    def column(self, kind: str) -> list[str]:
        """Tell one thing of each image.

        Parameters
        ----------
        kind : str
            One of `kinds`. Predicted classes, suspicious labels and copies are worked out when
            they are first asked for.

        Raises
        ------
        PipelineError
            There is no such column, or there are too few labels to check them.
        """
        _check_kind(kind, self.kinds)
        if kind == "class":
            return [name or NO_LABEL for name in self.names()]
        if kind == "split":
            return [split or NO_LABEL for split in self._splits(self.names())]
        if kind == "group":
            return [*self.dataset.groups]
        if kind == _PREDICTED:
            return self.predicted
        return self._suspicious() if kind == "suspicious label" else self._copies()

    def names(self) -> Sequence[str]:
        """Give the label of each image by now, empty where it has none."""
        return self.labels() if self.labels else self._given

    def points(self) -> list[list[float]]:
        """Give each image a place near those of similar ones, both coordinates from 0 to 1."""
        places = map_images(self.extraction).astype(np.float64)
        low, high = places.min(axis=0), places.max(axis=0)
        shares: npt.NDArray[np.float64] = (places - low) / np.maximum(high - low, 1e-12)
        points: list[list[float]] = shares.round(4).tolist()
        return points

    def selection(self, numbers: Sequence[int]) -> tuple[bytes, int]:
        """Write some images as a CSV that `pipeline classify` takes; tell how many were left out.

        Those without a label are left out.
        """
        names = self.names()
        written = [number for number in numbers if names[number]]
        if not written:
            raise _no_label()
        return self._csv(written, names, {}), len(numbers) - len(written)

    def map_csv(self) -> bytes:
        """Write all images as a CSV: labels, splits, groups, coordinates, predicted classes.

        Images without a label have none there and no split. The lines of the others are a CSV that
        `pipeline classify` takes.
        """
        x, y = zip(*self.points(), strict=True)
        more: dict[str, Sequence[object]] = {"x": x, "y": y}
        if self._predicts:
            more["predicted"] = self.predicted
        return self._csv(range(len(self)), self.names(), more)

    def _csv(
        self, numbers: Sequence[int], names: Sequence[str], more: Mapping[str, Sequence[object]]
    ) -> bytes:
        all_splits, groups = self._splits(names), self.dataset.groups
        splits = [all_splits[number] for number in numbers]
        columns: dict[str, Sequence[object]] = {
            # They hold wherever the file will lie.
            "path": [self.dataset.paths[number].absolute() for number in numbers],
            "label": [names[number] for number in numbers],
        }
        if "train" in splits:  # else classify draws splits
            columns["split"] = splits
        if groups:
            columns["group"] = [groups[number] for number in numbers]
        columns |= more
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([to_cell(str(value)) for value in row])
        return text.getvalue().encode(errors="surrogateescape")

    def _splits(self, names: Sequence[str]) -> list[str]:
        """Give the split of each image, empty where it has no label."""
        pairs = zip(self.dataset.splits.tolist(), names, strict=True)
        return [split if name else "" for split, name in pairs]

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
    def labelled(self) -> npt.NDArray[np.int64]:
        """Positions of the images that were listed with a label."""
        names = np.array(self.dataset.classes)[self.dataset.targets.labels]
        return np.flatnonzero(names != "")

    @property
    def _predicts(self) -> bool:
        return self.model is not None and self.model.takes_rows

    @cached_property
    def _given(self) -> list[str]:
        return [*map(self.dataset.targets.name, range(len(self)))]

    def _suspicious(self) -> list[str]:
        names, labels = self._unknown("label not checked"), self._problems.labels
        if labels.judged:
            names[self.labelled] = "label not suspicious"
        for suspect in labels.suspects:
            if suspect.likely:
                names[self.labelled[suspect.place]] = "label likely wrong"
        return [*names]

    def _copies(self) -> list[str]:
        names, pairs = self._unknown("copies not looked for"), self._problems.duplicates.pairs
        names[self.labelled] = "no copy"
        for pair in reversed(pairs):  # those across splits come last
            for place in (pair.first, pair.second):
                names[self.labelled[place]] = "copy in another split" if pair.across else "copy"
        return [*names]

    def _unknown(self, name: str) -> npt.NDArray[Any]:
        return np.full(len(self), name, object)

    @cached_property
    def _problems(self) -> Problems:
        """What may be wrong with the images that have a label."""
        dataset = _learnable(self._known)
        rows = self.extraction.rows(places=self.labelled.tolist())
        return find_problems(dataset, rows, repeats=0, seed=self.seed)

    @cached_property
    def _known(self) -> Dataset:
        """The images that were listed with a label."""
        return _labelled_part(self.dataset)


def check_column(kind: str, dataset: Dataset, model: Model | None) -> None:
    """Refuse a column that a table of these images would not have, before their rows are made."""
    _check_kind(kind, _kinds(dataset, model is not None and model.takes_rows))
    if kind in _CHECKED:
        _learnable(_labelled_part(dataset))


def _kinds(dataset: Dataset, predicts: bool) -> tuple[str, ...]:
    groups = ["group"] if dataset.groups else []
    predicted = [_PREDICTED] if predicts else []
    return ("class", "split", *groups, *predicted, *_CHECKED)


def _check_kind(kind: str, kinds: Sequence[str]) -> None:
    if kind not in kinds:
        raise PipelineError(f"images have no {kind!r}.", expected=", ".join(kinds))


def _labelled_part(dataset: Dataset) -> Dataset:
    if "" not in dataset.classes:
        return dataset
    labelled = dataset.take(np.flatnonzero(dataset.targets.labels))  # the class "" is the first
    return replace(labelled, targets=Targets(labelled.targets.labels - 1, dataset.classes[1:]))


def _no_label() -> PipelineError:
    return PipelineError(
        "none of these images has a label.", fix="label them: pipeline app DATA --label"
    )


def _learnable(dataset: Dataset) -> Dataset:
    """Return labelled images as their labels are checked, or refuse them."""
    if not len(dataset):
        raise _no_label()
    if not len(dataset.where("train")):  # as a run of a cross-validation has it
        dataset = dataset.all_in("train")
    dataset.check_learnable()
    return dataset
