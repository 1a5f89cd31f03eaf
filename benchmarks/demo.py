"""The main job on the demo data, as a newcomer runs it: times, disk, accuracy over seeds."""

from __future__ import annotations

import io
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.accuracy import with_interval
from pipeline import Run, classify, extract
from pipeline.cli import results as printing
from pipeline.features.extractor import Extractor

TITLE = "The demo: 2,624 photographs of solar cells, 150 x 150 pixels"
SEEDS = range(5)
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "classify.svg"


def measure() -> str:
    """Run the commands in an empty cache, then the comparison on several splits."""
    with tempfile.TemporaryDirectory() as folder:
        cache, runs = f"{folder}/cache", f"{folder}/runs"
        first = timed("features", "demo", "--cache", cache)
        second = statistics.median(timed("features", "demo", "--cache", cache) for _ in range(5))
        comparing = timed("classify", "demo", "--cache", cache, "--runs", runs)
        extractor = Extractor(cache=cache)
        extraction = extract("demo", extractor=extractor)
        last, every = (
            sum(file.stat().st_size for file in store.folder.iterdir()) / 1e6
            for store in extraction.plan.every_store
        )
        times = extraction.rows().nbytes / 1e6 / last
        recipe = extraction.store.recipe
        labels = extraction.dataset.targets.labels
        majority = max((labels == label).mean() for label in set(labels))
        by_head: dict[str, list] = {}
        for seed in SEEDS:
            run = classify("demo", extractor=extractor, runs=runs, seed=seed)
            for result in run.results:
                by_head.setdefault(result.head, []).append(result)
            if seed == SEEDS[0]:
                draw_table(run)
    lines = [
        "| | |",
        "|---|---|",
        f"| `pipeline features demo`, empty cache ({recipe.precision}) | {first:.0f} s |",
        f"| again, nothing to do | {second:.1f} s, {first / second:.0f} times as fast |",
        f"| `pipeline classify demo`, all classifiers | {comparing:.0f} s |",
        f"| features on disk: last layer | {last:.1f} MB, 1/{times:.1f} of the raw arrays |",
        f"| features on disk: every layer | {every:.1f} MB |",
        "",
        f"On the test images (about 25 %), mean over {len(SEEDS)} seeds, each with splits of its own, and 95 %",
        f"interval of that mean. Always guessing the commonest class gives {majority:.3f}.",
        "",
        "| classifier | accuracy | balanced accuracy | ROC AUC | log loss | seconds |",
        "|---|---|---|---|---|---|",
        *(row(head, results) for head, results in by_head.items()),
    ]
    return "\n".join(lines)


class Terminal(Console):
    """Breaks long lines, as a real terminal does."""

    def print(self, *texts: object, soft_wrap: bool | None = None, **options: object) -> None:  # noqa: ARG002
        """Print with lines broken in any case."""
        super().print(*texts, **options)


def draw_table(run: Run) -> None:
    """Draw what `make classify` prints, for the README."""
    terminal = Terminal(record=True, width=80, file=io.StringIO(), highlight=False)
    printing.out = terminal
    printing.print_run(replace(run, folder=Path("runs/demo")))
    picture = terminal.export_svg(title="make classify")
    without_downloads = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(without_downloads, encoding="utf-8")


def timed(*arguments: str) -> float:
    """Run the command, and return how long it took in seconds."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "pipeline", *arguments]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parent.parent)
    return time.perf_counter() - started


def row(head: str, results: list) -> str:
    """Summarise one head's results over the seeds."""
    accuracies = [result.test.accuracy for result in results]
    others = [
        statistics.mean(getattr(result.test, name) for result in results)
        for name in ("balanced_accuracy", "roc_auc", "log_loss")
    ]
    seconds = statistics.median(result.seconds for result in results)
    return (
        f"| {head} | {with_interval(accuracies)} | "
        + " | ".join(f"{value:.3f}" for value in others)
        + f" | {seconds:.1f} |"
    )
