"""Heads trained shard by shard: as good as in memory, in memory that hardly grows with the rows."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.million import (
    CHANNELS,
    RECIPE,
    fill,
    forget_peak,
    listed,
    memory,
    peak_memory,
)
from pipeline import classify, extract, load_dataset
from pipeline.classification.streaming.heads import STREAMED, fit_streamed
from pipeline.classification.streaming.stream import Stream
from pipeline.features.extractor import Extractor
from pipeline.features.store import FeatureStore
from pipeline.heads.registry import get_head
from pipeline.runs.listener import RunListener
from pipeline.runs.run import Result

TITLE = "More rows than memory holds"
SEEDS = 3
COUNTS = (10_000, 100_000, 1_000_000)
IN_MEMORY = 100_000  # rows up to which that is measured too
APART = 0.4  # of a standard deviation
EPOCHS = 2  # of `dense`, where memory is measured: each takes the same


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
    extract("demo")  # what takes a minute where nothing is there
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
    clock = Clock()
    with tempfile.TemporaryDirectory() as runs:
        run = classify(
            dataset,
            head,
            extractor=Extractor(stream=stream),
            seed=seed,
            runs=runs,
            listener=clock,
        )
    return run.best.test.accuracy, run.best.test.log_loss, clock.judged_at - started


class Clock(RunListener):
    """Notes when a head was judged, in CPU seconds of this process."""

    judged_at: float

    def judged(self, result: Result) -> None:  # noqa: ARG002 -- the listener's
        """Note the time."""
        self.judged_at = time.process_time()


def on_many_rows() -> str:
    """Train heads, and run all of `classify` with its page, in processes of their own."""
    alone = [
        f"Rows from a stand-in for the network, {4 * CHANNELS} bytes each, a third in each split. "
        "Peak memory of training",
        "(`pipeline.classification.streaming.heads.fit_streamed`), without the program, the list of images "
        "and the index, which are in the column `before`;",
        f"TensorFlow is in that of `dense`, which has {EPOCHS} epochs here:",
        "",
        f"| rows | all their bytes | before | {' | '.join(STREAMED)} |",
        f"|---|---|---|{'---|' * len(STREAMED)}",
    ]
    whole = [
        "The whole `classify` with `logistic`: the list of images, the index, training, metrics, "
        "predictions, page and model.",
        "",
        "| rows | peak memory, streamed | in memory | accuracy, streamed | in memory "
        "| CPU-s, streamed | in memory |",
        "|---|---|---|---|---|---|---|",
    ]
    taken, peaks = [], []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), count, apart=APART)
            trained = [in_process("train", folder, count, head) for head in STREAMED]
            streamed = in_process("streamed", folder, count)
            held = in_process("held", folder, count) if count <= IN_MEMORY else None
        taken.append([one["training"] for one in trained])
        peaks.append(streamed["peak"])
        before = np.mean([one["before"] for one in trained])
        cells = [f"{one / 1e6:,.0f} MB" for one in (4 * CHANNELS * count, before, *taken[-1])]
        alone.append(f"| {count:,} | {' | '.join(cells)} |")
        cells = []
        for name, text in (("peak", "{:,.0f} MB"), ("accuracy", "{:.3f}"), ("seconds", "{:.0f}")):
            scale = 1e6 if name == "peak" else 1
            cells += [text.format(one[name] / scale) if one else "" for one in (streamed, held)]
        whole.append(f"| {count:,} | {' | '.join(cells)} |")
    more = COUNTS[-1] - COUNTS[0]
    grown = (
        f"{(to - at) / more:.0f} bytes an image ({head})"
        for head, at, to in zip(STREAMED, taken[0], taken[-1])
    )
    alone += ["", f"It grows by {', '.join(grown)}; what is read, by {4 * CHANNELS}."]
    whole += ["", f"Streamed, it grows by {(peaks[-1] - peaks[0]) / more:.0f} bytes an image."]
    return "\n".join([*alone, "", *whole])


def in_process(mode: str, folder: str, count: int, *more: str) -> dict:
    """Run one of the below in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.streaming", mode, folder, str(count), *more]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def train(cache: Path, count: int, head: str) -> dict:
    """Train a head on what is there, and do nothing else."""
    stream = Stream(FeatureStore(cache, RECIPE), listed(count))
    forget_peak()
    before = memory()
    chosen = get_head(head)
    if chosen.early_stopping:
        chosen = replace(chosen, grid=({"epochs": EPOCHS},))
    fit_streamed(chosen, stream)
    return {"before": before, "training": peak_memory() - before}


def run(cache: Path, count: int, *, stream: bool) -> dict:
    """Do all of `classify`; tell what it took."""
    started = time.process_time()
    dataset = listed(count)
    with tempfile.TemporaryDirectory() as runs:
        extractor = Extractor(RECIPE, cache=cache, stream=stream)
        done = classify(dataset, "logistic", extractor=extractor, runs=runs)
    return {
        "peak": peak_memory(),
        "accuracy": done.best.test.accuracy,
        "seconds": time.process_time() - started,
    }


if __name__ == "__main__":
    mode, folder, count, *more = sys.argv[1:]
    if mode == "train":
        print(json.dumps(train(Path(folder), int(count), *more)))
    else:
        print(json.dumps(run(Path(folder), int(count), stream=mode == "streamed")))
