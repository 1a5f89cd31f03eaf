"""Stage two: train heads on cached rows, choose on validation, judge on test, keep the run.

The protocol, the same for every head: candidates are fitted on the training split and compared by
their log loss on the validation split. The best is fitted again on both, or, where training itself
stops by validation, kept as it is. The test split is looked at once, by what was chosen.
"""

from __future__ import annotations

import csv
import importlib.metadata
import itertools
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import report
from pipeline.dataset import SPLITS, Dataset, count_splits, load_dataset
from pipeline.errors import DataError, PipelineError
from pipeline.evaluate import Metrics, evaluate
from pipeline.exchange import SUFFIXES, import_features
from pipeline.extraction import CACHE, Forward, Progress, extract, keys
from pipeline.heads import HEADS, Head, get_head
from pipeline.model import Model
from pipeline.recipe import Recipe
from pipeline.store import FeatureStore

RUNS = Path("runs")
"""Where runs are kept, unless another folder is named."""

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


@dataclass(frozen=True)
class Result:
    """One head, fitted and judged.

    Attributes
    ----------
    model : Model
        The fitted head.
    parameters : dict
        What was chosen on validation.
    candidates : tuple of (dict, float)
        What was tried: parameters, and their log loss on validation.
    validation : Metrics
        Of the chosen candidate, fitted on the training split alone.
    test : Metrics
        Of the final fit.
    seconds : float
        Time for all candidates and the final fit.
    probabilities : ndarray of float64, shape (n, k)
        For every image of the data set, in its order.
    history : dict of list of float
        Learning curves by epoch, for a network; else empty.
    best_epoch : int
        Epoch whose weights were kept, for a network; else 0.
    """

    model: Model
    parameters: dict[str, Any]
    candidates: tuple[tuple[dict[str, Any], float], ...]
    validation: Metrics
    test: Metrics
    seconds: float
    probabilities: npt.NDArray[np.float64]
    history: dict[str, list[float]]
    best_epoch: int

    @property
    def head(self) -> str:
        """Name of the head."""
        return self.model.head


@dataclass(frozen=True)
class Run:
    """One experiment: what was done and what came of it.

    Attributes
    ----------
    folder : Path
        Where it is kept.
    dataset : Dataset
        The data set, less the files that could not be read.
    recipe : Recipe
        How its images became rows.
    results : tuple of Result
        One for each head, in the order asked for.
    reference : tuple of Result
        For features in int8: the same heads on the same images' features in a higher precision,
        where the cache holds these. Else empty.
    """

    folder: Path
    dataset: Dataset
    recipe: Recipe
    results: tuple[Result, ...]
    reference: tuple[Result, ...] = ()

    @property
    def best(self) -> Result:
        """The head with the lowest log loss on validation: the test split has no say."""
        return min(self.results, key=lambda result: result.validation.log_loss)


def classify(
    data: str | Path | Dataset,
    head_names: str | Sequence[str] = ("all",),
    *,
    recipe: Recipe | None = None,
    cache: str | Path = CACHE,
    runs: str | Path = RUNS,
    name: str | None = None,
    seed: int = 0,
    weights: Path | None = None,
    strict: bool = False,
    on_progress: Progress | None = None,
    on_result: Callable[[Result], None] | None = None,
    backbone: Forward | None = None,
) -> Run:
    """Train and compare heads on a data set's features.

    Parameters
    ----------
    data : str, Path or Dataset
        A data set, what `pipeline.dataset.load_dataset` takes for one, or a file that
        `pipeline.exchange.export_features` wrote.
    head_names : str or sequence of str
        Names of heads, or ``"all"``.
    recipe, cache, weights, strict, on_progress, backbone
        As for `pipeline.extraction.extract`, which makes the rows that are not there yet.
    runs : str or Path
        Folder that the run's own folder is made in.
    name : str, optional
        Name of the run's folder. The default is the data set's name, with a number if taken.
    seed : int
        Decides the splits, where `data` is not a `Dataset`, and what is random in heads.
    on_result : callable, optional
        Called with each head's result as it is there.

    Raises
    ------
    PipelineError
        Something cannot be read, learned from or written; the message says what.
    """
    chosen = _choose_heads([head_names] if isinstance(head_names, str) else head_names)
    if not isinstance(data, Dataset) and is_features_file(data):
        dataset, recipe, features = import_features(Path(data))
    else:
        dataset = data if isinstance(data, Dataset) else load_dataset(data, seed=seed)
        _run_folder(Path(runs), name, dataset.name)  # a bad name is said before the work
        _require_all_splits(dataset)
        extraction = extract(
            dataset,
            recipe,
            cache=cache,
            weights=weights,
            strict=strict,
            on_progress=on_progress,
            backbone=backbone,
        )
        dataset, recipe = extraction.dataset, extraction.store.recipe
        features = extraction.rows()
    _run_folder(Path(runs), name, dataset.name)
    _require_all_splits(dataset)
    results = []
    for head in chosen:
        results.append(_fit_and_judge(head, features, dataset, recipe, seed))
        if on_result:
            on_result(results[-1])
    reference = tuple(
        _fit_and_judge(head, rows, dataset, exact, seed)
        for exact, rows in _more_exact(dataset, recipe, Path(cache))
        for head in chosen
    )
    return _write(Path(runs), name, Run(Path(), dataset, recipe, tuple(results), reference), seed)


def _more_exact(
    dataset: Dataset, recipe: Recipe, cache: Path
) -> Iterator[tuple[Recipe, npt.NDArray[np.float32]]]:
    """Find the same images' features in the precision that int8 is to be held against."""
    if recipe.precision == "int8":
        for precision in ("float32", "bfloat16"):
            exact = replace(recipe, precision=precision, engine="tensorflow", calibration="none")
            store = FeatureStore(cache, exact)
            if not store.missing(keys(dataset)):
                yield exact, store.read(keys(dataset))
                return


def is_features_file(data: str | Path) -> bool:
    """Tell whether this names a file of features, in place of images."""
    return Path(data).suffix in SUFFIXES and not Path(data).is_dir()


def _choose_heads(names: Sequence[str]) -> list[Head]:
    if not names:
        raise PipelineError("no head is named.", expected=f"all, or some of {', '.join(HEADS)}")
    named = [get_head(name) for name in dict.fromkeys(names) if name != "all"]
    return list(HEADS.values()) if "all" in names else named


def _require_all_splits(dataset: Dataset) -> None:
    for split in SPLITS:
        if not dataset.where(split).size:
            raise DataError(
                f"the {split} split of {dataset.name} is empty.",
                expected=f"images in all of {', '.join(SPLITS)}",
                fix="add images, give the splits yourself, or try another --seed",
            )


def _fit_and_judge(
    head: Head, features: npt.NDArray[np.float32], dataset: Dataset, recipe: Recipe, seed: int
) -> Result:
    rows = features.reshape(len(features), -1)
    train, held_out, test = (dataset.where(split) for split in ("train", "validation", "test"))
    labels = dataset.labels
    started = time.perf_counter()
    watched = {"validation_data": (rows[held_out], labels[held_out])} if head.early_stopping else {}
    candidates = []
    for parameters in head.grid:
        estimator = head.build(seed, **parameters)
        estimator.fit(rows[train], labels[train], **watched)
        validation = evaluate(labels[held_out], estimator.predict_proba(rows[held_out]))
        candidates.append((validation.log_loss, parameters, validation, estimator))
    _, parameters, validation, estimator = min(candidates, key=lambda candidate: candidate[0])
    if not head.early_stopping:
        both = np.concatenate([train, held_out])
        estimator = head.build(seed, **parameters).fit(rows[both], labels[both])
    seconds = time.perf_counter() - started
    model = Model(recipe, head.name, dataset.classes, estimator)
    probabilities = model.probabilities(features)
    return Result(
        model,
        dict(parameters),
        tuple((dict(tried), log_loss) for log_loss, tried, *_ in candidates),
        validation,
        evaluate(labels[test], probabilities[test]),
        seconds,
        probabilities,
        getattr(estimator, "history_", {}),
        getattr(estimator, "best_epoch_", 0),
    )


def _run_folder(runs: Path, name: str | None, default: str) -> Path:
    """Give a folder that is not there yet: that of the name, or of the default with a number."""
    if name is None:
        names = itertools.chain([default], (f"{default}-{number}" for number in itertools.count(2)))
        return next(folder for folder in (runs / name for name in names) if not folder.exists())
    if not name.strip(".") or Path(name).name != name:
        raise PipelineError(
            f"{name!r} cannot be a run's name.", expected="a plain folder name, without slashes"
        )
    if (runs / name).exists():
        raise PipelineError(
            f"there is a run {runs / name} already.",
            fix="choose another --name, leave it away to get a free one, or delete that folder",
        )
    return runs / name


def _write(runs: Path, name: str | None, run: Run, seed: int) -> Run:
    """Write a run under a temporary name, and give it its own when everything is there."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".run-", dir=runs))
        try:
            folder.chmod(0o755)
            _write_contents(replace(run, folder=folder), seed)
            return replace(run, folder=_move(folder, runs, name, run.dataset.name or "run"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise PipelineError(
            f"cannot write the run into {runs}: {error.strerror or error}.",
            fix="name another folder with --runs, or see to its permissions and free space",
        ) from error


def _write_contents(run: Run, seed: int) -> None:
    dataset, folder = run.dataset, run.folder
    for result in run.results:
        result.model.save(folder / "models" / result.head)
        report.draw_confusion(
            result.test.confusion,
            dataset.classes,
            f"{dataset.name}: {result.head} on test",
            folder / f"confusion-{result.head}.png",
        )
        if result.history:
            report.draw_history(
                result.history, result.best_epoch, folder / f"history-{result.head}.png"
            )
    _write_predictions(run, folder / "predictions.csv")
    document = json.dumps(_describe(run, seed), indent=2)
    (folder / "run.json").write_text(document + "\n")


def _move(folder: Path, runs: Path, name: str | None, default: str) -> Path:
    """Move a whole run to its name, which another process may have taken by now."""
    while True:
        target = _run_folder(runs, name, default)
        try:
            return folder.rename(target)
        except OSError:  # a folder that is not empty cannot be replaced, so no run is lost
            if not target.exists():
                raise


def _write_predictions(run: Run, file: Path) -> None:
    dataset = run.dataset
    # Names of files are bytes to the system: what is no text comes out as it went in.
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream)
        probabilities = (f"probability of {name}" for name in dataset.classes)
        writer.writerow(["path", "split", "label", "head", "predicted", *probabilities])
        for result in run.results:
            rows = zip(dataset.paths, dataset.splits, dataset.labels, result.probabilities)
            for path, split, label, values in rows:
                predicted = dataset.classes[values.argmax()]
                row = [path, split, dataset.classes[label], result.head, predicted]
                writer.writerow(row + values.tolist())


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _describe(run: Run, seed: int) -> dict[str, Any]:
    dataset, recipe = run.dataset, run.recipe
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "best": run.best.head,
        "seed": seed,
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
                "validation": result.validation.to_dict(),
                "test": result.test.to_dict(),
                "history": result.history,
                "best_epoch": result.best_epoch,
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
