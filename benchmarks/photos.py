"""Photographs of 12 megapixels, where decoding costs as much as the network."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.contenders import our_backbone
from benchmarks.race import race_files
from pipeline.data.demo import demo_images
from pipeline.data.images import decode

TITLE = "Photographs of 12 megapixels"
PHOTOS = 48
ROUNDS = 3
WIDTH, HEIGHT, TILE = 4000, 3000, 300
NAMES = (
    "forward-float32",
    "float32",
    "float32-full-decoding",
    "int8",
    "int8-full-decoding",
    "int8-64",
    "int8-64-full-decoding",
)


def measure() -> str:
    """Compare the whole stage with the network alone, and scaled with full decoding."""
    with tempfile.TemporaryDirectory() as folder:
        files = make_photos(Path(folder))
        wall, cpu = race_files(list(NAMES), files, ROUNDS)
        data = [file.read_bytes() for file in files]
        scaled, full = (
            np.stack([decode(one, 150, scaled=scaled) for one in data]) for scaled in (True, False)
        )
        network = our_backbone("float32")
        ours, exact = network(scaled), network(full)
    megabytes = statistics.mean(map(len, data)) / 1e6
    rows = [
        f"| {name} | {PHOTOS / statistics.median(wall[name]):.1f} "
        f"| {PHOTOS / statistics.median(cpu[name]):.1f} |"
        for name in NAMES
    ]
    share = {kind: ratio(times, "forward-float32", "float32") for kind, times in both(wall, cpu)}
    gain, gain_small = (
        {kind: ratio(times, f"{name}-full-decoding", name) for kind, times in both(wall, cpu)}
        for name in ("int8", "int8-64")
    )
    decoding = (
        statistics.median(cpu["float32-full-decoding"]) - statistics.median(cpu["forward-float32"])
    ) / (statistics.median(cpu["float32"]) - statistics.median(cpu["forward-float32"]))
    return "\n".join(
        [
            f"{PHOTOS} mosaics of the demo's photographs, {WIDTH} x {HEIGHT} pixels, JPEG of quality 90,",
            f"{megabytes:.1f} MB each; {ROUNDS} rounds in turn, medians.",
            "",
            "| | images/s | images per CPU-second |",
            "|---|---|---|",
            *rows,
            "",
            "The whole stage in float32 keeps "
            f"{share['wall']:.0%} of the network's own rate by wall time, {share['cpu']:.0%} by CPU",
            f"time. Scaled decoding takes 1/{decoding:.1f} of the CPU time of full decoding; with it the",
            f"whole stage in int8 is {gain['wall']:.1f} times as fast by wall time and {gain['cpu']:.1f} times by CPU time;",
            f"at `--size 64`, where decoding dominates, {gain_small['wall']:.1f} and {gain_small['cpu']:.1f} times.",
            "At 150 pixels, pictures then differ by",
            f"{np.abs(scaled.astype(int) - full).mean():.2f} grey levels on average, features by "
            f"{np.linalg.norm(ours - exact) / np.linalg.norm(exact):.2%} (relative norm).",
        ]
    )


def make_photos(folder: Path) -> list[Path]:
    """Lay the demo's photographs out as mosaics, no two alike."""
    tiles = [Image.open(path).convert("RGB") for path, _ in demo_images()[:400]]
    random = np.random.default_rng(0)
    files = []
    for number in range(PHOTOS):
        photo = Image.new("RGB", (WIDTH, HEIGHT))
        for left in range(0, WIDTH, TILE):
            for top in range(0, HEIGHT, TILE):
                photo.paste(tiles[random.integers(len(tiles))], (left, top))
        files.append(folder / f"{number:03}.jpg")
        photo.save(files[-1], quality=90)
    return files


def both(wall: dict, cpu: dict) -> list[tuple[str, dict]]:
    """Name the two kinds of time."""
    return [("wall", wall), ("cpu", cpu)]


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """Return the median over the rounds of one contender's time over another's."""
    return statistics.median(a / b for a, b in zip(times[one], times[other]))
