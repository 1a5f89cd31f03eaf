"""Work on several processes or machines: the only file that knows Dask.

Dask's scheduler places the work, moves it when a worker dies and does it again. In stage one a
task is one shard's worth of images: a worker reads them, computes their rows and commits them to
the store itself. So what a death costs is a shard, and what travels is names. In stage two a task
is one fit, by joblib; the rows travel once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Self

import joblib

from pipeline.backbones.running import Forward
from pipeline.errors import ClusterError, ImageError, PipelineError, StoreError
from pipeline.features.computing import ImageViews, grouped
from pipeline.features.joint import JointStore
from pipeline.features.worker import (
    Job,
    Made,
    compute_shard,
    import_distributed,
    installed,
    naming,
    other_version,
    prove_access,
)

_CONNECT_SECONDS = 10.0
_NO_WORKERS_SECONDS = 60.0  # a batch system takes its time to start the first
_LOOK_EVERY_SECONDS = 2.0
_AHEAD = 2  # tasks for each of the workers' threads: one that is worked on, and one that waits
_DEATHS = 10  # of workers, at one task; Dask counts tasks that only waited there, too


class Cluster:
    """Workers that make rows and fit heads: of a scheduler elsewhere, or some on this machine.

    To be used in a ``with`` statement. Nothing is started and nobody is asked before there is
    work.

    Parameters
    ----------
    scheduler : str, optional
        Address of a Dask scheduler, as in ``tcp://10.0.0.1:8786`` or ``tls://...``. Certificates
        are those of Dask's configuration.
    workers : int, optional
        Start so many workers on this machine, which share its cores. They listen on the loopback
        interface only, and encrypt: other users of the machine cannot give them work.

    Raises
    ------
    PipelineError
        Neither is given, or both; or, once there is work, a worker lacks the images or the store.
    ClusterError
        Dask is not installed, the scheduler does not answer, or not any more, there are no
        workers, or one lacks this version of the project.
    """

    def __init__(self, scheduler: str | None = None, workers: int | None = None) -> None:
        if (scheduler is None) == (workers is None):
            raise PipelineError(
                "a scheduler's address and a number of workers of its own exclude each other.",
                expected="one of --scheduler and --workers",
            )
        self._scheduler = scheduler
        self._workers = workers
        self._open = contextlib.ExitStack()
        self._client: Any = None
        self._spent: dict[str, list[float]] = {}
        self._shared: dict[int, tuple[Any, Any]] = {}  # by its id: what was brought, and its future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client = None
        self._shared.clear()
        self._open.close()

    @property
    def rates(self) -> dict[str, float]:
        """Rows per second of each worker, while it worked."""
        return {worker: rows / seconds for worker, (rows, seconds) in self._spent.items()}

    def commit_rows(
        self, store: JointStore, tasks: Iterable[ImageViews], forward: Forward
    ) -> Generator[list[tuple[ImageViews, ImageError | None]]]:
        """Compute rows on the workers, which commit them; as `computing.commit_rows` does here.

        The tasks are asked for a few at a time: their whole list is nowhere.

        Parameters
        ----------
        store : JointStore
            In folders that the workers reach by the same path.
        tasks : iterable of ImageViews
            The work, with digests.
        forward : callable
            Pixels to rows. It is sent to the workers.

        Yields
        ------
        list of (ImageViews, ImageError or None)
            The tasks of a shard, as they are done, and why one has no rows.
        """
        blocks = grouped(map(_absolute, tasks), store.rows_per_shard)
        first = next(blocks, None)
        if first is None:
            return
        sample, cache = first[0].path, store.folder.parent.absolute()
        job = Job(cache, store.recipes, forward, sample, installed()())
        self._connect()
        self._check_access(job)
        for block, made in self._run(job, itertools.chain([first], blocks)):
            if lost := store.take_in(made.shards):
                raise StoreError(
                    f"the worker {made.worker} wrote {lost[0]}, which is not in {store.folder}.",
                    expected="a cache on a file system that all workers share",
                    fix="name a shared folder with --cache",
                )
            spent = self._spent.setdefault(made.worker, [0, 0])
            spent[0] += made.rows
            spent[1] += made.seconds
            yield [(task, made.refused.get(task.digest or b"")) for task in block]

    @contextlib.contextmanager
    def spread(self, *shared: Any) -> Iterator[Sequence[Any]]:
        """Have joblib run on the workers; see `pipeline.classification.search.Spread`.

        What is shared is brought to every worker once, however often it is shared again, and
        stays there as long as this cluster is in use.

        Parameters
        ----------
        *shared : object
            What tasks have in common: rows, or their inner products.

        Yields
        ------
        list
            What to hand to tasks in their place.
        """
        distributed = import_distributed()
        self._connect()
        died = (distributed.scheduler.KilledWorker, distributed.CancelledError)
        with _lost_connections():
            try:
                with joblib.parallel_config(_joblib_backend(self._client)):
                    yield [self._brought(value) for value in shared]
            except died as error:
                if self._client.status != "running":  # it is the scheduler
                    raise
                raise ClusterError(
                    "the workers died at their fits, and with them what they had to share.",
                    fix="see what their logs say: is there too little memory?",
                ) from error

    def _brought(self, value: Any) -> Any:
        """Bring a value to every worker, once."""
        if id(value) not in self._shared:
            [future] = self._client.scatter([value], broadcast=True, hash=False)
            self._shared[id(value)] = value, future
        return self._shared[id(value)][1]

    def _connect(self) -> None:
        """Find a scheduler, and workers with this version of the project, before any work."""
        if self._client is None:
            self._client = self._find()
        with _lost_connections():
            try:
                self._client.wait_for_workers(1, timeout=_NO_WORKERS_SECONDS)
            except TimeoutError as error:
                raise _no_workers() from error
            expected = installed()()
            versions = {"the scheduler": self._client.run_on_scheduler(installed())}
            of_workers = self._client.run(installed())
            versions |= {f"the worker {worker}": version for worker, version in of_workers.items()}
            for where, version in versions.items():
                if version != expected:
                    raise other_version(where, version, expected)

    def _find(self) -> Any:
        distributed = import_distributed()
        # A lost worker or scheduler is an error of this file's where it matters, not a log.
        quiet = distributed.utils.silence_logging_cmgr(logging.CRITICAL, root="distributed")
        self._open.enter_context(quiet)
        address = self._scheduler or self._open.enter_context(self._start())
        try:
            client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:  # TypeError: TLS without certificates
            raise ClusterError(
                f"no Dask scheduler answers at {address}: {error}.",
                expected="the address of a running one, as in tcp://10.0.0.1:8786; for tls:// also "
                "the certificates in Dask's configuration",
                fix="see docs/cluster.md",
            ) from error
        return self._open.enter_context(client)

    def _start(self) -> Any:
        distributed = import_distributed()
        import dask
        from dask.system import CPU_COUNT  # what a container may use, not what the machine has

        # Its nanny starts a worker again. Dask would give it up if, so long after it died, another
        # death has just come.
        endless = dask.config.set({"distributed.deploy.lost-worker-timeout": "365 days"})
        self._open.enter_context(endless)
        return distributed.LocalCluster(
            n_workers=self._workers,
            threads_per_worker=max(1, CPU_COUNT // (self._workers or 1)),
            # What is shared must stay, and Dask would end one for what the network needs, too.
            memory_limit=None,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={
                "dashboard_address": "127.0.0.1:0",  # a page that says that it is well; any port
                "allowed_failures": _DEATHS,
            },
            security=True,
            # Ctrl-C goes to all processes of a terminal; this one ends the others.
            preload=["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"],
            silence_logs=logging.CRITICAL,
        )

    def _check_access(self, job: Job) -> None:
        """Refuse a cluster that lacks the images or the store, before any work."""
        with _lost_connections():
            complaints = self._client.run(prove_access, job, on_error="return")
            for worker, complaint in complaints.items():
                if complaint is not None:
                    with naming(worker):
                        raise complaint

    def _run(
        self, job: Job, blocks: Iterator[list[ImageViews]]
    ) -> Generator[tuple[list[ImageViews], Made]]:
        """Keep a few tasks per worker under way, and give what is done as it is done."""
        distributed = import_distributed()
        running: dict[Any, list[ImageViews]] = {}
        seen_worker = time.monotonic()
        with _lost_connections(), contextlib.ExitStack() as leaving:
            leaving.callback(lambda: self._client.cancel(list(running)))
            while True:
                threads = sum(self._client.nthreads().values())
                if threads:
                    seen_worker = time.monotonic()
                elif time.monotonic() - seen_worker > _NO_WORKERS_SECONDS:
                    raise _no_workers()
                room = _AHEAD * threads - len(running)
                for block in itertools.islice(blocks, max(0, room)):
                    running[self._client.submit(compute_shard, job, block, pure=False)] = block
                if room > 0 and not running:
                    return
                with self._client.as_current(), contextlib.suppress(TimeoutError):
                    distributed.wait(list(running), _LOOK_EVERY_SECONDS, "FIRST_COMPLETED")
                for future in [future for future in running if future.done()]:
                    block = running.pop(future)
                    yield block, self._result(future, job, block)

    def _result(self, future: Any, job: Job, block: Sequence[ImageViews]) -> Made:
        try:
            made: Made = future.result()
        except import_distributed().scheduler.KilledWorker as error:
            raise ClusterError(
                f"several workers died, one after the other, at the images {block[0].path} to "
                f"{block[-1].path}; the last was {error.last_worker.address}.",
                fix="see what its log says: is there too little memory?",
            ) from error
        except (ImportError, AttributeError) as error:  # of a worker that came later
            raise other_version("a worker", "", job.installed) from error
        return made


def _absolute(task: ImageViews) -> ImageViews:
    return dataclasses.replace(task, path=task.path.absolute())


def _joblib_backend(client: Any) -> Any:
    """Make joblib's backend for Dask, less two things that it does as of release 1.6."""
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):  # type: ignore[misc]
        def effective_n_jobs(self, n_jobs: int) -> int:
            # For a single one, it would do the work here.
            return max(2, int(super().effective_n_jobs(n_jobs)))

        def submit(self, func: Any, callback: Any = None) -> Any:
            # It would wait for ever for what Dask gives up: a worker died of it or cannot read it.
            done = super().submit(func, callback)
            done.add_done_callback(lambda it: it.exception() and callback(it.exception()))
            return done

    return Backend(client=client)


@contextlib.contextmanager
def _lost_connections() -> Iterator[None]:
    distributed = import_distributed()
    try:
        yield
    except (distributed.comm.CommClosedError, distributed.CancelledError) as error:
        raise ClusterError(
            "the connection to the Dask scheduler was lost.",
            fix="start it again, and run the same command: it goes on where it was",
        ) from error


def _no_workers() -> ClusterError:
    return ClusterError(
        f"the cluster has had no workers for {_NO_WORKERS_SECONDS:.0f} s.",
        fix="start some, and run the same command: it goes on where it was",
    )
