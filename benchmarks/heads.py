"""Searching every head's grid by cross-validation, against plain `GridSearchCV` on dense rows."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import joblib
import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer
from sklearn.svm import SVC, LinearSVC
from threadpoolctl import threadpool_limits

from benchmarks.accuracy import CACHE
from benchmarks.commands import run_command
from pipeline import extract, load_dataset, make_recipe
from pipeline.classification.fitting import try_candidates
from pipeline.classification.search import Fold, LabelledRows, PreparedRows, judge_folds
from pipeline.classification.task import Task
from pipeline.classification.variants import ViewedRows
from pipeline.data.dataset import Dataset
from pipeline.evaluation.protocol import Protocol
from pipeline.features.extractor import Extractor
from pipeline.heads.estimators import CalibrationFolds, Pool
from pipeline.heads.pooling import POOLS
from pipeline.heads.registry import HEADS, Head, get_head

TITLE = "Searching for parameters, against `GridSearchCV`"
RECIPE = make_recipe(precision="bfloat16")
FOLDS = 5
COMPARED = 600  # images: on all of them, the textbook's rbf-svm alone takes most of an hour
KERNEL = ("rbf-svm", "knn", "ridge")
JOBS = 2
BEST = ("--head", "rbf-svm", "--pool", "flatten", "--pool", "average", "--pool", "max")
REPEATS = 2


TIGHT = {  # how to solve to the minimum, at which the mathematics is the same
    "logistic": {"tol": 1e-9, "max_iter": 100_000},
    "ridge": {},
    "linear-svm": {"estimator__tol": 1e-10, "estimator__max_iter": 1_000_000},
}


def calibrated(classifier: Any) -> CalibratedClassifierCV:
    """Calibrate as the heads do."""
    return CalibratedClassifierCV(classifier, cv=CalibrationFolds(0), ensemble=False)


def mlp(epochs: int) -> MLPClassifier:
    """Train for so many epochs, as the head does."""
    return get_head("mlp").build(0, epochs=epochs)[-1]


# For each head the classifier as a textbook has it. `lda` has none here: of 8,192 columns its
# covariance alone takes longer than all the rest.
TEXTBOOK: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "logistic": lambda p: LogisticRegression(max_iter=2000, random_state=0, **p),
    "ridge": lambda p: calibrated(RidgeClassifier(**p)),
    "linear-svm": lambda p: calibrated(LinearSVC(max_iter=20_000, random_state=0, **p)),
    "rbf-svm": lambda p: calibrated(SVC(**p)),
    "knn": lambda p: calibrated(KNeighborsClassifier(weights="distance", **p)),
    "random-forest": lambda p: RandomForestClassifier(100, random_state=0, **p),
    "mlp": lambda p: mlp(**p),
}


def measure() -> str:
    """Search by both ways, on the same rows and folds; then by ours on the whole demo."""
    dataset = load_dataset("demo")
    features = extract(dataset, extractor=Extractor(RECIPE, cache=CACHE)).rows()
    rows, labels = features.reshape(len(features), -1), dataset.targets.labels
    some = np.random.default_rng(0).choice(len(rows), COMPARED, replace=False)
    return "\n".join([*comparison(rows[some], labels[some]), "", *whole(dataset, features)])


def folds_of(labels: np.ndarray) -> list[Fold]:
    """Deal images out to folds, class by class."""
    split = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(labels, labels)
    return [Fold(*fold) for fold in split]


def comparison(rows: np.ndarray, labels: np.ndarray) -> list[str]:
    """Search by both ways, head after head."""
    lines = [
        f"Every candidate of each head's grid on {FOLDS} folds, with calibration inside each fold, on {len(rows):,} of the",
        f"demo's images ({rows.shape[1]:,} values each): `pipeline.classification.search` against `GridSearchCV` of the textbook's",
        f"pipeline on dense float32 rows, each in {JOBS} threads. The largest difference is that of any candidate's mean",
        "log loss or accuracy on any fold. At the minimum: the same with float64 rows and solvers that run until they have",
        "converged.",
        "",
        "| head | candidates | CPU s | s | `GridSearchCV`: CPU s | s | CPU, times less | time, times less | largest difference | at the minimum |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    folds, prepared = folds_of(labels), PreparedRows(rows)
    totals, kernels = np.zeros(4), np.zeros(4)
    for name in TEXTBOOK:
        ours, found = timed(search, HEADS[name], prepared, labels, folds)
        theirs, scores = timed(grid_search, name, rows, labels, folds)
        figures = np.concatenate([ours, theirs])
        totals += figures
        kernels += figures * (name in KERNEL)
        difference = np.abs(scores - fold_scores(found, labels, folds)).max()
        least = f"{at_the_minimum(name, rows, labels, folds):.1g}" if name in TIGHT else ""
        lines.append(row(name, len(HEADS[name].grid), figures, f"{difference:.1g} | {least}"))
    return [
        *lines,
        row("rbf-svm, knn and ridge", "", kernels, " | "),
        row("all of them", "", totals, " | "),
        "",
        "The first head on inner products pays for these. `lda` is not compared: the textbook's takes a covariance of",
        "8,192 x 8,192 for each fit, and would take hours. `dense` has nothing to search. The solvers of `logistic`",
        "and `linear-svm` stop near the minimum, `RidgeClassifier` computes in float32 on such rows, and `mlp` rounds",
        "differently; this explains the differences.",
    ]


def at_the_minimum(name: str, rows: np.ndarray, labels: np.ndarray, folds: list[Fold]) -> float:
    """Give the largest difference where neither side rounds or stops early."""
    rows, head, tight = rows.astype(np.float64), HEADS[name], TIGHT[name]

    def build(seed: int, **params: Any) -> Pipeline:
        estimator = head.build(seed, **params)
        return estimator.set_params(
            **{f"{estimator.steps[-1][0]}__{k}": v for k, v in tight.items()}
        )

    ours = search(replace(head, build=build), PreparedRows(rows), labels, folds)
    theirs = grid_search(name, rows, labels, folds, **tight)
    return float(np.abs(theirs - fold_scores(ours, labels, folds)).max())


def whole(dataset: Dataset, features: np.ndarray) -> list[str]:
    """Search all heads on all images; say what each reaches, by pooling."""
    rows, labels = features.reshape(len(features), -1), dataset.targets.labels
    folds = folds_of(labels)
    lines = []
    seconds = np.zeros(2)
    for pool in POOLS:
        pooled = Pool(pool, RECIPE.shape).transform(rows)
        prepared = PreparedRows(pooled)
        for name in HEADS:
            if name == "dense":
                spent, found = timed(search_dense, dataset, features, folds, pool)
            else:
                spent, found = timed(search, HEADS[name], prepared, labels, folds)
            seconds += spent * (pool == "flatten")
            accuracy, loss, place = judged(found, labels)
            chosen = ", ".join(f"{key} {value:g}" for key, value in HEADS[name].grid[place].items())
            lines.append(
                f"| {name} | {pool} | {accuracy:.3f} | {loss:.3f} | {chosen} "
                f"| {spent[0]:.1f} | {spent[1]:.1f} |"
            )
    cpu, wall = by_command()
    return [
        f"`pipeline classify demo --search`, with all nine heads, fitting the chosen candidates, problems and the page: {cpu:.0f} CPU s,",
        f"{wall:.0f} s on {os.cpu_count()} cores (the machine's load was {os.getloadavg()[0]:.1f}, this included).",
        "",
        f"On all {len(rows):,} images, without a test split, searching all nine heads takes {seconds[0]:.0f} CPU s, {seconds[1]:.0f} s in {JOBS} threads",
        f"(`flatten`; the machine's load was {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores, this included). Out-of-fold figures",
        "of the candidate with the lowest log loss:",
        "",
        "| head | pooling | accuracy | log loss | parameters | CPU s | s |",
        "|---|---|---|---|---|---|---|",
        *lines,
        "",
        f"The best cached head: `pipeline classify demo --size 300 {' '.join(BEST)} --cv {FOLDS} --repeats {REPEATS}` reaches",
        f"{best_cached()} in nested cross-validation (mean, and each of the {REPEATS} repeats); gamma, C and the pooling",
        "are chosen on inner folds.",
    ]


def by_command() -> tuple[float, float]:
    """Search all heads as a user does; give CPU seconds and seconds."""
    return run("--search")[:2]


def best_cached() -> str:
    """Judge the best cached head by nested cross-validation, at 300 pixels."""
    found = json.loads(
        run("--size", "300", *BEST, "--cv", str(FOLDS), "--repeats", str(REPEATS), "--json")[2]
    )
    accuracies = np.reshape(found["heads"][0]["fold_accuracies"], (REPEATS, FOLDS))
    of_repeats = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies.mean(axis=1))
    return f"{accuracies.mean():.3f} ({of_repeats})"


def run(*options: str) -> tuple[float, float, str]:
    """Run `pipeline classify demo` with some options, as `run_command`."""
    with tempfile.TemporaryDirectory() as runs:
        where = ["--cache", CACHE, "--runs", runs, "--precision", RECIPE.precision]
        return run_command("classify", "demo", *options, *where)


def search(head: Head, rows: PreparedRows, labels: np.ndarray, folds: list[Fold]) -> np.ndarray:
    """Search as the pipeline does; give each candidate's out-of-fold probabilities."""
    p = np.full((len(head.grid), len(labels), 2), np.nan)
    for place, parts in enumerate(
        judge_folds(head, LabelledRows(rows, labels, 2), folds, jobs=JOBS)
    ):
        for fold, part in zip(folds, parts):
            p[place, fold.judged] = part
    return p


def search_dense(
    dataset: Dataset, features: np.ndarray, folds: list[Fold], pool: str
) -> np.ndarray:
    """Fit the network on each fold as a search does: it has nothing to choose."""
    rows = ViewedRows.plain(RECIPE, features, (pool,))
    task = Task(dataset, (RECIPE,), Protocol(), 0, variants=[rows])
    trials = [(rows, rows.suited(HEADS["dense"]))]
    [[candidate]] = try_candidates(task, trials, [folds], 0)
    return candidate.p[None]


def row(name: str, count: object, figures: np.ndarray, difference: str) -> str:
    """Write a line of the table."""
    cpu, wall, their_cpu, their_wall = figures
    return (
        f"| {name} | {count} | {cpu:.1f} | {wall:.1f} | {their_cpu:.1f} | {their_wall:.1f} "
        f"| {their_cpu / cpu:.1f} | {their_wall / wall:.1f} | {difference} |"
    )


def timed(work: Callable[..., Any], *given: Any) -> tuple[np.ndarray, Any]:
    """Give the CPU seconds and the seconds that some work took, and what came of it."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = work(*given)
    return np.array([time.process_time() - cpu, time.perf_counter() - wall]), found


def grid_search(
    name: str, rows: np.ndarray, labels: np.ndarray, folds: list[Fold], **solver: Any
) -> np.ndarray:
    """Search as a textbook would; give each candidate's log loss and accuracy on each fold."""
    build = TEXTBOOK[name]
    searched = GridSearchCV(
        Pipeline([("rows", Normalizer()), ("classifier", "passthrough")]),
        [{"classifier": [build(params).set_params(**solver)]} for params in HEADS[name].grid],
        cv=folds,
        scoring=["neg_log_loss", "accuracy"],
        refit=False,
        n_jobs=JOBS,
    )
    # In threads as ours: the CPU time of worker processes is not known until they end.
    with joblib.parallel_config("threading"), threadpool_limits(1):
        searched.fit(rows, labels)
    return np.array(
        [
            [searched.cv_results_[f"split{fold}_test_{figure}"] for fold in range(FOLDS)]
            for figure in ("neg_log_loss", "accuracy")
        ]
    )


def fold_scores(found: np.ndarray, labels: np.ndarray, folds: list[Fold]) -> np.ndarray:
    """Give log loss, negative, and accuracy of each candidate on each fold."""
    own = found[:, np.arange(len(labels)), labels]
    hits = found.argmax(axis=2) == labels
    return np.array(
        [
            [np.log(own[:, fold.judged]).mean(axis=1) for fold in folds],
            [hits[:, fold.judged].mean(axis=1) for fold in folds],
        ]
    )


def judged(found: np.ndarray, labels: np.ndarray) -> tuple[float, float, int]:
    """Give accuracy and log loss of the candidate with the lowest log loss, and which it is."""
    losses = -np.log(np.maximum(found[:, np.arange(len(labels)), labels], 1e-15)).mean(axis=1)
    place = int(losses.argmin())
    return float((found[place].argmax(axis=1) == labels).mean()), float(losses[place]), place
