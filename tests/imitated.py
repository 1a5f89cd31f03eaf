"""Runs as `classify` and `finetune` leave them, made in no time: what a page is tested on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.analysis.examples import find_examples
from pipeline.analysis.problems import find_problems
from pipeline.backbones.registry import make_recipe
from pipeline.data.dataset import Dataset, Quarantined
from pipeline.data.targets import Targets
from pipeline.data.urls import Location
from pipeline.evaluation.metrics import evaluate
from pipeline.heads.registry import get_head
from pipeline.models.model import Model
from pipeline.report.page import write_report
from pipeline.runs.describing import describe_examples, describe_problems, describe_run
from pipeline.runs.run import Result, Run
from pipeline.runs.writing import write_predictions
from pipeline.system.documents import to_json

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
    paths: tuple[Location, ...] | None = None,
    quarantined: tuple[Quarantined, ...] = (),
    history: dict[str, list[float]] | None = None,
    skill: float = 1.0,
    seed: int = 0,
    data_seed: int = 0,
    validated: bool = True,
    looked_into: bool = False,
) -> Run:
    """Write `run.json` and `predictions.csv` of heads that are right more often than not.

    If `paths` are given, also the page and its pictures, as whoever makes a run does.

    If `looked_into`, also `problems.json` and `examples.json`, with some of each problem in them.

    Of the heads, each is a little worse than the one before. `skill` 0 is guessing. Not
    `validated`: they were trained on the validation images too.
    """
    total, k = sum(counts), len(classes)
    contents = [
        path.read_bytes() if isinstance(path, Path) and path.is_file() else None
        for path in paths or [None] * total
    ]
    dataset = Dataset(
        name="photos",
        paths=paths or tuple(folder / "photos" / f"{number}.png" for number in range(total)),
        digests=tuple(
            hashlib.sha256(content or b"%d %d" % (data_seed, number)).digest()
            for number, content in enumerate(contents)
        ),
        targets=Targets(np.arange(total) % k, classes),
        splits=np.repeat(["train", "validation", "test"], counts).astype("<U10"),
        quarantined=quarantined,
    )
    recipe = make_recipe(size=64, precision="float32")
    rng = np.random.default_rng(seed)
    results = []
    for place, name in enumerate(heads):
        scores = rng.normal(size=(total, k))
        scores[np.arange(total), dataset.targets.labels] += 2 * skill * 0.9**place
        probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        held_out, test = dataset.where("validation"), dataset.where("test")
        results.append(
            Result(
                Model(recipe, name, classes, None),
                {"C": 1.0},
                (({"C": 1.0}, 0.5), ({"C": 10.0}, 0.6)),
                evaluate(dataset.targets.labels[held_out], probabilities[held_out])
                if validated
                else None,
                evaluate(dataset.targets.labels[test], probabilities[test]),
                1.5 + place,
                probabilities,
                history or {},
                4 if history else 0,
                (3,) if history else (),
            )
        )
    run = Run(folder, dataset, recipe, tuple(results))
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(run, folder / "predictions.csv")
    (folder / "run.json").write_text(to_json(describe_run(run, seed)))
    if looked_into:
        look_into(run, rng)
    if paths:
        write_report(folder, dataset=dataset)
    return run


def look_into(run: Run, rng: np.random.Generator) -> None:
    """Find problems in rows that hold some, and write them as `classify` does."""
    data, best = run.dataset, run.best
    rows = rng.exponential(size=(len(data), 4, 4, 8)) * (rng.random((len(data), 4, 4, 8)) < 0.2)
    rows[-2:] = rows[:2]  # two test images are copies
    rows[2] *= rng.random(rows[2].shape) < 0.1  # and one picture is strange
    rows = rows.astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.analysis.problems.out_of_fold", lambda *_, **__: best.probabilities)
        problems = find_problems(data, rows, predicted=best.probabilities.argmax(axis=1), repeats=1)
    estimator = get_head("logistic").build(0).fit(rows.reshape(len(rows), -1), data.targets.labels)
    model = replace(best.model, estimator=estimator)
    blocks = [(rows, np.arange(len(rows)))]
    examples = find_examples(model, data, best.probabilities, rows.__getitem__, blocks)
    (run.folder / "problems.json").write_text(to_json(describe_problems(problems)))
    (run.folder / "examples.json").write_text(to_json(describe_examples(examples)))


def change(folder: Path, **fields) -> None:
    """Put other values into a `run.json`."""
    file = folder / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def sorted_by_validation(run: Run) -> list[Result]:
    return sorted(run.results, key=lambda result: result.validation.log_loss)


_MARKUP = (
    "</script></style></title><svg/onload=alert(1)>\"' onerror='alert(1)' {{ 7 * 7 }} \x1b\u202e"
)


def _with_markup(value, keep):
    """Put markup after every text of a JSON document, but those that the program looks up."""
    if isinstance(value, dict):
        return {
            name: own if name in keep else _with_markup(own, keep) for name, own in value.items()
        }
    if isinstance(value, list):
        return [_with_markup(own, keep) for own in value]
    return value + _MARKUP if isinstance(value, str) else value


_LOOKED_UP = (
    *("backbone", "head", "best", "classes", "maps", "splits", "split", "kind", "predicted"),
    *("method", "interval_method", "label"),
)


def put_markup(file: Path) -> None:
    """Put markup after every text of a run's document, and in place of each picture."""
    document = _with_markup(json.loads(file.read_text()), _LOOKED_UP)
    if file.name == "pictures.json":
        document["missing"] = dict.fromkeys(document["images"], _MARKUP)
        document["images"] = {}
    file.write_text(json.dumps(document))
