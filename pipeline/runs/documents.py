"""What run.json holds."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pipeline.data.dataset import count_splits
from pipeline.runs.run import Run

SCHEMA = 1
"""Version of `run.json`."""

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


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe(run: Run, seed: int) -> dict[str, Any]:
    dataset, recipe, comparison = run.dataset, run.recipe, run.comparison
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "best": run.best.head,
        "seed": seed,
        "protocol": run.protocol.to_dict(),
        "comparison": comparison.to_dict() if comparison else None,
        "unfinished": list(run.unfinished),
        "failed": run.failed,
        "left_out": run.left_out,
        "remarks": list(run.remarks),
        "dataset": {
            "name": dataset.name,
            "classes": dataset.classes,
            "digest": dataset.digest,
            "images": {split: dict(counts) for split, counts in count_splits(dataset).items()},
            "quarantined": [
                {"path": str(bad.path), "reason": bad.reason} for bad in dataset.quarantined
            ],
        },
        "recipe": {**asdict(recipe), "fingerprint": recipe.fingerprint},
        "heads": [
            {
                "head": result.head,
                "parameters": result.parameters,
                "candidates": [
                    {"parameters": parameters, "validation_log_loss": log_loss}
                    for parameters, log_loss in result.candidates
                ],
                "seconds": round(result.seconds, 3),
                "validation": result.validation.to_dict() if result.validation else None,
                "test": result.test.to_dict(),
                "history": result.history,
                "best_epoch": result.best_epoch,
                "unfrozen_after": list(result.phases),
                "threshold": result.model.threshold.to_dict() if result.model.threshold else None,
                "fold_accuracies": list(result.fold_accuracies),
            }
            for result in run.results
        ],
        "reference": [
            {
                "head": result.head,
                "precision": result.model.recipe.precision,
                "test": result.test.to_dict(),
            }
            for result in run.reference
        ],
        "versions": {
            "python": platform.python_version(),
            **{name: version for name in _PACKAGES if (version := _installed(name))},
        },
    }
