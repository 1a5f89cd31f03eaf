"""Processes that the torture tests start, kill and starve: the real program, without the network.

Started with one argument, a JSON object; its "mode" names a function at the end of this file. The
network's stand-in makes rows that depend on every bit of the pixels.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import hashlib
import itertools
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.backbones.registry import make_recipe
from pipeline.data.loading import list_files
from pipeline.errors import StoreError
from pipeline.features import computing, shard
from pipeline.features.extractor import Extraction, Extractor
from pipeline.features.plan import Plan
from pipeline.features.pruning import prune as prune_store
from pipeline.features.store import FeatureStore

NETWORK = os.environ.get("TORTURE_NETWORK", "vgg16")
RECIPE = make_recipe(NETWORK, size=32, precision="float32")
SETTINGS = ["--backbone", NETWORK, "--size", "32", "--precision", "float32"]
ROWS_PER_SHARD = ROWS_PER_BATCH = 4

STEPS = [
    ("open", "before"),
    ("open", "after"),
    ("write", "in the middle"),
    ("write", "after"),
    ("fsync", "before"),
    ("fsync", "after"),
    ("replace", "before"),
    ("replace", "after"),
    ("folder fsync", "before"),
    ("folder fsync", "after"),
]
"""Moments of a commit."""

REMOVALS = [("unlink", "before"), ("unlink", "after")]
"""Moments of pruning, beside those of the commits that it makes."""

_fsync, _replace, _unlink, _open = os.fsync, os.replace, os.unlink, Path.open
_write = FeatureStore.write


def stand_in(pixels):
    """Rows that have nothing in common as soon as one bit of the pixels differs."""
    rows = [
        np.random.default_rng(list(hashlib.sha256(image.tobytes()).digest())).normal(
            -1, 2, RECIPE.shape
        )
        for image in pixels
    ]
    return np.maximum(np.stack(rows), 0).astype(np.float32)


class Backbone:
    """The stand-in, slow enough to be hit; notes in a file how many rows it made."""

    def __init__(self, seconds: float = 0.0, computed: str = "") -> None:
        self.seconds = seconds
        self.computed = computed

    def __call__(self, pixels):
        if self.computed:
            append(self.computed, b"." * len(pixels))
        time.sleep(self.seconds)
        return stand_in(pixels)


@dataclass(frozen=True)
class Doomed:
    """The stand-in, on a cluster: notes which process makes rows, so that it can be killed."""

    log: str
    seconds: float

    def __call__(self, pixels):
        append(self.log, b"%d\n" % os.getpid())
        time.sleep(self.seconds)
        return stand_in(pixels)


def append(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, data)
    os.close(descriptor)


def small_shards() -> None:
    shard.ROWS_PER_SHARD = ROWS_PER_SHARD
    computing.PIXELS_PER_BATCH = ROWS_PER_BATCH * RECIPE.size**2


def extract_files(paths, cache, forward) -> Extraction:
    """Compute the rows of some files that the cache lacks."""
    dataset = list_files([Path(path) for path in paths])
    extractor = Extractor(RECIPE, cache=cache, forward=forward)
    return extractor.make(extractor.plan(dataset))


def log_commits(log: str) -> None:
    """Note, on disk for good, the digests of all rows whose commit was reported as done."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, keys, rows):
        name = _write(self, keys, rows)
        os.write(descriptor, b"".join(digest.hex().encode() + b"\n" for digest, _ in keys))
        _fsync(descriptor)
        return name

    FeatureStore.write = write


class _Watched:
    """A file, with something in the way of writing to it."""

    def __init__(self, file, write) -> None:
        self.file, self.write = file, lambda data: write(file, data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def at_each_step(reached) -> None:
    """Call `reached(step, when)` at each moment of each commit."""

    def open_file(self, mode="r", *args, **kwargs):
        if mode != "x+b":
            return _open(self, mode, *args, **kwargs)
        reached("open", "before")
        file = _open(self, mode, *args, **kwargs)
        reached("open", "after")
        return _Watched(file, write)

    def write(file, data):
        file.write(data[: len(data) // 2])
        file.flush()
        reached("write", "in the middle")
        file.write(data[len(data) // 2 :])
        file.flush()
        reached("write", "after")

    def fsync(descriptor):
        step = "folder fsync" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync"
        reached(step, "before")
        _fsync(descriptor)
        reached(step, "after")

    def replace(source, target, **kwargs):
        reached("replace", "before")
        _replace(source, target, **kwargs)
        reached("replace", "after")

    def unlink(path, **kwargs):
        reached("unlink", "before")
        _unlink(path, **kwargs)
        reached("unlink", "after")

    Path.open, os.fsync, os.replace, os.unlink = open_file, fsync, replace, unlink


def undo_steps() -> None:
    Path.open, os.fsync, os.replace, os.unlink = _open, _fsync, _replace, _unlink


def die_at(step: str, when: str, number: int) -> None:
    """Kill this process at a step of its commit of that number."""
    passed = itertools.count()

    def reached(*place):
        if place == (step, when) and next(passed) == number:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    at_each_step(reached)


# --- modes --------------------------------------------------------------------------------


def extract(job) -> None:
    """Make the rows of some files; print which were refused."""
    small_shards()
    if job.get("log"):
        log_commits(job["log"])
    if job.get("die_at"):
        die_at(*job["die_at"])
    print("started", flush=True)
    backbone = Backbone(job.get("seconds", 0), job.get("computed", ""))
    extraction = extract_files(job["paths"], job["cache"], backbone)
    print(json.dumps([str(bad.path) for bad in extraction.dataset.quarantined]))


def prune(job) -> None:
    """Drop rows, and merge what is left to shards of four times the size."""
    shard.ROWS_PER_SHARD = 4 * ROWS_PER_SHARD
    die_at(*job["die_at"])
    opened = FeatureStore(Path(job["cache"]), RECIPE)
    prune_store(opened, {bytes.fromhex(digest) for digest in job["wanted"]})


def serve(job) -> None:
    """Be one of several writers, round after round."""
    small_shards()
    log_commits(job["log"])
    for line in sys.stdin:
        turn = json.loads(line)
        ours = extract_files(turn["paths"], turn["cache"], Backbone(0.001)).rows()
        print(hashlib.sha256(ours.tobytes()).hexdigest(), flush=True)


def command(job) -> None:
    """Run the command line, and say when it is at work."""
    small_shards()
    log_commits(job["log"])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be inherited as ignored
    computing.load_backbone = lambda recipe, weights, beside: Backbone(job["seconds"])
    from pipeline.cli import main as cli
    from pipeline.data import loading

    list_entries = loading.list_entries

    def begin(*arguments, **options):
        print("started", flush=True)
        return list_entries(*arguments, **options)

    loading.list_entries = begin
    sys.argv = ["pipeline", *job["arguments"], "--no-layers"]  # of which the stand-in has none
    cli.main()


def fill_disk(job) -> None:
    """Run out of space at many points, on a file system of our own or by failing writes."""
    from typer.testing import CliRunner

    from pipeline.cli.main import app

    small_shards()
    # Nobody is told beforehand that there is too little room: it goes while the work is done.
    computing.load_backbone, Plan.free = lambda recipe, weights, beside: Backbone(), None
    log = job["log"]
    log_commits(log)
    root = Path(job["folder"])
    if job["mount"]:
        root.mkdir()
        size = "size=4m,mode=700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", root], check=True)

    def run(cache):
        return CliRunner().invoke(
            app, ["features", job["data"], "--no-layers", *SETTINGS, "--cache", str(cache)]
        )

    failed = 0
    for point in job["points"]:
        cache = root / f"cache{point}"
        Path(log).write_bytes(b"")
        if job["mount"]:
            free = os.statvfs(root)
            with (root / "ballast").open("wb") as ballast:
                ballast.write(bytes(free.f_bavail * free.f_bsize - 4096 * point))
        else:
            fail_after(2048 * point)
        result = run(cache)
        if job["mount"]:
            (root / "ballast").unlink()
        else:
            undo_steps()
        at = f"point {point}: {result.output}"
        made = FeatureStore(cache, RECIPE)
        committed = {(bytes.fromhex(line), 0) for line in Path(log).read_text().split()}
        assert not made.missing(committed), at
        assert not made.damaged, at
        assert not list(cache.glob("*/.*")), at
        if result.exit_code:
            failed += 1
            assert result.exit_code == 1, at
            assert result.output.count("Error:") == 1, at
            assert "No space left on device" in result.output, at
            assert "make room" in result.output, at
            assert "Traceback" not in result.output, at
            assert not made.missing(committed), at
        again = run(cache)
        assert again.exit_code == 0, f"{at}\n{again.output}"
        assert f"{len(made)} rows are stored" in again.output, at
        whole = FeatureStore(cache, RECIPE)
        digests = [bytes.fromhex(digest) for digest in job["digests"]]
        found = hashlib.sha256(whole.read([(digest, 0) for digest in digests]).tobytes())
        assert found.hexdigest() == job["rows"], at
        subprocess.run(["rm", "-r", cache], check=True)
    print(json.dumps({"failed": failed}))


def fail_after(budget: int) -> None:
    """Fail like a full disk once so many bytes were written, with the last write half done."""
    left = budget

    def write(file, data):
        nonlocal left
        file.write(data[: max(left, 0)])
        left -= len(data)
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_file(self, mode="r", *args, **kwargs):
        file = _open(self, mode, *args, **kwargs)
        return _Watched(file, write) if mode == "x+b" else file

    Path.open = open_file


def rewrite(job) -> None:
    """Rewrite image files with other versions, in place and by renaming, until killed."""
    rng = random.Random(job["seed"])
    versions = {path: [Path(file) for file in files] for path, files in job["versions"].items()}
    print("started", flush=True)
    while True:
        path = Path(rng.choice(sorted(versions)))
        data = rng.choice(versions[str(path)]).read_bytes()
        if rng.random() < 0.5:
            path.write_bytes(data)
        else:
            beside = path.with_suffix(".new")
            beside.write_bytes(data)
            beside.replace(path)
        time.sleep(rng.choice([0, 0.0005, 0.002]))


def judge(job) -> None:
    """Open stores and read all of their rows; tell what came of it, and the memory it took."""
    before = peak_kilobytes()
    for cache in job["caches"]:
        print(json.dumps({"cache": cache, **_judged(Path(cache))}), flush=True)
    print(json.dumps({"kilobytes": peak_kilobytes() - before}))


def peak_kilobytes() -> int:
    """Most memory that this process had so far; `getrusage` would count its parent's, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _judged(cache: Path):
    try:
        opened = FeatureStore(cache, RECIPE)
        keys = list(opened)
        served = 0
        with contextlib.suppress(StoreError):
            rows = opened.read(keys)
            assert rows.shape == (len(keys), *RECIPE.shape)
            assert rows.dtype == np.float32
            served = len(keys)
        return {"served": served, "reasons": [bad.reason for bad in opened.damaged]}
    except StoreError as error:
        return {"served": 0, "reasons": [str(error)]}


def fuzz(job) -> None:
    """Open mutations of shards, whose names vouch for their bytes; print each before its turn."""
    images = [Path(path).read_bytes() for path in job["shards"]]
    folder = Path(job["cache"]) / RECIPE.name
    folder.mkdir(parents=True)
    served, before = 0, peak_kilobytes()
    for seed in job["seeds"]:
        print(seed, flush=True)
        faulthandler.dump_traceback_later(60, exit=True)  # HDF5 may never come back
        image = mutated(images[seed % len(images)], random.Random(seed))
        file = folder / f"{hashlib.sha256(image).hexdigest()}.h5"
        file.write_bytes(image)
        served += bool(_judged(Path(job["cache"]))["served"])
        for file in folder.iterdir():
            file.unlink()
    grown = peak_kilobytes() - before
    print(json.dumps({"served": served, "kilobytes": grown}))


def mutated(image: bytes, rng: random.Random) -> bytes:
    changed = bytearray(image)
    # What HDF5 trusts lies in the first kilobytes and in the last.
    places = [*range(min(4096, len(image))), *range(max(0, len(image) - 4096), len(image))]
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place = rng.choice(places)
        width = rng.choice([1, 1, 2, 4, 8])
        value = rng.choice([rng.randbytes(width), b"\0" * width, b"\xff" * width, b"\x7f" * width])
        changed[place : place + width] = value[: len(changed) - place]
    return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.05 else changed)


MODES = {
    mode.__name__: mode
    for mode in (extract, prune, serve, command, fill_disk, rewrite, judge, fuzz)
}

if __name__ == "__main__":
    assert shard.ROWS_PER_SHARD > ROWS_PER_SHARD
    arguments = json.loads(sys.argv[1])
    MODES[arguments.pop("mode")](arguments)
