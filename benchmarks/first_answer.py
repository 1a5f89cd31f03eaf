"""How long one picture takes where nothing is loaded: a folder that is handed on, and `predict`."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from benchmarks.commands import run, run_command
from benchmarks.trials import NETWORKS
from pipeline.data.demo import demo_images

TITLE = "The first answer: one picture, nothing loaded"
IMAGES = 60  # of each class, to learn from
TIMES = 5


def measure() -> str:
    """Train, export and ask for one picture, again and again in new processes."""
    lines = [
        f"CPU seconds of all cores (and seconds by the clock), medians of {TIMES} new processes after one that is not counted; a logistic",
        "regression of two classes, in float32.",
        "",
        f"| network | `predict.py` of the folder | {' | '.join(title for title, *_ in ways('', '', ''))} |",
        "|---|---|---|---|---|",
    ]
    for network, title in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            *pictures, new = few_pictures(Path(folder))
            cache, runs = f"{folder}/cache", f"{folder}/runs"
            settings = ("--backbone", network, "--precision", "float32", "--head", "logistic")
            places = ("--cache", cache, "--runs", runs, "--name", "run", "--pool", "average")
            run_command("classify", f"{folder}/pictures", *settings, *places)
            trained = f"{runs}/run"
            handed_on = f"{folder}/handed-on"
            run_command("export", trained, "--format", "folder", "--out", handed_on)
            program = [sys.executable, f"{handed_on}/predict.py", str(new)]
            cells = [cell(program)]
            for _, before, arguments in ways(trained, str(pictures[0]), str(new)):
                if before:
                    run_command(*before)
                command = [sys.executable, "-m", "pipeline", "predict", trained, *arguments]
                cells.append(cell([*command, "--cache", cache]))
        lines.append(f"| {title} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def ways(trained: str, known: str, new: str) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """Yield how `pipeline predict` is asked: in words, what comes before, what is named."""
    yield "`pipeline predict RUN`, its features cached", (), [known]
    yield "of a new picture, with TensorFlow", (), [new]
    yield "with an export kept beside the model", ("export", trained), [new]


def few_pictures(folder: Path) -> list[Path]:
    """Copy some photographs of each class of the demo into folders, and one more beside them."""
    found = list(demo_images())
    copied = []
    for label in sorted({label for _, label in found}):
        place = folder / "pictures" / label
        place.mkdir(parents=True)
        own = [file for file, name in found if name == label]
        for file in islice(own, IMAGES):
            shutil.copyfile(file, place / file.name)
            copied.append(place / file.name)
    return [*copied, own[-1]]


def cell(command: list[str]) -> str:
    """Write the CPU seconds and the seconds of a command."""
    measured = [run(command) for _ in range(TIMES + 1)][1:]
    cpu, seconds = (statistics.median(own[place] for own in measured) for place in (0, 1))
    return f"{cpu:.2f} s ({seconds:.2f})"
