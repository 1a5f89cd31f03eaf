"""Threads that read files and ask servers, which may never answer; and what stops the main one."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Any, Self, TypeVar

Value = TypeVar("Value")
Item = TypeVar("Item")

_LAST_SECONDS = 1.0


class ReadingThreads:
    """Threads for a block of code, as those of `ThreadPoolExecutor`, that keep nothing from ending.

    At the block's end, tasks that have not begun are dropped, and those that have are waited for
    for a second. Python waits at its own end for the threads of a `ThreadPoolExecutor`, and so for
    good if a file system or a server never answers.

    Parameters
    ----------
    count : int
        The most tasks at once.
    """

    def __init__(self, count: int) -> None:
        self._most = count
        self._started = 0
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._tasks = queue.SimpleQueue()
        self._unfinished: set[Future[Any]] = set()

    def submit(self, function: Callable[[Item], Value], item: Item) -> Future[Value]:
        """Have a function called by the next thread that is free."""
        future: Future[Value] = Future()
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        self._tasks.put((future, lambda: function(item)))
        if self._started < self._most:
            self._started += 1
            threading.Thread(target=self._work, daemon=True).start()
        return future

    def map(self, function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
        """Have a function called for each item; yield what it returns, in order."""
        futures = [self.submit(function, item) for item in items]
        return (future.result() for future in futures)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _number in range(self._started):
            self._tasks.put(None)
        running = [future for future in list(self._unfinished) if not future.cancel()]
        wait(running, _LAST_SECONDS)

    def _work(self) -> None:
        while task := self._tasks.get():
            _do(*task)
            del task  # what it holds would stay in memory until the next one


@contextlib.contextmanager
def handle_stops(handler: signal.Handlers) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM handled so in a block, unless they are ignored already.

    Signals are handled by the main thread alone, so others need not do anything.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stops = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = [signal.signal(number, handler) for number in stops]
    try:
        yield
    finally:
        for number, earlier in zip(stops, before):
            signal.signal(number, earlier or signal.SIG_DFL)  # None: set by another language


def _do(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        value = call()
    except BaseException as error:  # noqa: BLE001 (raised by `Future.result`)
        future.set_exception(error)
    else:
        future.set_result(value)
