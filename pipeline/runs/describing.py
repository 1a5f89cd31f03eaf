"""What is in memory to the documents that are written."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pipeline.analysis.examples import ExampleImages
from pipeline.analysis.problems import Problems
from pipeline.backbones.recipe import Recipe
from pipeline.data.dataset import Quarantined, count_splits
from pipeline.runs.documents import (
    CandidateRecord,
    DatasetRecord,
    DuplicatesRecord,
    ExampleRecord,
    ExamplesDocument,
    HeadRecord,
    LabelsRecord,
    NeighbourRecord,
    OutlierRecord,
    PairRecord,
    ProblemsDocument,
    RunDocument,
    SkippedFile,
    SuspectRecord,
)
from pipeline.runs.run import Result, Run

_DIGITS = 4
_PACKAGES = (
    "cached-feature-pipeline",
    "h5py",
    "keras",
    "numpy",
    "openvino",
    "pillow",
    "scikit-learn",
    "scipy",
    "skops",
    "tensorflow",
    "tensorflow-cpu",
)


def describe_run(run: Run, seed: int) -> RunDocument:
    """Make `run.json`."""
    dataset = run.dataset
    return RunDocument(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        best=run.best.head,
        seed=seed,
        protocol=run.protocol,
        comparison=run.comparison,
        unfinished=run.unfinished,
        failed=run.failed,
        left_out=run.left_out,
        remarks=(*dataset.remarks, *run.remarks),
        dataset=DatasetRecord(
            name=dataset.name,
            classes=dataset.classes,
            digest=dataset.digest,
            images={split: dict(counts) for split, counts in count_splits(dataset).items()},
            quarantined=_skipped(dataset.quarantined),
        ),
        recipe=_described(run.recipe),
        beside=tuple(map(_described, run.beside)),
        heads=[_describe_result(result) for result in run.results],
        versions={"python": platform.python_version(), **_installed()},
    )


def _described(recipe: Recipe) -> dict[str, Any]:
    return {**asdict(recipe), "fingerprint": recipe.fingerprint}


def _describe_result(result: Result) -> HeadRecord:
    return HeadRecord(
        name=result.head,
        parameters=result.parameters,
        candidates=[
            CandidateRecord(parameters=parameters, validation_log_loss=log_loss)
            for parameters, log_loss in result.candidates
        ],
        seconds=round(result.seconds, 3),
        validation=result.validation,
        test=result.test,
        history={name: list(curve) for name, curve in result.history.items()},
        best_epoch=result.best_epoch,
        unfrozen_after=result.phases,
        threshold=result.model.threshold,
        fold_accuracies=result.fold_accuracies,
        aim_cost=result.aim_cost,
    )


def _installed() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _skipped(files: Iterable[Quarantined]) -> list[SkippedFile]:
    return [SkippedFile(path=str(file.path), reason=file.reason) for file in files]


def describe_problems(problems: Problems) -> ProblemsDocument:
    """Make `problems.json`."""
    data = problems.dataset

    def path(place: int) -> str:
        return str(data.paths[place])

    return ProblemsDocument(
        images=len(data),
        digest=data.digest,
        summary=list(problems.summary()),
        leakage=problems.leakage,
        duplicates=DuplicatesRecord(
            thresholds=problems.duplicates.thresholds,
            pairs=[
                PairRecord(
                    first=path(pair.first),
                    second=path(pair.second),
                    kind=pair.kind,
                    similarity=pair.similarity,
                    splits=pair.splits,
                    labels=(data.targets.name(pair.first), data.targets.name(pair.second)),
                )
                for pair in problems.duplicates.pairs
            ],
        ),
        labels=LabelsRecord(
            judged=problems.labels.judged,
            estimated=problems.labels.estimated,
            suspects=[
                SuspectRecord(
                    path=path(suspect.place),
                    split=str(data.splits[suspect.place]),
                    label=data.classes[suspect.given],
                    suggested=data.classes[suspect.suggested],
                    score=suspect.score,
                    likely=suspect.likely,
                )
                for suspect in problems.labels.suspects
            ],
        ),
        outliers=[
            OutlierRecord(
                path=path(outlier.place),
                split=str(data.splits[outlier.place]),
                label=data.classes[outlier.label],
                distance=outlier.distance,
                score=outlier.score,
            )
            for outlier in problems.outliers
        ],
        classes=problems.classes,
        learning_curve=problems.curve,
        quarantined=_skipped(data.quarantined),
    )


def describe_examples(examples: ExampleImages) -> ExamplesDocument:
    """Make `examples.json`."""
    data = examples.dataset
    return ExamplesDocument(
        head=examples.model.head,
        maps=examples.maps.method,
        maps_of=examples.maps_of,
        size=examples.model.recipe.size,
        images=[
            ExampleRecord(
                path=str(data.paths[place]),
                label=data.targets.name(place),
                predicted=data.classes[predicted],
                probability=float(p[predicted]),
                neighbours=[
                    NeighbourRecord(
                        path=str(data.paths[neighbour.place]),
                        label=data.targets.name(neighbour.place),
                        similarity=neighbour.similarity,
                    )
                    for neighbour in near
                ],
                map=[[float(f"{value:.{_DIGITS}g}") for value in line] for line in values],
            )
            for place, p, predicted, near, values in zip(
                examples.places,
                examples.probabilities,
                examples.predicted,
                examples.neighbours,
                examples.maps.values,
            )
        ],
    )
