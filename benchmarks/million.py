"""A thousand to a million rows in the store: planning, opening, reading, streaming, memory."""

from __future__ import annotations

import ctypes
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from pipeline.backbones.registry import make_recipe
from pipeline.data.dataset import Dataset
from pipeline.data.packed import PackedDigests, PackedPaths
from pipeline.data.targets import Targets
from pipeline.features.extractor import Extractor
from pipeline.features.shard import ROWS_PER_SHARD
from pipeline.features.store import FeatureStore

TITLE = "A million rows"
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
CHANNELS = 256
TELLING = 16  # one channel of so many tells the classes apart, where any does
READ = 10_000
RECIPE = replace(make_recipe(precision="float32"), shape=(1, 1, CHANNELS))


def measure() -> str:
    """Write stores with a stand-in for the network, and look at each in processes of their own."""
    lines = [
        f"Rows from a stand-in for the network, {4 * CHANNELS} bytes each: this measures the work "
        "for each row and",
        f"shard, whatever its size. CPU seconds; planning opens the store and looks for "
        f"each image. {READ:,} random rows",
        "lie in nearly all shards of a large store, each of which is read and checked whole.",
        "",
        "| rows | files | open | plan | read 10,000 at random | stream all | plain h5py | ratio "
        "| peak memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), count)
            one = {**in_process("look", folder, count), **in_process("plain", folder, count)}
        found.append(one)
        lines.append(
            f"| {count:,} | {one['files']:,} | {one['open']:.2f} s | {one['plan']:.2f} s "
            f"| {one['read']:.2f} s | {one['stream']:.2f} s | {one['plain']:.2f} s "
            f"| {one['plain'] / one['stream']:.0%} | {one['peak'] / 1e6:.0f} MB |"
        )
    grown = (found[-1]["peak"] - found[0]["peak"]) / (COUNTS[-1] - COUNTS[0])
    lines += ["", f"Peak memory, the list of images included, grows by {grown:.0f} bytes a row."]
    return "\n".join(lines)


def digests(count: int) -> Iterator[bytes]:
    """Name images that there are not."""
    return (hashlib.sha256(b"%d" % number).digest() for number in range(count))


def listed(count: int) -> Dataset:
    """List images that there are not."""
    paths = (Path(f"photos/{'ab'[i % 2]}/{i // 1000:04}/{i:08}.jpg") for i in range(count))
    return Dataset(
        name="photos",
        paths=PackedPaths(paths),
        digests=PackedDigests(digests(count)),
        targets=Targets(np.arange(count, dtype=np.int64) % 2, ("a", "b")),
        splits=np.resize(np.array(["train", "validation", "test"], "<U10"), count),
    )


def fill(cache: Path, count: int, *, apart: float = 0.0) -> None:
    """Write a row for each image; on some channels the classes are so far apart."""
    store = FeatureStore(cache, RECIPE)
    rng = np.random.default_rng(0)
    wanted = list(digests(count))
    for start in range(0, count, ROWS_PER_SHARD):
        part = wanted[start : start + ROWS_PER_SHARD]
        rows = rng.normal(-1, 1, (len(part), *RECIPE.shape))
        rows[1::2, ..., ::TELLING] += apart  # shards begin with an image of the first class
        rows = np.maximum(rows, 0).astype(np.float32)
        store.write([(digest, 0) for digest in part], rows)


def in_process(mode: str, folder: str, count: int) -> dict:
    """Run one of the modes below in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.million", mode, folder, str(count)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def look(cache: Path, count: int) -> dict:
    """Do with a store what stages one and two do."""
    dataset = listed(count)
    seconds = {}
    started = time.process_time()

    def took(what: str) -> None:
        nonlocal started
        seconds[what] = time.process_time() - started
        started = time.process_time()

    store = FeatureStore(cache, RECIPE)
    took("open")
    assert len(store) == count
    del store
    started = time.process_time()
    plan = Extractor(RECIPE, cache=cache).plan(dataset)
    took("plan")
    assert (plan.stored, plan.missing) == (count, 0)
    chosen = random.Random(0).choices(range(count), k=READ)
    wanted = [(dataset.digests[place], 0) for place in chosen]
    started = time.process_time()
    plan.store.read(wanted)
    took("read")
    assert sum(len(rows) for _, rows in plan.store.stream()) == count
    took("stream")
    return {**seconds, "peak": peak_memory(), "files": sum(1 for _ in plan.store.folder.iterdir())}


def memory(what: str = "VmRSS") -> int:
    """Return one of the figures that the system has of this process's memory, in bytes."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0])


def peak_memory() -> int:
    """Return the most bytes that this process has had; getrusage counts its parent, too."""
    return memory("VmHWM")


def forget_peak() -> None:
    """Let `peak_memory` count from now on, and give back what is free, which would hide some."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def plain(cache: Path, count: int) -> dict:
    """Read the same shards as anybody would, and check nothing."""
    started = time.process_time()
    rows = 0
    for path in sorted(cache.glob("*/*.h5")):
        with h5py.File(path) as shard:
            rows += len(shard["features"][:])
            shard["digest"][:], shard["view"][:]
    assert rows == count
    return {"plain": time.process_time() - started}


if __name__ == "__main__":
    mode, folder, count = sys.argv[1:]
    print(json.dumps({"look": look, "plain": plain}[mode](Path(folder), int(count))))
