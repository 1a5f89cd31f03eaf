"""What runs on a worker of a cluster."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.running import Forward, Pixels, limit_threads
from pipeline.data.urls import Location, Url, read
from pipeline.errors import ClusterError, ImageError, PipelineError, StoreError
from pipeline.features.computing import ImageViews, Rows, commit_rows
from pipeline.features.folder import has_recipe
from pipeline.features.joint import JointStore
from pipeline.features.store import FeatureStore
from pipeline.system.packages import install_hint


@dataclass(frozen=True)
class Job:
    """What the tasks of one store have in common.

    Attributes
    ----------
    cache : Path
        The cache folder, as the workers, too, name it.
    recipes : tuple of Recipe
        What decides the rows' values.
    forward : callable
        Pixels to rows; a worker keeps the first of those that are equal, with what it has loaded.
    sample : Path or Url
        One of the images: a worker that cannot open it has not got the others, either.
    installed : str
        The version of the project; see `installed`.
    """

    cache: Path
    recipes: tuple[Recipe, ...]
    forward: Forward
    sample: Location
    installed: str


@dataclass(frozen=True)
class Made:
    """What a worker did: the names of its new shards, and the images that have no rows, and why."""

    worker: str
    shards: Sequence[str]
    refused: dict[bytes, ImageError]
    rows: int
    seconds: float


def compute_shard(job: Job, tasks: Sequence[ImageViews]) -> Made:
    """Do one task, on a worker."""
    worker = import_distributed().get_worker().address
    started = time.monotonic()
    with naming(worker):
        prove_access(job)
        store = _open(job)
        batches = commit_rows(store, tasks, _resident(job.forward))
        outcomes = list(itertools.chain.from_iterable(batches))
    seconds = time.monotonic() - started
    refused = {task.digest: error for task, error in outcomes if error and task.digest}
    rows = sum(len(task.views) for task, error in outcomes if not error)
    return Made(worker, list(store.shards), refused, rows, seconds)


@lru_cache(maxsize=1)
def prove_access(job: Job) -> None:
    """See to it that this worker has all that it needs; else it would refuse every image."""
    if (version := installed()()) != job.installed:
        raise other_version("it", version, job.installed)
    joint = _open(job)
    for store in joint.stores:
        if not has_recipe(store.folder):
            raise StoreError(
                f"there is no {store.folder}.",
                expected="the same cache folder at the same path on all machines",
                fix="name a shared folder with --cache",
            )
    joint.prepare()
    try:
        if isinstance(job.sample, Url):
            read(job.sample, 1)
        else:
            job.sample.open("rb").close()
    except (OSError, ImageError) as error:
        reason = error.found if isinstance(error, ImageError) else error.strerror
        raise PipelineError(
            f"cannot open {job.sample}: {reason}.",
            expected="the images at the same paths on all machines",
        ) from error


def _open(job: Job) -> JointStore:
    return JointStore([FeatureStore(job.cache, recipe, index=False) for recipe in job.recipes])


class _Resident:
    """A worker's backbone: loaded once, and in use by one thread at a time."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._free = threading.Lock()

    def __call__(self, pixels: Pixels) -> Rows:
        with self._free:  # it has all of the worker's threads for itself
            return self._forward(pixels)


_residing = threading.Lock()


def _resident(forward: Forward) -> Forward:
    with _residing:
        return _keep(forward)


@lru_cache(maxsize=1)
def _keep(forward: Forward) -> Forward:
    limit_threads(import_distributed().get_worker().state.nthreads)
    return _Resident(forward)


def installed() -> Callable[[], str]:
    """Give a function that tells which version of the project is installed where it runs.

    It holds all that it needs, so it can be sent to where the project is not.
    """

    def installed() -> str:
        import hashlib
        import importlib.metadata
        import importlib.util
        from pathlib import Path

        spec = importlib.util.find_spec("pipeline")
        if spec is None or spec.origin is None:
            return ""
        folder = Path(spec.origin).parent
        digest = hashlib.sha256()
        for file in sorted(folder.rglob("*.py")):
            digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
        try:
            version = importlib.metadata.version("cached-feature-pipeline")
        except importlib.metadata.PackageNotFoundError:
            version = "unknown"
        return f"{version} ({digest.hexdigest()[:12]})"

    return installed


def import_distributed() -> Any:
    """Import Dask's distributed, or say how to install it."""
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise ClusterError(
            "--scheduler and --workers need the package distributed.",
            fix=install_hint("dask"),
        ) from error
    return distributed


@contextlib.contextmanager
def naming(worker: str) -> Iterator[None]:
    """Name the worker in an error that it raises."""
    try:
        yield
    except PipelineError as error:
        message = f"the worker {worker} says: {error.found}"
        raise type(error)(message, expected=error.expected, fix=error.fix) from error


def other_version(where: str, version: str, expected: str) -> ClusterError:
    """Make the error for a worker or scheduler with another version, or none, of this project."""
    has = f"has version {version} of cached-feature-pipeline" if version else "lacks this project"
    return ClusterError(
        f"{where} {has}.",
        expected=f"version {expected}, as here, on the scheduler and on all workers",
        fix="install it there: what another version makes could differ",
    )
