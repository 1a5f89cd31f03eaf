"""A run's folder back into memory: its documents, and what was predicted of the test images."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.evaluation.aims import rank
from pipeline.evaluation.protocol import Protocol
from pipeline.models.files import hint_at_run
from pipeline.runs.documents import (
    ExamplesDocument,
    HeadRecord,
    PicturesDocument,
    ProblemsDocument,
    RunDocument,
)
from pipeline.system.cells import from_cell
from pipeline.system.documents import DamagedError, Document, NewerError, read_document
from pipeline.system.files import open_regular, read_regular

RUN, PROBLEMS, EXAMPLES = "run.json", "problems.json", "examples.json"
PICTURES = "pictures.json"
PREDICTIONS = "predictions.csv"
_MOST_BYTES = 2**28  # of a document: a thousand times what the largest of our runs has

Kind = TypeVar("Kind", bound=Document)


@dataclass(frozen=True)
class Predictions:
    """The predictions of one head for the test images.

    Attributes
    ----------
    paths : tuple of str
        The image files, as they were named when the run was made.
    truth : ndarray of int64, shape (n,)
        True classes.
    probabilities : ndarray of float64, shape (n, k)
        Probability of each class.
    predicted : ndarray of int64, shape (n,)
        The class that each image is called: the most probable, or by the threshold.
    positive : int
        Of two classes, the one that figures are of.
    """

    paths: tuple[str, ...]
    truth: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    predicted: npt.NDArray[np.int64]
    positive: int = 1

    @property
    def scored(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], int]:
        """What curves are drawn from: truth, probabilities and the positive class."""
        return self.truth, self.probabilities, self.positive

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """Probability of the class that each image is called: with a threshold, maybe a low one."""
        own: npt.NDArray[np.float64] = self.probabilities[
            np.arange(len(self.truth)), self.predicted
        ]
        return own

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Which images are predicted correctly."""
        return np.equal(self.predicted, self.truth)


@dataclass(frozen=True)
class Record:
    """A run as its folder holds it.

    Attributes
    ----------
    name : str
        What to call it.
    folder : Path
        Where it is kept: a section may find files of its own there.
    document : RunDocument
        All of `run.json`.
    heads : tuple of HeadRecord
        From the best on validation to the worst: by the threshold's aim, or else by log loss.
    predictions : mapping of str to Predictions
        Of the test images, by head; empty where `predictions.csv` cannot be used.
    problem : str
        Why it cannot be used, else empty.
    problems : ProblemsDocument or None
        What is wrong with the data set, if that was looked for.
    examples : ExamplesDocument or None
        Test images with neighbours and maps, if there are any.
    pictures : PicturesDocument
        The pictures of the page: the files that a run names are not opened to draw it.
    """

    name: str
    folder: Path
    document: RunDocument
    heads: tuple[HeadRecord, ...]
    predictions: Mapping[str, Predictions]
    problem: str
    problems: ProblemsDocument | None
    examples: ExamplesDocument | None
    pictures: PicturesDocument

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.document.dataset.classes

    @property
    def best(self) -> HeadRecord:
        """The head that is best on validation, or the first if no head was judged on it."""
        return self.heads[0]

    @property
    def chosen(self) -> HeadRecord | None:
        """The best head, if it was chosen on validation."""
        return self.best if self.best.validation else None

    @property
    def protocol(self) -> Protocol:
        """How heads were trained, chosen and tested."""
        return self.document.protocol

    @property
    def nested(self) -> bool:
        """Whether heads were tested by nested cross-validation."""
        return self.protocol.cv is not None

    @property
    def judged_on(self) -> str:
        """The images that heads were tested on."""
        return "cross-validated images" if self.nested else "test images"

    @property
    def positive(self) -> int | None:
        """Number of the positive class; None where there are not two classes."""
        return self.best.positive if len(self.classes) == 2 else None

    @property
    def chosen_for(self) -> str:
        """What the best head has that the others have not, as in a sentence."""
        aim = self.protocol.aim if self.best.aim_cost is not None else None
        return f"the {aim.best}" if aim else "the lowest log loss"

    @property
    def chosen_on(self) -> str:
        """Where heads and candidates were compared, as it follows "accuracy" or "best"."""
        if self.nested:
            return "on inner folds"
        return "in cross-validation" if self.protocol.search else "on validation"


def read_run(folder: Path, name: str | None = None) -> Record:
    """Read a run's folder."""
    document = read_run_document(folder)
    # If several have the same log loss, the chosen one is still the first.
    heads = sorted(
        document.heads,
        key=lambda head: (head.name != document.best, rank(head.validation, head.aim_cost)),
    )
    predictions, problem = _read_predictions(folder / PREDICTIONS, document.dataset.classes, heads)
    return Record(
        name or folder.resolve().name,
        folder,
        document,
        tuple(heads),
        predictions,
        problem,
        read_problems(folder),
        _read_optional(folder / EXAMPLES, ExamplesDocument),
        read_pictures(folder),
    )


def run_of(model: Path) -> Path | None:
    """Find the run that a folder is, or that it lies in as a model's own; None if there is none."""
    places = (model, model.resolve().parent.parent)
    return next((place for place in places if (place / RUN).is_file()), None)


def read_run_document(folder: Path) -> RunDocument:
    """Read `run.json` alone; errors as for `read_run`."""
    try:
        content = read_regular(folder / RUN, _MOST_BYTES)
    except OSError as error:
        raise PipelineError(
            f"there is no run in {folder}: {RUN} cannot be read ({error.strerror}).",
            expected="a folder that `pipeline classify` or `pipeline finetune` wrote",
            fix=hint_at_run(folder),
        ) from error
    return _understand(content, folder / RUN, RunDocument)


def read_problems(folder: Path) -> ProblemsDocument | None:
    """Read `problems.json` alone; None where the run was not searched for problems."""
    return _read_optional(folder / PROBLEMS, ProblemsDocument)


def read_pictures(folder: Path) -> PicturesDocument:
    """Read `pictures.json` alone; older runs have none."""
    return _read_optional(folder / PICTURES, PicturesDocument) or PicturesDocument()


def _read_optional(file: Path, kind: type[Kind]) -> Kind | None:
    try:
        content = read_regular(file, _MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PipelineError(f"{file} cannot be read: {error.strerror}.") from error
    return _understand(content, file, kind, fix="delete it: the page is then made without it")


def _understand(content: bytes, file: Path, kind: type[Kind], *, fix: str = "") -> Kind:
    try:
        return read_document(content, kind)
    except NewerError as error:
        raise PipelineError(
            f"{file} is of schema version {error.version}.",
            expected=f"version {error.known} or older, which is what this installation reads",
            fix="update cached-feature-pipeline",
        ) from error
    except DamagedError as error:
        raise PipelineError(
            f"{file} cannot be understood: {error}.",
            expected="the file as `pipeline classify` or `pipeline finetune` wrote it",
            fix=fix,
        ) from error


def _read_predictions(
    file: Path, classes: Sequence[str], heads: Sequence[HeadRecord]
) -> tuple[dict[str, Predictions], str]:
    """Read what was predicted of the test images, or tell why that cannot be."""
    places = {name: place for place, name in enumerate(classes)}
    header = ["path", "split", "label", "head", "predicted"]
    first = len(header)
    paths: dict[str, list[str]] = {head.name: [] for head in heads}
    truth: dict[str, list[int]] = {head.name: [] for head in heads}
    predicted: dict[str, list[int]] = {head.name: [] for head in heads}
    values = {head.name: array("d") for head in heads}
    try:
        with io.TextIOWrapper(
            open_regular(file), newline="", encoding="utf-8", errors="surrogateescape"
        ) as stream:
            lines = csv.reader(stream)
            if next(lines, None) != header + [f"probability of {name}" for name in classes]:
                return {}, "predictions.csv has other columns than this run's classes"
            for line in lines:
                if line[1] == "test":
                    path, _, label, name, called = map(from_cell, line[:first])
                    paths[name].append(path)
                    truth[name].append(places[label])
                    predicted[name].append(places[called])
                    values[name].extend(map(float, line[first:]))
        predictions = {
            head.name: Predictions(
                tuple(paths[head.name]),
                np.array(truth[head.name], np.int64),
                np.array(values[head.name], np.float64).reshape(-1, len(classes)),
                np.array(predicted[head.name], np.int64),
                head.positive,
            )
            for head in heads
        }
    except OSError as error:
        return {}, f"predictions.csv cannot be read ({error.strerror})"
    except (ValueError, KeyError, IndexError, csv.Error) as error:
        return {}, f"predictions.csv is damaged ({type(error).__name__}: {error})"
    for head in heads:
        if not _belong(predictions[head.name], head.test.confusion):
            return {}, "predictions.csv does not belong to this run.json: its counts differ"
    if len({own.paths for own in predictions.values()}) > 1:
        return {}, "predictions.csv is damaged: its classifiers were tested on different images"
    return predictions, ""


def _belong(predictions: Predictions, confusion: Sequence[Sequence[int]]) -> bool:
    """Tell whether predictions are those that a confusion matrix was counted from."""
    k = len(confusion)
    if len(predictions.truth) != len(predictions.probabilities):
        return False
    if not np.isfinite(predictions.probabilities).all():
        return False
    pairs = predictions.truth * k + predictions.predicted
    return np.array_equal(np.bincount(pairs, minlength=k * k), np.ravel(confusion))
