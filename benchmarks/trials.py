"""Classifiers on both kinds of rows of both networks with real weights, on several data sets."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline import Dataset, Extractor, Protocol, extract, load_dataset, make_recipe
from pipeline.backbones.choices import EVERY_LAYER
from pipeline.classification.in_memory import RowsInMemory, read_variants
from pipeline.classification.task import Task
from pipeline.classification.variants import ViewedRows
from pipeline.data.demo import demo_images
from pipeline.heads.registry import get_head
from pipeline.runs.run import Result

SEEDS = range(8)
NETWORKS = {"vgg16": "VGG16 at 150 pixels", "efficientnet-lite0": "EfficientNet-Lite0 at 224"}
HEADS = ("logistic", "ridge", "lda", "linear-svm", "rbf-svm")
FEW_CLASSES, FEW = 7, 60
LEAVES = (
    "animals/birds",
    "animals/bugs",
    "animals/mammals",
    "buildings/homes",
    "computer/hardware",
    "food/beverages",
    "food/desserts",
    "food/fruit",
    "office",
    "people/bodypart",
    "people/smilies",
    "plants/flowers",
    "recreation/music",
    "recreation/sports",
    "recreation/toys",
    "shapes/arrows",
    "tools",
    "tools/weapons",
    "transportation/boating",
    "transportation/vehicles",
)

Accuracies = list[float]
Tried = dict[tuple[str, str], dict[str, list[Result]]]
"""Results by network and kind of rows ("layers" or a pooling of the last), by head, by seed."""


def try_all(data: str, cache: str) -> Tried:
    """Fit and judge all heads on all rows, on the splits of every seed; rows are read once."""
    tried: Tried = {}
    for network in NETWORKS:
        for kind, rows, skipped in rows_of(data, network, cache):
            for seed in SEEDS:
                dataset = load_dataset(data, seed=seed, cache=cache).without(skipped)
                for head in HEADS:
                    result = judge(head, dataset, rows, seed)
                    tried.setdefault((network, kind), {}).setdefault(head, []).append(result)
    return tried


def rows_of(
    data: str, network: str, cache: str, size: int | None = None
) -> list[tuple[str, ViewedRows, tuple]]:
    """Make a network's rows, and read them: of its last layer, and of every layer."""
    extractor = Extractor(make_recipe(network, size=size), cache=cache, layers=True)
    extraction = extract(data, extractor=extractor, hold=True)
    return [
        (
            "layers" if rows.recipe.layer in EVERY_LAYER else rows.pools[0],
            rows,
            extraction.dataset.quarantined,
        )
        for rows in read_variants(extraction, None)
    ]


def judge(head: str, dataset: Dataset, rows: ViewedRows, seed: int) -> Result:
    """Choose a head's parameters on validation, and judge it on test, as `classify` does."""
    protocol = Protocol()
    judged = protocol.judged(protocol.check(dataset))
    task = Task(judged, (rows.recipe,), protocol, seed, variants=[rows])
    return RowsInMemory(task).judge(get_head(head))


def chosen(*tried: Mapping[str, list[Result]]) -> Accuracies:
    """Give the accuracy of what has the lowest log loss on validation, for each seed."""
    by_seed = zip(*(results for by_head in tried for results in by_head.values()))
    best = (min(results, key=lambda result: result.validation.log_loss) for results in by_seed)
    return [result.test.accuracy for result in best]


def accuracies(results: Sequence[Result]) -> Accuracies:
    """Give the accuracy on test for each seed."""
    return [result.test.accuracy for result in results]


def best_head(tried: Mapping[str, list[Result]]) -> tuple[str, Accuracies]:
    """Give the head with the highest mean accuracy on test."""
    by_head = {head: accuracies(results) for head, results in tried.items()}
    return max(by_head.items(), key=lambda each: statistics.mean(each[1]))


def four_classes(folder: Path) -> str:
    """Take the defect probabilities that experts gave the demo's photographs as classes."""
    source = demo_images()[0][0].parents[1] / "labels.csv"
    with source.open(newline="") as file:
        rows = list(csv.reader(file, delimiter=" ", skipinitialspace=True))
    return write_csv(
        folder / "four.csv", [(source.parent / p, f"p{float(y):.2f}") for p, y, *_ in rows]
    )


def clipart_classes(cliparts: Path, folder: Path) -> str:
    """Take the pictures of some folders, each a class, without those in folders below."""
    files = [(file, leaf) for leaf in LEAVES for file in sorted((cliparts / leaf).glob("*.png"))]
    return write_csv(folder / "cliparts.csv", files)


def few_cliparts(cliparts: Path, folder: Path, seed: int) -> str:
    """Draw some of the classes that have enough pictures, and so many pictures of each."""
    rng = np.random.default_rng(seed)
    by_leaf = {leaf: sorted((cliparts / leaf).glob("*.png")) for leaf in LEAVES}
    enough = [leaf for leaf, files in by_leaf.items() if len(files) >= FEW]
    drawn = rng.choice(enough, FEW_CLASSES, replace=False).tolist()
    files = [
        (file, leaf) for leaf in drawn for file in rng.choice(by_leaf[leaf], FEW, replace=False)
    ]
    return write_csv(folder / f"few-{seed}.csv", files)


def write_csv(file: Path, rows: Sequence[tuple[Path, str]]) -> str:
    """Write a data set, and give its path."""
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label"), *rows])
    return str(file)
