"""Threads that wait for what may never come."""

import os
import subprocess
import sys
import threading
import time
import weakref

import pytest

from pipeline.system import threads
from pipeline.system.threads import ReadingThreads


def test_tasks_are_done_at_once_and_their_results_come_in_order():
    together = threading.Barrier(3, timeout=30)

    def double(number):
        if number < 3:
            together.wait()
        return 2 * number

    with ReadingThreads(3) as some:
        assert list(some.map(double, range(20))) == list(range(0, 40, 2))
        assert some.submit(double, 50).result() == 100


def test_an_error_in_a_task_is_raised_where_its_result_is_asked_for():
    with ReadingThreads(2) as some:
        with pytest.raises(ZeroDivisionError):
            some.submit(lambda number: 1 / number, 0).result()
        assert some.submit(str, 1).result() == "1"


def test_what_has_not_begun_is_dropped_and_what_never_ends_is_left_alone(monkeypatch):
    monkeypatch.setattr(threads, "_LAST_SECONDS", 0.1)
    done, never = [], threading.Event()
    with ReadingThreads(1) as some:
        some.submit(lambda _: never.wait(), 0)
        later = some.submit(done.append, 1)
        time.sleep(0.1)
    assert later.cancelled()
    never.set()
    time.sleep(0.1)
    assert not done


def test_a_result_stays_in_memory_no_longer_than_whoever_asked_for_it_needs_it():
    class Value:
        pass

    with ReadingThreads(1) as some:
        held = weakref.ref(some.submit(lambda _: Value(), 0).result())
        time.sleep(0.1)
        assert held() is None


def test_python_ends_though_a_task_never_does():
    code = """
import os
from pipeline.system.threads import ReadingThreads
with ReadingThreads(2) as some:
    some.submit(lambda number: os.read(number, 1), os.pipe()[0])
"""
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, env=environment)
    assert time.monotonic() - started < 10
