"""A run's folder back into memory: `run.json`, and what was predicted of the test images."""

from __future__ import annotations

import csv
import json
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.evaluation.threshold import Threshold
from pipeline.runs.findings import Examples, Findings, read_examples, read_findings

_SCHEMA = 1  # of run.json: the newest that is understood
_METRICS = ("n", "accuracy", "accuracy_low", "accuracy_high", "log_loss", "confusion")


@dataclass(frozen=True)
class Head:
    """One head as `run.json` tells of it.

    Attributes
    ----------
    name : str
        Its name.
    parameters : mapping
        What was chosen on validation.
    candidates : sequence of mapping
        What was tried: ``parameters`` and ``validation_log_loss``.
    seconds : float
        Time for all of that.
    validation, test : mapping
        `pipeline.evaluation.metrics.Metrics` as a mapping; `validation` is None where the validation images
        were trained on.
    history : mapping of str to sequence of float
        Learning curves, for a network.
    best_epoch : int
        Epoch whose weights were kept, for a network.
    unfrozen_after : sequence of int
        Epochs after which layers were unfrozen.
    fold_accuracies : sequence of float
        Of a cross-validation: the accuracy on each fold of each repeat.
    threshold : Threshold or None
        From which probability on an image is called the positive one of two classes.
    """

    name: str
    parameters: Mapping[str, Any]
    candidates: Sequence[Mapping[str, Any]]
    seconds: float
    validation: Mapping[str, Any] | None
    test: Mapping[str, Any]
    history: Mapping[str, Sequence[float]]
    best_epoch: int
    unfrozen_after: Sequence[int]
    fold_accuracies: Sequence[float] = ()
    threshold: Threshold | None = None

    @classmethod
    def of(cls, fields: Mapping[str, Any], classes: int) -> Head:
        """Check what a page cannot do without."""
        validation = fields["validation"]
        for metrics in filter(None, (validation, fields["test"])):
            if np.shape(metrics["confusion"]) != (classes, classes):
                raise ValueError("a confusion matrix of another size than the classes")
            for name in _METRICS[:-1]:
                float(metrics[name])
        return cls(
            str(fields["head"]),
            dict(fields["parameters"]),
            list(fields["candidates"]),
            float(fields["seconds"]),
            None if validation is None else dict(validation),
            dict(fields["test"]),
            {str(name): list(map(float, curve)) for name, curve in fields["history"].items()},
            int(fields["best_epoch"]),
            [int(epoch) for epoch in fields.get("unfrozen_after", ())],
            [float(accuracy) for accuracy in fields.get("fold_accuracies", ())],
            Threshold.from_dict(threshold) if (threshold := fields.get("threshold")) else None,
        )

    @property
    def chosen_by(self) -> float:
        """What heads are chosen by: the log loss on validation, and the lowest is best."""
        return float(self.validation["log_loss"]) if self.validation else math.inf


@dataclass(frozen=True)
class Predictions:
    """What one head says of the test images.

    Attributes
    ----------
    paths : tuple of str
        The image files, as they were named when the run was made.
    truth : ndarray of int64, shape (n,)
        True classes.
    probabilities : ndarray of float64, shape (n, k)
        Probability of each class.
    predicted : ndarray of int64, shape (n,)
        What each image is called: the likeliest class, unless there was a threshold.
    """

    paths: tuple[str, ...]
    truth: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    predicted: npt.NDArray[np.int64]

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Which images are predicted rightly."""
        return np.equal(self.predicted, self.truth)


@dataclass(frozen=True)
class Record:
    """A run as its folder tells of it.

    Attributes
    ----------
    name : str
        What to call it.
    folder : Path
        Where it is kept: a section may find files of its own there.
    document : mapping
        All of `run.json`.
    classes : tuple of str
        Class names.
    heads : tuple of Head
        From the best on validation, that is the lowest log loss, to the worst.
    predictions : mapping of str to Predictions
        Of the test images, by head; empty where `predictions.csv` cannot be used.
    problem : str
        Why it cannot be used, else empty.
    findings : Findings or None
        What is wrong with the data set, from `problems.json`.
    examples : Examples or None
        Test images looked at closely, from `examples.json`.
    """

    name: str
    folder: Path
    document: Mapping[str, Any]
    classes: tuple[str, ...]
    heads: tuple[Head, ...]
    predictions: Mapping[str, Predictions]
    problem: str
    findings: Findings | None
    examples: Examples | None

    @property
    def best(self) -> Head:
        """The head that did best on validation, or the first where that cannot be told."""
        return self.heads[0]

    @property
    def chosen(self) -> Head | None:
        """The same, where validation did tell."""
        return self.best if self.best.validation else None

    @property
    def protocol(self) -> Mapping[str, Any]:
        """How heads were judged; empty for runs that were written before there was a choice."""
        return self.document.get("protocol") or {}

    @property
    def nested(self) -> bool:
        """Whether each image was judged, by a fit on other folds."""
        return self.protocol.get("cv") is not None

    @property
    def judged_on(self) -> str:
        """What the figures are on."""
        return "cross-validated images" if self.nested else "test images"

    @property
    def chosen_on(self) -> str:
        """Where heads and candidates were compared, as it follows "accuracy" or "best"."""
        if self.nested:
            return "on inner folds"
        return "in cross-validation" if self.protocol.get("search") else "on validation"


def read_run(folder: Path, name: str | None = None) -> Record:
    """Read a run's folder.

    Parameters
    ----------
    folder : Path
        ``runs/<name>``.
    name : str, optional
        What to call the run; the default is the folder's name.

    Raises
    ------
    PipelineError
        There is no run, or one of its JSON files cannot be understood.
    """
    file = folder / "run.json"
    try:
        document = json.loads(file.read_bytes())
        schema = int(document["schema"])
    except OSError as error:
        raise PipelineError(
            f"there is no run in {folder}: run.json cannot be read ({error.strerror}).",
            expected="a folder that `pipeline classify` or `pipeline finetune` wrote",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise _not_understood(file, error) from error
    if schema > _SCHEMA:
        raise PipelineError(
            f"{file} is of schema version {schema}.",
            expected=f"version {_SCHEMA} or older, which is what this installation reads",
            fix="update cached-feature-pipeline",
        )
    try:
        classes = tuple(map(str, document["dataset"]["classes"]))
        heads = [Head.of(fields, len(classes)) for fields in document["heads"]]
        best = str(document["best"])
        # The one that was chosen is the first whatever else is equal to it.
        heads.sort(key=lambda head: (head.name != best, head.chosen_by))
        if not heads or heads[0].name != best:
            raise ValueError("the best head is not among the heads")
        for key in ("created", "seed", "recipe", "versions"):
            document[key]
        for key in ("name", "digest", "images", "quarantined"):
            document["dataset"][key]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_understood(file, error) from error
    predictions, problem = _read_predictions(folder / "predictions.csv", classes, heads)
    return Record(
        name or folder.resolve().name,
        folder,
        document,
        classes,
        tuple(heads),
        predictions,
        problem,
        read_findings(folder / "problems.json"),
        read_examples(folder / "examples.json"),
    )


def digest_of(folder: Path) -> str:
    """Tell the digest of the data set that a run was made from; errors as for `read_run`."""
    return str(read_run(folder).document["dataset"]["digest"])


def recipe_of(folder: Path) -> dict[str, Any]:
    """Tell how the images of a run became rows; errors as for `read_run`."""
    return dict(read_run(folder).document["recipe"])


def _not_understood(file: Path, error: Exception) -> PipelineError:
    return PipelineError(
        f"{file} cannot be understood: {type(error).__name__}: {error}.",
        expected="the file as `pipeline classify` or `pipeline finetune` wrote it",
    )


def _read_predictions(
    file: Path, classes: Sequence[str], heads: Sequence[Head]
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
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
            lines = csv.reader(stream)
            if next(lines, None) != header + [f"probability of {name}" for name in classes]:
                return {}, "predictions.csv has other columns than this run's classes"
            for line in lines:
                if line[1] == "test":
                    name = line[3]
                    paths[name].append(line[0])
                    truth[name].append(places[line[2]])
                    predicted[name].append(places[line[4]])
                    values[name].extend(map(float, line[first:]))
        found = {
            head.name: Predictions(
                tuple(paths[head.name]),
                np.array(truth[head.name], np.int64),
                np.array(values[head.name], np.float64).reshape(-1, len(classes)),
                np.array(predicted[head.name], np.int64),
            )
            for head in heads
        }
    except OSError as error:
        return {}, f"predictions.csv cannot be read ({error.strerror})"
    except (ValueError, KeyError, IndexError, csv.Error) as error:
        return {}, f"predictions.csv is damaged ({type(error).__name__}: {error})"
    for head in heads:
        if not _belong(found[head.name], head.test["confusion"]):
            return {}, "predictions.csv does not belong to this run.json: its counts differ"
    return found, ""


def _belong(predictions: Predictions, confusion: Sequence[Sequence[int]]) -> bool:
    """Tell whether predictions are those that a confusion matrix was counted from."""
    k = len(confusion)
    if len(predictions.truth) != len(predictions.probabilities):
        return False
    if not np.isfinite(predictions.probabilities).all():
        return False
    pairs = predictions.truth * k + predictions.predicted
    return np.array_equal(np.bincount(pairs, minlength=k * k), np.ravel(confusion))
