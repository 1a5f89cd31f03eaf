"""Heads trained shard by shard: as good as in memory, in memory that hardly grows with the rows."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.million import CHANNELS, RECIPE, fill, listed, peak_memory
from pipeline import classify, load_dataset
from pipeline.streaming import STREAMED

TITLE = "Training on more than memory holds"
SEEDS = 3
COUNTS = (10_000, 100_000, 1_000_000)
IN_MEMORY = 100_000  # rows up to which that is measured too
APART = 0.4  # of a standard deviation


def measure() -> str:
    """Train both ways on the demo; then on more and more rows."""
    return f"{on_the_demo()}\n\n{on_many_rows()}"


def on_the_demo() -> str:
    """Train both ways on the same splits, and judge both on test."""
    lines = [
        f"`pipeline classify demo --stream` and without: mean over {SEEDS} seeds, each with splits "
        "of its own; parameters chosen on validation.",
        "",
        "| head | accuracy, streamed | in memory | log loss, streamed | in memory "
        "| CPU-s, streamed | in memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for head in STREAMED:
        found = [[judged(head, seed, stream) for stream in (True, False)] for seed in range(SEEDS)]
        streamed, whole = np.mean(found, axis=0)
        lines.append(
            f"| {head} | {streamed[0]:.3f} | {whole[0]:.3f} | {streamed[1]:.3f} | {whole[1]:.3f} "
            f"| {streamed[2]:.1f} | {whole[2]:.1f} |"
        )
    return "\n".join(lines)


def judged(head: str, seed: int, stream: bool) -> tuple[float, float, float]:
    """Return accuracy and log loss on test, and the CPU seconds until the head was fitted."""
    dataset = load_dataset("demo", seed=seed)
    started = time.process_time()
    ended: list[float] = []
    with tempfile.TemporaryDirectory() as runs:
        run = classify(
            dataset,
            head,
            stream=stream,
            seed=seed,
            runs=runs,
            on_result=lambda _: ended.append(time.process_time()),
        )
    return run.best.test.accuracy, run.best.test.log_loss, ended[0] - started


def on_many_rows() -> str:
    """Run all of `classify`, its page included, in processes of their own."""
    lines = [
        f"`classify`, with the page and the model, of `logistic` on rows from a stand-in for the "
        f"network, {4 * CHANNELS} bytes each,",
        "a third in each split. Peak memory includes the list of images and the index.",
        "",
        "| rows | peak memory, streamed | in memory | accuracy, streamed | in memory "
        "| CPU-s, streamed | in memory |",
        "|---|---|---|---|---|---|---|",
    ]
    peaks = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), count, apart=APART)
            streamed = in_process(folder, count, stream=True)
            whole = in_process(folder, count, stream=False) if count <= IN_MEMORY else None
        peaks.append(streamed["peak"])
        cells = []
        for name, text in (("peak", "{:,.0f} MB"), ("accuracy", "{:.3f}"), ("seconds", "{:.0f}")):
            scale = 1e6 if name == "peak" else 1
            cells += [text.format(one[name] / scale) if one else "" for one in (streamed, whole)]
        lines.append(f"| {count:,} | {' | '.join(cells)} |")
    grown = (peaks[-1] - peaks[0]) / (COUNTS[-1] - COUNTS[0])
    lines += ["", f"Streamed, peak memory grows by {grown:.0f} bytes a row."]
    return "\n".join(lines)


def in_process(folder: str, count: int, *, stream: bool) -> dict:
    """Run the below in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.streaming", folder, str(count), str(int(stream))]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def train(cache: Path, count: int, *, stream: bool) -> dict:
    """Train on what is there; tell what it took."""
    started = time.process_time()
    dataset = listed(count)
    with tempfile.TemporaryDirectory() as runs:
        run = classify(dataset, "logistic", recipe=RECIPE, cache=cache, stream=stream, runs=runs)
    return {
        "peak": peak_memory(),
        "accuracy": run.best.test.accuracy,
        "seconds": time.process_time() - started,
    }


if __name__ == "__main__":
    folder, count, stream = sys.argv[1:]
    print(json.dumps(train(Path(folder), int(count), stream=stream == "1")))
