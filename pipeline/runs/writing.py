"""Writing a run: whole or not at all."""

from __future__ import annotations

import csv
import itertools
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline.analysis.problems import Problems
from pipeline.analysis.sentences import NOT_LOOKED_FOR, not_looked_for
from pipeline.errors import PipelineError, in_one_line
from pipeline.models.files import folder_name
from pipeline.runs.describing import describe_examples, describe_problems, describe_run
from pipeline.runs.reading import EXAMPLES, PREDICTIONS, PROBLEMS, RUN, read_run_document
from pipeline.runs.run import Run
from pipeline.runs.training_images import write_training_images
from pipeline.system.cells import to_cell
from pipeline.system.documents import parse, to_json
from pipeline.system.files import clear_unfinished, file_errors, read_regular, write_file
from pipeline.system.folders import temporary_folder
from pipeline.system.threads import handle_stops

_LONGEST_NAME = 255  # bytes, on most file systems
_ZIP_YEARS = 1980, 2107  # the first and the last that a zip archive can tell, as models are

RUNS = Path("runs")
"""Where runs are kept, unless another folder is named."""


def run_folder(runs: Path, name: str | None, default: str) -> Path:
    """Choose a run's folder, which does not exist yet; refuse what no run could be written by."""
    year = datetime.now(UTC).year
    if not _ZIP_YEARS[0] < year < _ZIP_YEARS[1]:
        raise PipelineError(
            f"the clock of this machine is in the year {year}, in which no model can be saved.",
            expected=f"a year from {_ZIP_YEARS[0] + 1} to {_ZIP_YEARS[1] - 1}",
            fix="set the clock",
        )
    nearest = next(folder for folder in (runs, *runs.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise PipelineError(
            f"no run can be written into {runs}: {nearest} "
            + ("cannot be written to." if nearest.is_dir() else "is not a folder."),
            fix="name another folder with --runs",
        )
    if name is None:
        return _free(runs, default)
    if not name.strip(".") or Path(name).name != name or len(os.fsencode(name)) > _LONGEST_NAME:
        raise PipelineError(
            f"{name!r} cannot be a run's name.",
            expected=f"a plain folder name, without slashes, of at most {_LONGEST_NAME} bytes",
        )
    if (runs / name).exists():
        raise PipelineError(
            f"the run {runs / name} exists already.",
            fix="choose another --name, omit it to get a free one, or delete that folder",
        )
    return runs / name


def _free(runs: Path, name: str) -> Path:
    """Find a name that no run has: this one, or with a number."""
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    folders = (runs / (_cut(name, _LONGEST_NAME - len(ending)) + ending) for ending in endings)
    return next(folder for folder in folders if not folder.exists())


def _cut(name: str, most: int) -> str:
    """Cut a name to so many bytes, between two characters."""
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name


Draw = Callable[[Path, str], object]
"""Adds to a run's folder what is drawn from it, given the name that the run will have."""


def write_run(
    run: Run, runs: Path, name: str | None, *, seed: int, draw: Draw | None = None
) -> Run:
    """Write a run under a temporary name, and rename it when everything is in its folder.

    If another process has taken the name meanwhile, the run gets a free one, and says so. If what
    is drawn from it fails, the run is kept without that.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        # Writing takes seconds, and may hold hours of work.
        with handle_stops(signal.SIG_IGN), temporary_folder(runs, ".run-") as folder:
            run = _write_models(run, folder / "models")
            _write_contents(run, folder)
            return _rename(folder, run, runs, name, seed=seed, draw=draw)
    except OSError as error:
        raise PipelineError(
            f"cannot write the run into {runs}: {error.strerror or error}.",
            fix="name another folder with --runs, or see to its permissions and free space",
        ) from error


def add_problems(folder: Path, problems: Problems) -> None:
    """Put what was found wrong with a run's data set into the run's folder."""
    if read_run_document(folder).dataset.digest != problems.dataset.digest:
        raise PipelineError(
            f"the run in {folder} was made from other images, labels or splits.",
            expected="the run's data set, with its --seed",
        )
    document = parse(read_regular(folder / RUN))  # as it is: fields not known here stay
    obsolete = not_looked_for(problems.dataset)  # they are among the problems now
    remarks = document.get("remarks", ())
    document["remarks"] = [
        remark
        for remark in remarks
        if remark not in obsolete and not remark.startswith(NOT_LOOKED_FOR)
    ]
    with file_errors(f"write {folder}"):
        clear_unfinished(folder)
        write_file(folder / PROBLEMS, to_json(describe_problems(problems)))
        write_file(folder / RUN, to_json(document))


def _write_models(run: Run, folder: Path) -> Run:
    """Write each head's model, but for those that cannot be written, as some from elsewhere."""
    for result in run.results:
        own = folder / folder_name(result.head)
        try:
            result.model.save(own)
        except Exception as error:
            if isinstance(error, OSError | MemoryError) or len(run.results) == 1:
                raise
            shutil.rmtree(own, ignore_errors=True)
            why = {f"the model of {result.head}": in_one_line(error)}
            run = replace(run, left_out=run.left_out | why)
    return run


def _write_contents(run: Run, folder: Path) -> None:
    write_predictions(run, folder / PREDICTIONS)
    write_training_images(run.dataset, run.protocol, folder)
    documents = {
        PROBLEMS: run.problems and describe_problems(run.problems),
        EXAMPLES: run.examples and describe_examples(run.examples),
    }
    for file, document in documents.items():
        if document:
            (folder / file).write_text(to_json(document))


def _rename(
    folder: Path, run: Run, runs: Path, name: str | None, *, seed: int, draw: Draw | None
) -> Run:
    """Write what may tell the run's name, and give the folder that name if it is still free."""
    while True:
        target = _free(runs, name or run.dataset.name or "run")
        named = replace(run, folder=target)
        if name not in (None, target.name):
            told = (
                f"Another run took the name {name} meanwhile, so this one is named {target.name}."
            )
            named = replace(named, remarks=(*run.remarks, told))
        (folder / RUN).write_text(to_json(describe_run(named, seed)))
        try:
            if draw:
                draw(folder, target.name)
        except Exception as error:  # noqa: BLE001 (the models may be the work of hours)
            why = f"{in_one_line(error)} `pipeline report {target}` writes it."
            named = replace(named, left_out={**run.left_out, "page": why})
        try:
            folder.rename(target)
        except OSError:  # a folder that is not empty cannot be replaced, so no run is lost
            if not target.exists():
                raise
        else:
            return named


def write_predictions(run: Run, file: Path) -> None:
    """Write what each head predicts of each image as CSV."""
    dataset = run.dataset
    # Names of files are bytes to the system: what is not text comes out as it went in.
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream)
        probabilities = (f"probability of {name}" for name in dataset.classes)
        writer.writerow(["path", "split", "label", "head", "predicted", *probabilities])
        for result in run.results:
            columns = (dataset.paths, dataset.splits, dataset.targets.labels, result.predicted)
            for path, split, label, predicted, values in zip(*columns, result.probabilities):
                names = (dataset.classes[label], result.head, dataset.classes[predicted])
                texts = (str(path), split, *names)
                writer.writerow([*map(to_cell, texts), *values.tolist()])
