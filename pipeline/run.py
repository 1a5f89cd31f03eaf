"""An experiment on disk: what was done, what came of it, and the folder that holds both."""

from __future__ import annotations

import csv
import importlib.metadata
import itertools
import json
import math
import platform
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import report, table
from pipeline.dataset import Dataset, count_splits
from pipeline.errors import PipelineError, in_one_line
from pipeline.evaluate import Metrics
from pipeline.evaluate.significance import (
    Comparison,
    corrected_t_test,
    disagreement,
    sign_flip_test,
)
from pipeline.examples import Examples
from pipeline.model import Model, folder_name
from pipeline.problems import Problems, not_looked_for
from pipeline.protocol import Protocol, find_units
from pipeline.recipe import Recipe

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
        Of the chosen candidate, on images that it was not fitted on: the validation split, the
        folds of a search, or the inner folds of a cross-validation; None where the validation
        images were trained on.
    test : Metrics
        Of the final fit on the test split; of a cross-validation, of all images, each by a fit
        that was chosen and made without it.
    seconds : float
        Time for all candidates and the final fit.
    probabilities : ndarray of float64, shape (n, k)
        For every image of the data set, in its order: by the final fit, or, of a
        cross-validation, by a fit without the image, from the first repeat.
    history : dict of list of float
        Learning curves by epoch, for a network; else empty.
    best_epoch : int
        Epoch whose weights were kept, for a network; else 0.
    phases : tuple of int
        Epochs after which layers were unfrozen.
    calls : ndarray of int64, shape (n,), optional
        What each image is called, where that need not be the likeliest class.
    fold_accuracies : tuple of float
        Of a cross-validation: the accuracy on each fold of each repeat.
    """

    model: Model
    parameters: dict[str, Any]
    candidates: tuple[tuple[dict[str, Any], float], ...]
    validation: Metrics | None
    test: Metrics
    seconds: float
    probabilities: npt.NDArray[np.float64]
    history: dict[str, list[float]]
    best_epoch: int
    phases: tuple[int, ...] = ()
    calls: npt.NDArray[np.int64] | None = None
    fold_accuracies: tuple[float, ...] = ()

    @property
    def head(self) -> str:
        """Name of the head."""
        return self.model.head

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """What each image is called, shape (n,)."""
        return self.model.call(self.probabilities) if self.calls is None else self.calls


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
    protocol : Protocol
        Who was fitted on what, chosen by what and judged on what.
    unfinished : tuple of str
        Heads that were asked for, and not done when the run was stopped.
    failed : dict of str to str
        Heads that could not be fitted, and why.
    left_out : dict of str to str
        Which of `reference`, `problems` and `examples` could not be had, and why.
    remarks : tuple of str
        What else is to be known of it, in sentences.
    problems : Problems or None
        What is wrong with the data set, where that was looked for.
    examples : Examples or None
        What the best head makes of some test images.
    """

    folder: Path
    dataset: Dataset
    recipe: Recipe
    results: tuple[Result, ...]
    reference: tuple[Result, ...] = ()
    protocol: Protocol = field(default_factory=Protocol)
    unfinished: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    problems: Problems | None = None
    examples: Examples | None = None

    @property
    def ranked(self) -> list[Result]:
        """The heads from the lowest log loss on validation to the highest."""
        return sorted(
            self.results,
            key=lambda result: result.validation.log_loss if result.validation else math.inf,
        )

    @property
    def best(self) -> Result:
        """The head with the lowest log loss on validation: the test split has no say."""
        return self.ranked[0]

    @property
    def comparison(self) -> Comparison | None:
        """The best head against the runner-up, on the same images; None where there is but one."""
        if len(self.results) < 2:
            return None
        first, second = self.ranked[:2]
        points = 100 * (first.test.accuracy - second.test.accuracy)
        if self.protocol.cv is not None:
            differences = np.subtract(first.fold_accuracies, second.fold_accuracies).tolist()
            p = corrected_t_test(differences, folds=self.protocol.cv)
            return Comparison(first.head, second.head, points, p, "corrected resampled t test")
        test = self.dataset.where("test")
        right, other = (one.predicted[test] == self.dataset.labels[test] for one in (first, second))
        if self.dataset.groups:
            p = sign_flip_test(right, other, find_units(self.dataset)[test])
            return Comparison(first.head, second.head, points, p, "exact sign-flip test by group")
        p = disagreement(right, other).p
        return Comparison(first.head, second.head, points, p, "McNemar's exact test")

    def __repr__(self) -> str:
        return table.as_text(self)

    def _repr_html_(self) -> str:
        return table.as_html(self)


class Interrupted(KeyboardInterrupt):
    """Work was stopped, and what was done is kept.

    Attributes
    ----------
    run : Run
        The heads that were done.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(f"stopped; {len(run.results)} heads are kept in {run.folder}")
        self.run = run


def run_folder(runs: Path, name: str | None, default: str) -> Path:
    """Find a run's folder, which is not there yet.

    Parameters
    ----------
    runs : Path
        Folder that runs are kept in.
    name : str or None
        Name of the run's own folder.
    default : str
        What it is called where no name is given, with a number if that is taken.

    Raises
    ------
    PipelineError
        The name is taken, or is no plain folder name.
    """
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


def with_looks(
    run: Run, looks: Mapping[str, Callable[[], Any]]
) -> tuple[Run, KeyboardInterrupt | None]:
    """Add to a run what is not needed to use it, as far as that can be had.

    Parameters
    ----------
    run : Run
        Its heads are done, so nothing that happens here may lose them.
    looks : mapping of str to callable
        What makes `Run.reference`, `Run.problems` or `Run.examples`.

    Returns
    -------
    run : Run
        With what could be made; `Run.left_out` tells what could not, and why.
    stop : KeyboardInterrupt or None
        Ctrl-C, if it came; nothing more was made then.
    """
    for name, look in looks.items():
        try:
            run = replace(run, **{name: look()})
        except KeyboardInterrupt as stop:
            return run, stop
        except Exception as error:  # noqa: BLE001 (any library below)
            why = in_one_line(error, run.dataset.classes)
            run = replace(run, left_out={**run.left_out, name: why})
    return run, None


def write_run(run: Run, runs: Path, name: str | None, *, seed: int) -> Run:
    """Write a run under a temporary name, and give it its own when everything is there.

    Parameters
    ----------
    run : Run
        What is to be kept; its `folder` is not looked at.
    runs, name
        As for `run_folder`; the default is the data set's name.
    seed : int
        What the run was started with, to be noted in `run.json`.

    Returns
    -------
    Run
        The same with the folder that it is kept in now.

    Raises
    ------
    PipelineError
        The name is taken or cannot be one, or the folder cannot be written.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with _undisturbed():
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


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let nothing stop it for the seconds that writing takes: what is written may have taken hours.

    Neither Ctrl-C nor SIGTERM. Only the main thread can, and only the main thread gets them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stops = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in stops]
    try:
        yield
    finally:
        for number, handler in zip(stops, before):
            signal.signal(number, handler or signal.SIG_DFL)  # None: set by another language


def add_problems(folder: Path, problems: Problems) -> Path:
    """Put what was found wrong with a run's data set into its folder, and onto its page.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    PipelineError
        There is no run, it was made from other images, labels or splits, or its folder cannot be
        written.
    """
    if report.digest_of(folder) != problems.dataset.digest:
        raise PipelineError(
            f"the run in {folder} was made from other images, labels or splits.",
            expected="the run's data set, with its --seed",
        )
    document = json.loads((folder / "run.json").read_bytes())
    said = not_looked_for(problems.dataset)  # what is no longer so, or is among the problems now
    document["remarks"] = [one for one in document.get("remarks", ()) if one not in said]
    for part, found in (("problems", problems.to_dict()), ("run", document)):
        report.write_whole(json.dumps(found, indent=2) + "\n", folder / f"{part}.json")
    return report.write_report(folder)


def _write_contents(run: Run, seed: int) -> None:
    dataset, folder = run.dataset, run.folder
    for result in run.results:
        name = folder_name(result.head)
        result.model.save(folder / "models" / name)
        report.draw_confusion(
            result.test.confusion,
            dataset.classes,
            f"{dataset.name}: {result.head} on test",
            folder / f"confusion-{name}.png",
        )
        if result.history:
            report.draw_history(
                result.history,
                result.best_epoch,
                folder / f"history-{name}.png",
                result.phases,
            )
    _write_predictions(run, folder / "predictions.csv")
    for part, found in (
        ("run", _describe(run, seed)),
        ("problems", run.problems and run.problems.to_dict()),
        ("examples", run.examples and run.examples.to_dict()),
    ):
        if found:
            (folder / f"{part}.json").write_text(json.dumps(found, indent=2) + "\n")


def _move(folder: Path, runs: Path, name: str | None, default: str) -> Path:
    """Write a run's page and move it to its name, which another process may have taken by now."""
    while True:
        target = run_folder(runs, name, default)
        report.write_report(folder, target.name)  # the page tells it
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
            columns = (dataset.paths, dataset.splits, dataset.labels, result.predicted)
            for path, split, label, called, values in zip(*columns, result.probabilities):
                predicted = dataset.classes[called]
                row = [path, split, dataset.classes[label], result.head, predicted]
                writer.writerow(row + values.tolist())


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _describe(run: Run, seed: int) -> dict[str, Any]:
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
