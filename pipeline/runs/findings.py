"""`problems.json` and `examples.json` of a run's folder back into memory; both may be missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError

_SCHEMA = 1  # of both: the newest that is understood


@dataclass(frozen=True)
class Copies:
    """Two images that are the same, or nearly; of each the path, the split and the label."""

    paths: tuple[str, str]
    splits: tuple[str, str]
    labels: tuple[str, str]
    kind: str
    similarity: float


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong; the score is -1 to 0, the lower the more so."""

    path: str
    split: str
    label: str
    suggested: str
    score: float
    likely: bool


@dataclass(frozen=True)
class Outlier:
    """An image unlike the others of its class, by how many robust standard deviations."""

    path: str
    split: str
    label: str
    score: float


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy with some number of images to learn from, and its 95 % interval."""

    images: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Findings:
    """What is wrong with a run's data set, or may be, the gravest of each kind first.

    Attributes
    ----------
    summary : tuple of str
        All of it in sentences; the first tells of copies across splits.
    copied : int
        Number of test images with a copy among those that were learned from.
    curve : tuple of CurvePoint
        How accuracy grows with the number of images; empty where that was not measured.
    answer : str
        What that says.
    """

    summary: tuple[str, ...]
    copied: int
    copies: tuple[Copies, ...]
    suspects: tuple[Suspect, ...]
    outliers: tuple[Outlier, ...]
    curve: tuple[CurvePoint, ...]
    answer: str


@dataclass(frozen=True)
class Neighbour:
    """An image that was learned from and is like another."""

    path: str
    label: str
    similarity: float


@dataclass(frozen=True)
class Example:
    """A test image that was looked at closely.

    Attributes
    ----------
    neighbours : tuple of Neighbour
        The most similar images that were learned from.
    map : ndarray of float64, shape (height, width)
        What speaks for the class that it is seen as, by position.
    """

    path: str
    label: str
    predicted: str
    probability: float
    neighbours: tuple[Neighbour, ...]
    map: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Examples:
    """Test images that were looked at closely.

    Attributes
    ----------
    head : str
        Whose predictions they are.
    method : str
        How the maps were made; see `pipeline.analysis.class_maps.find_class_maps`.
    size : int
        Side of the picture that the network saw, in pixels.
    images : mapping of str to Example
        By path.
    """

    head: str
    method: str
    size: int
    images: Mapping[str, Example]


def read_findings(file: Path) -> Findings | None:
    """Read `problems.json`; None where there is none.

    Raises
    ------
    PipelineError
        It cannot be understood.
    """
    document = _read(file)
    return None if document is None else _understood(file, _findings, document)


def read_examples(file: Path) -> Examples | None:
    """Read `examples.json`; None, and errors, as for `read_findings`."""
    document = _read(file)
    return None if document is None else _understood(file, _examples, document)


def _findings(document: Mapping[str, Any]) -> Findings:
    curve = document["learning_curve"]
    return Findings(
        summary=tuple(map(str, document["summary"])),
        copied=int(document["leakage"]["copied"]),
        copies=tuple(map(_copies, document["duplicates"]["pairs"])),
        suspects=tuple(map(_suspect, document["labels"]["suspects"])),
        outliers=tuple(map(_outlier, document["outliers"])),
        curve=tuple(map(_point, curve["points"])) if curve else (),
        answer=str(curve["answer"]) if curve else "",
    )


def _copies(fields: Mapping[str, Any]) -> Copies:
    return Copies(
        (str(fields["first"]), str(fields["second"])),
        _two(fields["splits"]),
        _two(fields["labels"]),
        str(fields["kind"]),
        float(fields["similarity"]),
    )


def _suspect(fields: Mapping[str, Any]) -> Suspect:
    return Suspect(
        str(fields["path"]),
        str(fields["split"]),
        str(fields["label"]),
        str(fields["suggested"]),
        float(fields["score"]),
        bool(fields["likely"]),
    )


def _outlier(fields: Mapping[str, Any]) -> Outlier:
    return Outlier(
        str(fields["path"]), str(fields["split"]), str(fields["label"]), float(fields["score"])
    )


def _point(fields: Mapping[str, Any]) -> CurvePoint:
    return CurvePoint(
        int(fields["images"]),
        float(fields["accuracy"]),
        float(fields["low"]),
        float(fields["high"]),
    )


def _examples(document: Mapping[str, Any]) -> Examples:
    images = map(_example, document["images"])
    size = int(document["size"])
    found = {one.path: one for one in images}
    if any(max(one.map.shape) > size for one in found.values()):
        raise ValueError("a map finer than the picture")
    return Examples(str(document["head"]), str(document["maps"]), size, found)


def _example(fields: Mapping[str, Any]) -> Example:
    values = np.array(fields["map"], np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError("a map that is no table of numbers")
    return Example(
        str(fields["path"]),
        str(fields["label"]),
        str(fields["predicted"]),
        float(fields["probability"]),
        tuple(map(_neighbour, fields["neighbours"])),
        values,
    )


def _neighbour(fields: Mapping[str, Any]) -> Neighbour:
    return Neighbour(str(fields["path"]), str(fields["label"]), float(fields["similarity"]))


def _two(values: Sequence[Any]) -> tuple[str, str]:
    first, second = values
    return str(first), str(second)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PipelineError(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise _not_understood(file, error) from error


def _understood(file: Path, understand: Any, document: Any) -> Any:
    try:
        if int(document["schema"]) > _SCHEMA:
            raise ValueError(f"schema version {document['schema']} is newer than {_SCHEMA}")
        return understand(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_understood(file, error) from error


def _not_understood(file: Path, error: Exception) -> PipelineError:
    return PipelineError(
        f"{file} cannot be understood: {type(error).__name__}: {error}.",
        expected="the file as `pipeline classify` or `pipeline finetune` wrote it",
        fix="delete it: the page is then made without what it tells",
    )
