"""Which size of pictures: a network's default, or one up to a third larger along each side."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.accuracy import with_interval
from benchmarks.commands import run_command
from benchmarks.networks import Figure, asked_and_reached
from benchmarks.trials import (
    LEAVES,
    NETWORKS,
    SEEDS,
    Accuracies,
    accuracies,
    clipart_classes,
    four_classes,
    judge,
    rows_of,
)
from pipeline import load_dataset
from pipeline.classification.networks import sizes_of

TITLE = "Which size of pictures"
HEAD = "rbf-svm"
VGG16, LITE0 = ("vgg16", 150), ("efficientnet-lite0", 224)
MIDDLE = ("efficientnet-lite0", 240)  # as accurate as was asked for, and less costly than 300

Network = tuple[str, int]
Rows = tuple[str, int, str]
"""A network, a size, and "layers" or a pooling of the last."""
Tried = Mapping[Rows, Accuracies]


def measure(cliparts: str | None = None) -> str:
    """Measure accuracy and cost of each network at each size that `backbones` tries, and another.

    Parameters
    ----------
    cliparts : str, optional
        The folder of the package's pictures, which is a second data set.
    """
    networks = [(name, size) for name in NETWORKS for size in sizes_of(name)]
    networks.insert(networks.index(LITE0) + 1, MIDDLE)
    with tempfile.TemporaryDirectory() as folder:
        cost = {network: seconds_of(network, folder) for network in networks}
        data = {"the demo, two classes": "demo", "four classes": four_classes(Path(folder))}
        if cliparts:
            pictures = clipart_classes(Path(cliparts), Path(folder))
            data[f"{len(LEAVES)} kinds of cliparts"] = pictures
        tried = {title: try_all(each, networks, folder) for title, each in data.items()}
        figures = [
            *of_accuracy(tried["the demo, two classes"], tried["four classes"]),
            of_cost(cost),
            of_advice(tried["the demo, two classes"], folder),
        ]
    return "\n".join([*asked_and_reached(figures), "", *by_size(tried, cost)])


def seconds_of(network: Network, folder: str) -> float:
    """Return the CPU seconds of `pipeline features demo` with an empty cache, which is then full."""
    name, size = network
    options = ("--backbone", name, "--size", str(size), "--cache", f"{folder}/cache")
    return run_command("features", "demo", *options)[0]


def try_all(data: str, networks: list[Network], folder: str) -> Tried:
    """Fit and judge the head on both kinds of rows, on the splits of every seed."""
    cache, tried = f"{folder}/cache", dict[Rows, Accuracies]()
    for name, size in networks:
        for kind, rows, skipped in rows_of(data, name, cache, size):
            datasets = [
                load_dataset(data, seed=seed, cache=cache).without(skipped) for seed in SEEDS
            ]
            results = [judge(HEAD, each, rows, seed) for seed, each in zip(SEEDS, datasets)]
            tried[name, size, kind] = accuracies(results)
    return tried


def of_accuracy(two: Tried, four: Tried) -> list[Figure]:
    """Compare the accuracies of every layer's rows with what was asked for."""
    name, size = MIDDLE
    figures = []
    for what, tried, asked in (("the demo", two, 0.880), ("four classes", four, 0.80)):
        values = tried[name, size, "layers"]
        title = f"best frozen head, {name} at {size} pixels, all layers, {what}"
        met = statistics.mean(values) >= asked
        figures.append(Figure(title, f"≥ {asked:.3f}", f"{with_interval(values)} {HEAD}", met))
    return figures


def of_cost(cost: Mapping[Network, float]) -> Figure:
    """Compare the CPU time of stage one with that of VGG16."""
    share = cost[MIDDLE] / cost[VGG16]
    return Figure(
        f"`pipeline features demo`, empty cache: CPU time at {MIDDLE[1]} pixels against VGG16@150",
        "≤ 1/4",
        f"{share:.2f} ({cost[MIDDLE]:.0f} and {cost[VGG16]:.0f} CPU s)",
        share <= 0.25,
    )


def of_advice(tried: Tried, folder: str) -> Figure:
    """Time `pipeline backbones demo`, and compare what is first there with the best."""
    cache = f"{folder}/advice"
    cpu, seconds, printed = run_command("backbones", "demo", "--json", "--cache", cache)
    first = json.loads(printed)[0]
    means = {rows: statistics.mean(values) for rows, values in tried.items()}
    advised = first["backbone"], first["size"], first["pool"]
    distance = 100 * (max(means.values()) - means[advised])
    return Figure(
        "`pipeline backbones demo`",
        "within 0.5 points of the best, ≤ 60 s",
        f"first is {first['backbone']} at {first['size']} pixels, {first['pool']}: {distance:.1f} points below the best "
        f"({HEAD}, all images); {seconds:.0f} s, {cpu:.0f} CPU s",
        distance <= 0.5 and seconds <= 60,
    )


def by_size(tried: Mapping[str, Tried], cost: Mapping[Network, float]) -> list[str]:
    """Write the second table: accuracy by size and rows, and what a pass costs."""
    lines = [
        f"{HEAD}, on every layer's rows and (in brackets) on the last's. Cost: `pipeline features demo`, an empty cache, starting up included.",
        "",
        f"| network | pixels | {' | '.join(tried)} | CPU s |",
        f"|---|---|{'---|' * len(tried)}---|",
    ]
    for (name, size), seconds in cost.items():
        cells = []
        for each in tried.values():
            last = next(
                v for rows, v in each.items() if rows[:2] == (name, size) and rows[2] != "layers"
            )
            cells.append(
                f"{with_interval(each[name, size, 'layers'])} ({statistics.mean(last):.3f})"
            )
        lines.append(f"| {name} | {size} | {' | '.join(cells)} | {seconds:.0f} |")
    return lines
