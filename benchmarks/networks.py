"""VGG16 or EfficientNet-Lite0, the last layer or every layer: accuracy on test, and what it costs."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy import with_interval
from benchmarks.commands import run_command
from benchmarks.race import race_files
from benchmarks.trials import (
    FEW,
    FEW_CLASSES,
    HEADS,
    LEAVES,
    NETWORKS,
    SEEDS,
    Tried,
    accuracies,
    best_head,
    chosen,
    clipart_classes,
    few_cliparts,
    four_classes,
    judge,
    rows_of,
    try_all,
)
from pipeline import Extractor, extract, load_dataset, make_recipe
from pipeline.backbones.choices import EVERY_LAYER
from pipeline.data.demo import demo_images
from pipeline.runs.run import Result

TITLE = "Which network: VGG16 or EfficientNet-Lite0, the last layer or every layer"
VGG16, LITE0 = NETWORKS
DENSE = ("logistic", "dense", "textbook-dense")
IMAGES, ROUNDS = 256, 5
GET_CLIPARTS = "not measured: `apt-get download openclipart-png`, `dpkg -x` it, and name `--cliparts FOLDER/usr/share/openclipart/png`"


@dataclass(frozen=True)
class Figure:
    """A row of the table: what was asked for, and what came of it."""

    what: str
    asked: str
    reached: str
    met: bool | None = None

    def __str__(self) -> str:
        verdict = {True: "yes", False: "**no**", None: ""}[self.met]
        return f"| {self.what} | {self.asked} | {self.reached} | {verdict} |"


def measure(cliparts: str | None = None, cache: str | None = None) -> str:
    """Measure what each network costs, then how accurate classifiers on its rows are.

    Parameters
    ----------
    cliparts : str, optional
        The folder of the package's pictures, which is a second data set.
    cache : str, optional
        Where rows are kept that accuracy is measured on; the default is made anew. Costs
        are always of rows that are made anew.
    """
    with tempfile.TemporaryDirectory() as folder:
        new = f"{folder}/cache"
        on_layers = ("--head", "rbf-svm", "--pool", "layers")
        cpu = {
            network: command("classify", "demo", "--backbone", network, *on_layers, cache=new)[0]
            for network in NETWORKS
        }
        cache = cache or new
        demo = try_all("demo", cache)
        four = try_all(four_classes(Path(folder)), cache)
        sizes = {network: bytes_an_image(network, new) for network in NETWORKS}
        figures = [
            *of_accuracy(demo, four, cpu),
            *of_extraction(),
            *(
                Figure(f"rows of all layers on disk, {title}", "≤ 20 kB an image", *size)
                for title, size in zip(NETWORKS.values(), sizes.values())
            ),
            of_search(cache),
        ]
        tables = [("the demo, two classes", demo), ("the demo, four classes", four)]
        if cliparts:
            pictures = clipart_classes(Path(cliparts), Path(folder))
            tables.append((f"cliparts, {len(LEAVES)} classes", try_all(pictures, cache)))
            figures.append(of_dense(Path(cliparts), Path(folder), cache))
        else:
            figures.append(
                Figure(f"`dense`, {FEW} cliparts of each of 7 classes", "", GET_CLIPARTS)
            )
    return "\n".join([*asked_and_reached(figures), "", *by_head(tables)])


def asked_and_reached(figures: Sequence[Figure]) -> list[str]:
    """Write the first table."""
    return [
        f"Accuracy on test: mean over {len(SEEDS)} seeds, each with splits of its own, and 95 % interval of that mean. CPU",
        "time is that of whole commands, starting up included, or of passes in turn in processes that have loaded",
        f"their network ({IMAGES} photographs of the demo, median of {ROUNDS} rounds); bfloat16. The machine's load was",
        f"{os.getloadavg()[2]:.1f} on {os.cpu_count()} cores, this included, so wall time is not what an idle machine takes.",
        "",
        "| | asked for | measured | reached |",
        "|---|---|---|---|",
        *map(str, figures),
    ]


# Accuracy


def by_head(tables: Sequence[tuple[str, Tried]]) -> list[str]:
    """Write the second table: each head's accuracy, and that of what validation chooses."""
    lines = [
        "Accuracy on test by rows and head, means as above. Chosen: for each seed the head with the lowest log loss on",
        "validation; on several kinds of rows, head and rows.",
        "",
        f"| data | rows | {' | '.join(HEADS)} | chosen |",
        f"|---|---|{'---|' * len(HEADS)}---|",
    ]
    for data, tried in tables:
        for (network, kind), of_heads in tried.items():
            cells = [f"{statistics.mean(accuracies(of_heads[head])):.3f}" for head in HEADS]
            layer = "every layer" if kind == "layers" else f"last layer, {kind}"
            lines.append(
                f"| {data} | {NETWORKS[network]}, {layer} | {' | '.join(cells)} "
                f"| {with_interval(chosen(of_heads))} |"
            )
        several = {
            **{f"{title}, both": kinds(tried, network) for network, title in NETWORKS.items()},
            "both networks, both": list(tried.values()),
        }
        lines += [
            f"| {data} | {rows} | {' | ' * len(HEADS)}{with_interval(chosen(*of_rows))} |"
            for rows, of_rows in several.items()
        ]
    return lines


def kinds(tried: Tried, network: str) -> list[dict[str, list[Result]]]:
    """Give the results on both kinds of a network's rows."""
    return [by_head for (name, _), by_head in tried.items() if name == network]


def of_accuracy(demo: Tried, four: Tried, cpu: Mapping[str, float]) -> list[Figure]:
    """Compare accuracies with what was asked for."""

    def accuracy(what: str, tried: Mapping[str, list[Result]], asked: float | None) -> Figure:
        values, (head, best) = chosen(tried), best_head(tried)
        met = None if asked is None else statistics.mean(values) >= asked
        text = (
            f"{with_interval(values)} as chosen on validation; {head} alone {with_interval(best)}"
        )
        return Figure(what, "" if asked is None else f"≥ {asked:.3f}", text, met)

    last = next(kind for network, kind in demo if network == VGG16 and kind != "layers")
    share = cpu[LITE0] / cpu[VGG16]
    return [
        accuracy("best frozen head, VGG16@150, last layer", demo[VGG16, last], None),
        accuracy("best frozen head, VGG16@150, all layers", demo[VGG16, "layers"], 0.870),
        accuracy("best frozen head, EfficientNet-Lite0, all layers", demo[LITE0, "layers"], 0.880),
        Figure(
            "`classify demo --head rbf-svm --pool layers`, empty cache: CPU time of Lite0 against VGG16@150",
            "≤ 1/4",
            f"{share:.2f} ({cpu[LITE0]:.0f} and {cpu[VGG16]:.0f} CPU s)",
            share <= 0.25,
        ),
        accuracy("four classes, VGG16@150, last layer", four[VGG16, last], None),
        accuracy("four classes, VGG16@150, all layers", four[VGG16, "layers"], None),
        accuracy("four classes, Lite0, all layers", four[LITE0, "layers"], 0.80),
    ]


# Cost


def command(*arguments: str, cache: str) -> tuple[float, float, str]:
    """Run `pipeline` with a cache; give CPU seconds, seconds and what it printed."""
    with tempfile.TemporaryDirectory() as runs:
        where = ["--cache", cache, *(["--runs", runs] if arguments[0] == "classify" else [])]
        return run_command(*arguments, *where)


def bytes_an_image(network: str, cache: str) -> tuple[str, bool]:
    """Say how much the rows of every layer take on disk."""
    extraction = extract(
        "demo", extractor=Extractor(make_recipe(network), cache=cache, layers=True)
    )
    [store] = [s for s in extraction.plan.stores["none"].stores if s.recipe.layer in EVERY_LAYER]
    size = sum(file.stat().st_size for file in store.folder.iterdir()) / len(extraction.dataset)
    return f"{size / 1000:.1f} kB", size <= 20_000


def of_extraction() -> list[Figure]:
    """Let both networks go through the same photographs, for one kind of rows and for both."""
    files = [path for path, _ in demo_images()[:: 2624 // IMAGES]][:IMAGES]
    kinds = ("last", "both", "alone", "decoding")
    names = [f"{kind}-{network}" for kind in kinds for network in NETWORKS]
    _, cpu = race_files(names, files, ROUNDS)

    def times(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(cpu[one], cpu[other]))

    def rate(name: str) -> float:
        return IMAGES / statistics.median(cpu[name])

    both, faster = times(f"both-{VGG16}", f"last-{VGG16}"), times(f"both-{VGG16}", f"both-{LITE0}")
    lite, share = times(f"both-{LITE0}", f"last-{LITE0}"), times(f"alone-{LITE0}", f"both-{LITE0}")
    rates = f"{rate(f'both-{LITE0}'):.0f} and {rate(f'both-{VGG16}'):.0f} images per CPU-second"
    alone = times(f"last-{VGG16}", f"last-{LITE0}")
    network, decoding = (
        statistics.median(cpu[f"{kind}-{LITE0}"]) / IMAGES for kind in ("alone", "decoding")
    )
    of_vgg16 = statistics.median(cpu[f"both-{VGG16}"]) / IMAGES
    bound = of_vgg16 / (network + decoding)
    return [
        Figure(
            "extraction of both kinds of rows against the last layer's, VGG16",
            "≤ 1.10 times",
            f"{both:.2f} times the CPU time",
            both <= 1.1,
        ),
        Figure("the same, EfficientNet-Lite0", "", f"{lite:.2f} times"),
        Figure(
            "whole stage, EfficientNet-Lite0@224 against VGG16@150",
            "≥ 8 times",
            f"{faster:.1f} times ({rates}; both kinds of rows), {alone:.1f} times (last layer alone); "
            f"the network and Pillow's decoding alone would be {bound:.1f} times as fast",
            faster >= 8,
        ),
        Figure(
            "share of the network's own rate that the whole stage keeps, Lite0",
            "≥ 80 %",
            f"{share:.0%} of CPU time (network alone, pixels in memory: {rate(f'alone-{LITE0}'):.0f} images per CPU-second); "
            f"with Pillow's decoding alone it would keep {network / (network + decoding):.0%}",
            share >= 0.8,
        ),
    ]


def of_search(cache: str) -> Figure:
    """Search all heads' grids on the last layer's rows, and on both kinds."""
    pools = (("--pool", "flatten"), ("--pool", "flatten", "--pool", "layers"))
    one, both = (command("classify", "demo", "--search", *pool, cache=cache)[0] for pool in pools)
    return Figure(
        "`classify demo --search`, all nine heads, both kinds of rows against flat ones, VGG16",
        "≤ 1.3 times",
        f"{both / one:.2f} times ({both:.0f} and {one:.0f} CPU s)",
        both <= 1.3 * one,
    )


def of_dense(cliparts: Path, folder: Path, cache: str) -> Figure:
    """Compare `dense` with `logistic` where images are few and classes several."""
    losses: dict[str, list[float]] = {head: [] for head in DENSE}
    for seed in SEEDS:
        pictures = few_cliparts(cliparts, folder, seed)
        _, rows, skipped = rows_of(pictures, VGG16, cache)[0]
        dataset = load_dataset(pictures, seed=seed, cache=cache).without(skipped)
        for head in DENSE:
            losses[head].append(judge(head, dataset, rows, seed).test.log_loss)
    ratio = statistics.mean(losses["dense"]) / statistics.mean(losses["logistic"])
    means = ", ".join(f"{head} {with_interval(values, 2)}" for head, values in losses.items())
    return Figure(
        f"`dense` on {FEW} images of each of {FEW_CLASSES} classes, VGG16, last layer: log loss against logistic's",
        "≤ 2 times",
        f"{ratio:.2f} times ({means}; cliparts, drawn anew for each seed)",
        ratio <= 2,
    )
