"""2,000 images against 100,000: peak memory of stage one, and what looking at them again costs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

TITLE = "Many images"
COUNTS = (2_000, 100_000)
OPTIONS = ("--size", "32", "--precision", "float32")


def measure() -> str:
    """Make the images, run the commands, and read the kernel's account of each process."""
    lines = [
        "Small pictures (PNG, 16 x 16) at `--size 32`, the real network, float32.",
        "",
        "| images | `features` | peak memory | again | `status` |",
        "|---|---|---|---|---|",
    ]
    peaks = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            make_images(Path(folder) / "photos", count)
            time.sleep(2.5)  # a file that changed just before it was read is not trusted
            data = (f"{folder}/photos", "--cache", f"{folder}/cache", *OPTIONS)
            first, peak = run("features", *data)
            again, _ = run("features", *data)
            status, _ = run("status", *data)
        peaks.append(peak)
        lines.append(
            f"| {count:,} | {first:.1f} s | {peak / 1e6:,.0f} MB | {again:.2f} s | {status:.2f} s |"
        )
    lines += ["", f"Peak memory grows by a factor of {peaks[1] / peaks[0]:.2f}."]
    return "\n".join(lines)


def make_images(folder: Path, count: int) -> None:
    """Save small noisy pictures of two classes, no two alike."""
    random = np.random.default_rng(0)
    for number in range(count):
        file = folder / "ab"[number % 2] / f"{number // 1000:03}" / f"{number:06}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, compress_level=0)


def run(*arguments: str) -> tuple[float, int]:
    """Run the command; return its seconds, and its peak memory in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"pipeline {' '.join(arguments)} ended with {status}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024
