"""Writing a run: whole or not at all."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.analysis.problems import Problems, not_looked_for
from pipeline.errors import PipelineError
from pipeline.models.files import folder_name
from pipeline.report.page import write_report
from pipeline.report.pictures import draw_confusion, draw_history
from pipeline.runs.documents import describe
from pipeline.runs.reading import digest_of
from pipeline.runs.run import Run
from pipeline.system.files import file_errors, write_file

RUNS = Path("runs")
"""Where runs are kept, unless another folder is named."""


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
    if digest_of(folder) != problems.dataset.digest:
        raise PipelineError(
            f"the run in {folder} was made from other images, labels or splits.",
            expected="the run's data set, with its --seed",
        )
    document = json.loads((folder / "run.json").read_bytes())
    said = not_looked_for(problems.dataset)  # what is no longer so, or is among the problems now
    document["remarks"] = [one for one in document.get("remarks", ()) if one not in said]
    for part, found in (("problems", problems.to_dict()), ("run", document)):
        with file_errors(f"write {folder / part}.json"):
            write_file(folder / f"{part}.json", json.dumps(found, indent=2) + "\n")
    return write_report(folder)


def _write_contents(run: Run, seed: int) -> None:
    dataset, folder = run.dataset, run.folder
    for result in run.results:
        name = folder_name(result.head)
        result.model.save(folder / "models" / name)
        draw_confusion(
            result.test.confusion,
            dataset.classes,
            f"{dataset.name}: {result.head} on test",
            folder / f"confusion-{name}.png",
        )
        if result.history:
            draw_history(
                result.history,
                result.best_epoch,
                folder / f"history-{name}.png",
                result.phases,
            )
    _write_predictions(run, folder / "predictions.csv")
    for part, found in (
        ("run", describe(run, seed)),
        ("problems", run.problems and run.problems.to_dict()),
        ("examples", run.examples and run.examples.to_dict()),
    ):
        if found:
            (folder / f"{part}.json").write_text(json.dumps(found, indent=2) + "\n")


def _move(folder: Path, runs: Path, name: str | None, default: str) -> Path:
    """Write a run's page and move it to its name, which another process may have taken by now."""
    while True:
        target = run_folder(runs, name, default)
        write_report(folder, target.name)  # the page tells it
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
            columns = (dataset.paths, dataset.splits, dataset.targets.labels, result.predicted)
            for path, split, label, called, values in zip(*columns, result.probabilities):
                predicted = dataset.classes[called]
                row = [path, split, dataset.classes[label], result.head, predicted]
                writer.writerow(row + values.tolist())
