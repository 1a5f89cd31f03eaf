"""The JSON documents in a run's folder, a class for each: what is written is what is read."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from pipeline.analysis.classes import ClassProblems
from pipeline.analysis.duplicates import DuplicateThresholds
from pipeline.analysis.leakage import Leakage
from pipeline.analysis.learning_curve import LearningCurve
from pipeline.evaluation.aims import AimOutcome, judge_aim
from pipeline.evaluation.metrics import Metrics
from pipeline.evaluation.protocol import Protocol
from pipeline.evaluation.significance import Comparison
from pipeline.evaluation.threshold import Threshold
from pipeline.system.documents import Document

NOT_KEPT = "the run keeps none"
"""Why there is no picture of an image, where nothing more is known."""

_REASONS = 2  # why pictures are missing: the page has each


class SkippedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that could not be used, and why."""

    path: str
    reason: str


# --- run.json -----------------------------------------------------------------------------


class DatasetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The data set of a run; `images` counts those of each class in each split."""

    name: str
    classes: tuple[str, ...]
    digest: str
    images: dict[str, dict[str, int]]
    quarantined: list[SkippedFile]


class CandidateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters that were tried, and what they were compared by."""

    parameters: dict[str, Any]
    validation_log_loss: float | None


class HeadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One head, chosen and judged; the fields are those of `pipeline.runs.run.Result`."""

    name: str = msgspec.field(name="head")
    parameters: dict[str, Any]
    candidates: list[CandidateRecord]
    seconds: float
    validation: Metrics | None
    test: Metrics
    history: dict[str, list[float | None]]
    best_epoch: int
    unfrozen_after: tuple[int, ...] = ()
    threshold: Threshold | None = None
    fold_accuracies: tuple[float, ...] = ()
    aim_cost: float | None = None

    def aim(self, classes: tuple[str, ...], protocol: Protocol) -> AimOutcome | None:
        """Tell whether the aim of its threshold was reached on what it was tested on."""
        return judge_aim(self.threshold, self.test, classes, nested=protocol.cv is not None)

    @property
    def is_fine_tuned(self) -> bool:
        """Whether the network was trained with it, rather than chosen among candidates."""
        return bool(self.history) and not self.candidates

    @property
    def positive(self) -> int:
        """Number of the positive class, where there are two."""
        return self.threshold.positive if self.threshold else self.test.positive


class ReferenceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A head on features of a higher precision than int8: older runs hold it."""

    name: str = msgspec.field(name="head")
    precision: str
    test: Metrics


class RunDocument(Document, frozen=True, kw_only=True):
    """What `run.json` holds; the fields are those of `pipeline.runs.run.Run`."""

    created: str
    best: str
    seed: int
    protocol: Protocol = Protocol()
    comparison: Comparison | None = None
    unfinished: tuple[str, ...] = ()
    failed: dict[str, str] = msgspec.field(default_factory=dict)
    left_out: dict[str, str] = msgspec.field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    dataset: DatasetRecord
    recipe: dict[str, Any]
    heads: list[HeadRecord]
    reference: tuple[ReferenceRecord, ...] = ()
    beside: tuple[dict[str, Any], ...] = ()
    versions: dict[str, str]

    def __post_init__(self) -> None:
        if "backbone" not in self.recipe:
            raise ValueError("the recipe names no backbone")
        k = len(self.dataset.classes)
        tested = [head.test for head in self.heads] + [head.test for head in self.reference]
        for metrics in tested + [head.validation for head in self.heads if head.validation]:
            if [len(row) for row in metrics.confusion] != [k] * k:
                raise ValueError(f"a confusion matrix is not of shape ({k}, {k})")
            if min(map(min, metrics.confusion)) < 0 or not any(map(any, metrics.confusion)):
                raise ValueError("a confusion matrix does not hold counts of images")
            if metrics.positive not in (0, 1):
                raise ValueError("the positive class is not one of two")
            for counts in (metrics.recall_counts, metrics.precision_counts):
                if len(counts) not in (0, k) or any(count < 0 for count in counts):
                    raise ValueError("there are not as many effective counts as classes")
        names = [head.name for head in self.heads]
        if self.best not in names or not {head.name for head in self.reference} <= set(names):
            raise ValueError("the best head, or one of the reference, is not among the heads")


# --- problems.json ------------------------------------------------------------------------


class PairRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Two images that are the same, or nearly: as `pipeline.analysis.duplicates.DuplicatePair`."""

    first: str
    second: str
    kind: str
    similarity: float
    splits: tuple[str, str]
    labels: tuple[str, str]

    @property
    def paths(self) -> tuple[str, str]:
        """The two files."""
        return self.first, self.second


class DuplicatesRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Images that are there more than once, and what was called a near-duplicate."""

    thresholds: DuplicateThresholds
    pairs: list[PairRecord]


class SuspectRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An image whose label may be wrong: as `pipeline.analysis.labels.SuspectLabel`."""

    path: str
    split: str
    label: str
    suggested: str
    score: float
    likely: bool


class LabelsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Labels to look at again: as `pipeline.analysis.labels.LabelProblems`."""

    judged: int
    estimated: int
    suspects: list[SuspectRecord]


class OutlierRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is unusual for its class: as `pipeline.analysis.outliers.OutlierImage`."""

    path: str
    split: str
    label: str
    distance: float
    score: float


class ProblemsDocument(Document, frozen=True, kw_only=True):
    """What `problems.json` holds: the fields of `pipeline.analysis.problems.Problems`."""

    images: int
    digest: str
    summary: list[str]
    leakage: Leakage
    duplicates: DuplicatesRecord
    labels: LabelsRecord
    outliers: list[OutlierRecord]
    classes: ClassProblems
    learning_curve: LearningCurve | None
    quarantined: list[SkippedFile]

    def __post_init__(self) -> None:
        if self.leakage.copied and not self.summary:
            raise ValueError("the summary is empty")

    @property
    def likely_wrong(self) -> list[SuspectRecord]:
        """The labels that confident learning counts as wrong, the most suspicious first."""
        return [suspect for suspect in self.labels.suspects if suspect.likely]


# --- examples.json ------------------------------------------------------------------------


class NeighbourRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An image that was learned from, and how similar it is."""

    path: str
    label: str
    similarity: float


class ExampleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A test image; `map` is the evidence for the predicted class, by position."""

    path: str
    label: str
    predicted: str
    probability: float
    neighbours: list[NeighbourRecord]
    map: list[list[float]]


class ExamplesDocument(Document, frozen=True, kw_only=True):
    """What `examples.json` holds.

    Attributes
    ----------
    head : str
        Whose predictions they are.
    maps : str
        How the maps were made; see `pipeline.analysis.class_maps.find_class_maps`.
    maps_of : str
        The head that they are made for, where it is not `head`.
    size : int
        Side of the picture that the network saw, in pixels.
    """

    head: str
    maps: str
    maps_of: str = ""
    size: int
    images: list[ExampleRecord]

    def __post_init__(self) -> None:
        for example in self.images:
            shape = np.shape(example.map)  # ragged: raises ValueError
            if len(shape) != 2 or not 0 < min(shape) <= max(shape) <= self.size:
                raise ValueError("a map is not a table of numbers that fits into the picture")


# --- pictures.json ------------------------------------------------------------------------


class KeptPicture(msgspec.Struct, frozen=True, kw_only=True):
    """A small JPEG of an image file, and the SHA-256 of that file's bytes."""

    sha256: str
    jpeg: bytes

    def __post_init__(self) -> None:
        if not self.jpeg.startswith(b"\xff\xd8\xff"):
            raise ValueError("a picture is not a JPEG")


class PicturesDocument(Document, frozen=True, kw_only=True):
    """What `pictures.json` holds: the pictures on a run's page.

    Attributes
    ----------
    images : dict of str to KeptPicture
        By the path that the run has for the image.
    missing : dict of str to str
        Why there is no picture of an image that the page shows.
    """

    images: dict[str, KeptPicture] = msgspec.field(default_factory=dict)
    missing: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def note(self) -> str:
        """Say of how many images there is no picture; empty if there is one of each."""
        if not self.missing:
            return ""
        count, total = len(self.missing), len(self.missing) + len(self.images)
        reasons = "; ".join(list(dict.fromkeys(self.missing.values()))[:_REASONS])
        note = f"{count:,} of the {total:,} images on the page cannot be shown: {reasons}"
        if NOT_KEPT in self.missing.values():
            note += ". `pipeline problems DATA --run RUN` takes pictures from the images"
        return note
