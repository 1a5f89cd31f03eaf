"""Contenders, each in a process of its own, asked for one pass after the other, in turn."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

Seconds = dict[str, list[float]]


def race(
    commands: dict[str, list[str]], rounds: int, *, warming: int = 1
) -> tuple[Seconds, Seconds]:
    """Run passes in turn; return wall and CPU seconds of each contender's, less the first ones.

    Parameters
    ----------
    commands : dict of str to list of str
        For each contender the module that it is run by, and its arguments.
    rounds : int
        Number of passes that count.
    warming : int
        Number of passes before, in which networks are compiled.
    """
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name, command in commands.items()
    }
    wall: Seconds = {name: [] for name in commands}
    cpu: Seconds = {name: [] for name in commands}
    for number in range(warming + rounds):
        for name, process in processes.items():
            seconds = _one_pass(process)
            print(f"  {name}: {seconds[0]:.1f} s, {seconds[1]:.1f} CPU-s", file=sys.stderr)
            if number >= warming:
                wall[name].append(seconds[0])
                cpu[name].append(seconds[1])
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return wall, cpu


def race_files(names: list[str], files: list[Path], rounds: int) -> tuple[Seconds, Seconds]:
    """Let contenders of stage one go through files."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listing:
        listing.write("\n".join(map(str, files)))
        listing.flush()
        commands = {name: ["benchmarks.contenders", name, listing.name] for name in names}
        return race(commands, rounds)


def _one_pass(process: subprocess.Popen) -> tuple[float, float]:
    """Ask a contender for a pass, and wait for its answer."""
    process.stdin.write("go\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("answer "):
            _, wall, cpu = json.loads(line[len("answer ") :])
            return wall, cpu
    raise RuntimeError(f"the contender {process.args} ended with {process.wait()}")
