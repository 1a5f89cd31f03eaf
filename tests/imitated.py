"""Runs as `classify` and `finetune` leave them, made in no time: what a page is tested on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from pipeline import run as run_module
from pipeline.backbone import vgg16_recipe
from pipeline.dataset import Dataset, Quarantined
from pipeline.evaluate import evaluate
from pipeline.model import Model
from pipeline.run import Result, Run

HISTORY = {
    "loss": [0.9, 0.7, 0.55, 0.5, 0.42, 0.36],
    "accuracy": [0.5, 0.6, 0.7, 0.74, 0.8, 0.84],
    "val_loss": [0.8, 0.7, 0.62, 0.6, 0.61, 0.64],
    "val_accuracy": [0.5, 0.62, 0.66, 0.7, 0.69, 0.7],
}


def imitate(
    folder: Path,
    *,
    classes: tuple[str, ...] = ("blue", "red"),
    counts: tuple[int, int, int] = (40, 20, 60),
    heads: tuple[str, ...] = ("logistic", "knn"),
    paths: tuple[Path, ...] | None = None,
    quarantined: tuple[Quarantined, ...] = (),
    history: dict[str, list[float]] | None = None,
    skill: float = 1.0,
    seed: int = 0,
    data_seed: int = 0,
    validated: bool = True,
) -> Run:
    """Write `run.json` and `predictions.csv` of heads that are right more often than not.

    Of the heads, each is a little worse than the one before. `skill` 0 is guessing. Not
    `validated`: they were trained on the validation images too.
    """
    total, k = sum(counts), len(classes)
    dataset = Dataset(
        name="photos",
        paths=paths or tuple(folder / "photos" / f"{number}.png" for number in range(total)),
        digests=tuple(
            hashlib.sha256(b"%d %d" % (data_seed, number)).digest() for number in range(total)
        ),
        labels=np.arange(total) % k,
        splits=np.repeat(["train", "validation", "test"], counts).astype("<U10"),
        classes=classes,
        quarantined=quarantined,
    )
    recipe = vgg16_recipe(size=64, precision="float32")
    rng = np.random.default_rng(seed)
    results = []
    for place, name in enumerate(heads):
        scores = rng.normal(size=(total, k))
        scores[np.arange(total), dataset.labels] += 2 * skill * 0.9**place
        probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        held_out, test = dataset.where("validation"), dataset.where("test")
        results.append(
            Result(
                Model(recipe, name, classes, None),
                {"C": 1.0},
                (({"C": 1.0}, 0.5), ({"C": 10.0}, 0.6)),
                evaluate(dataset.labels[held_out], probabilities[held_out]) if validated else None,
                evaluate(dataset.labels[test], probabilities[test]),
                1.5 + place,
                probabilities,
                history or {},
                4 if history else 0,
                (3,) if history else (),
            )
        )
    run = Run(folder, dataset, recipe, tuple(results))
    folder.mkdir(parents=True, exist_ok=True)
    run_module._write_predictions(run, folder / "predictions.csv")
    document = json.dumps(run_module._describe(run, seed), indent=2)
    (folder / "run.json").write_text(document)
    return run


def change(folder: Path, **fields) -> None:
    """Put other values into a `run.json`."""
    file = folder / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def sorted_by_validation(run: Run) -> list[Result]:
    return sorted(run.results, key=lambda result: result.validation.log_loss)
