"""`pipeline` in a process of its own, as a user runs it."""

from __future__ import annotations

import resource
import subprocess
import sys
import time


def run_command(*arguments: str) -> tuple[float, float, str]:
    """Run `pipeline`; give its CPU seconds, its seconds and what it printed."""
    return run([sys.executable, "-m", "pipeline", *arguments])


def run(command: list[str]) -> tuple[float, float, str]:
    """Run a program; give its CPU seconds, its seconds and what it printed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, seconds, done.stdout
