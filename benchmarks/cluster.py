"""Stage one on two local workers of one thread each, against one process with two threads."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from statistics import median

import psutil

from pipeline import Dataset, extract, load_dataset, make_recipe
from pipeline.backbones.running import load_backbone
from pipeline.features.cluster import Cluster
from pipeline.features.extractor import Extractor
from pipeline.features.shard import ROWS_PER_SHARD
from pipeline.features.store import FeatureStore

TITLE = "Two workers on this machine, against one process"
WORKERS = 2
ROUNDS = 3
IMAGES = 6 * ROWS_PER_SHARD


def measure() -> str:
    """Let both make the same rows, in turn, with their networks loaded, and compare the bytes."""
    dataset = load_dataset("demo").take(range(IMAGES))
    recipe = make_recipe()
    network = load_backbone(recipe)
    with Cluster(workers=WORKERS) as cluster:
        ways = {
            "one process": lambda cache: Extractor(recipe, cache=cache, forward=network),
            f"`--workers {WORKERS}`": lambda cache: Extractor(
                recipe, cache=cache, workers=cluster, layers=False
            ),
        }
        for run in ways.values():
            seconds_of(dataset, run)  # loads the networks
        rounds = [
            {way: seconds_of(dataset, run) for way, run in ways.items()} for _ in range(ROUNDS)
        ]
    if len({rows for one in rounds for _, _, rows in one.values()}) != 1:
        raise RuntimeError("the rows differ")
    lines = [
        f"{IMAGES:,} photographs of the demo, {recipe.precision}, {os.cpu_count()} cores; networks "
        f"loaded before; {ROUNDS} rounds of both in turn, medians. Reading, decoding, storing and",
        "Dask are included; the rows are bit-equal.",
        "",
        "| | images/s | images per CPU-second |",
        "|---|---|---|",
    ]
    lines += [
        f"| {way} | {IMAGES / median(one[way][0] for one in rounds):.1f} "
        f"| {IMAGES / median(one[way][1] for one in rounds):.1f} |"
        for way in ways
    ]
    first, second = ways
    wall, cpu = (median(one[first][kind] / one[second][kind] for one in rounds) for kind in (0, 1))
    lines += [
        "",
        f"The workers reach {wall:.0%} of the rate of one process by wall time, {cpu:.0%} by CPU time "
        "(median of the rounds).",
    ]
    return "\n".join(lines)


def seconds_of(dataset: Dataset, by: Callable[[str], Extractor]) -> tuple[float, float, bytes]:
    """Make all rows in a new cache; return wall seconds, CPU seconds and the rows."""
    with tempfile.TemporaryDirectory() as cache:
        wall, cpu = time.perf_counter(), cpu_seconds()
        made = extract(dataset, extractor=by(cache))
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
        return wall, cpu, FeatureStore.at(made.store.folder).read(sorted(made.store)).tobytes()


def cpu_seconds() -> float:
    """CPU time of this process and its workers so far."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in family)
