"""Which network, size and rows suit a data set: networks on this machine, on a sample."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.backbones.choices import EVERY_LAYER, LAYERS
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import BACKBONES, make_recipe
from pipeline.backbones.running import load_backbone
from pipeline.classification.in_memory import RowsInMemory, read_variants
from pipeline.classification.task import Task
from pipeline.classification.variants import ViewedRows
from pipeline.data.dataset import Dataset, Quarantined
from pipeline.data.digests import CACHE, read_image
from pipeline.data.loading import load_dataset
from pipeline.errors import WeightsError
from pipeline.evaluation.metrics import Metrics
from pipeline.evaluation.protocol import Protocol, in_most_folds, most_folds
from pipeline.features.extractor import Extractor, extract
from pipeline.heads.registry import get_head
from pipeline.runs.listener import RunListener

_IMAGES = 600  # by which accuracy is known to some 3 points, in seconds
_TIMED = 64  # pictures, which take a second or so
_LARGER = 4 / 3  # of the default side; so a picture costs not quite twice as much
_WORTH = 0.01  # a gain in accuracy below which cost decides
_HEAD = "rbf-svm"


@dataclass(frozen=True)
class Suited:
    """How well a network's rows tell the classes of a data set apart, and what they cost.

    Attributes
    ----------
    backbone : str
        Name of the network.
    size : int
        Side of its square input, in pixels.
    pool : str
        ``"flatten"``, ``"average"`` or ``"layers"``.
    metrics : Metrics
        By nested cross-validation of a support vector machine on a sample of the images, in 5
        folds, or 3 or 4 where a class has too few images for 5.
    images_per_second : float
        How many pictures the network takes in a second of one CPU core.
    skipped : tuple of Quarantined
        Files that cannot be used.
    """

    backbone: str
    size: int
    pool: str
    metrics: Metrics
    images_per_second: float
    skipped: tuple[Quarantined, ...] = ()

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return f"{self.backbone} at {self.size} pixels"


def compare_backbones(
    data: str | Path | Dataset,
    *,
    cache: str | Path = CACHE,
    seed: int = 0,
    listener: RunListener | None = None,
) -> list[Suited]:
    """Compare all networks whose weights are on this machine, on a seeded sample of the images.

    Each is tried at its default size, and at one a third larger along each side.

    Parameters
    ----------
    data : str, Path or Dataset
        As for `pipeline.classify`.
    cache : str or Path
        Where rows are kept.
    seed : int
        Decides the sample and the folds.
    listener : RunListener, optional
        Told how far the work is.

    Returns
    -------
    list of Suited
        The most accurate first.

    Raises
    ------
    PipelineError
        No network is on this machine, or the images cannot be read or are too few.
    """
    dataset = data if isinstance(data, Dataset) else load_dataset(data, seed=seed, cache=cache)
    dataset = _sample(dataset, seed).all_in("train")  # each is learned from, and tested on
    most_folds(dataset, seed)  # too few images are an error before the work
    names = [name for name, network in BACKBONES.items() if network.is_here]
    if not names:
        raise WeightsError("no network's weights are on this machine.", fix="pipeline backbones")
    suited = []
    for name, size in [(network, size) for network in names for size in sizes_of(network)]:
        extractor = Extractor(make_recipe(name, size=size), cache=cache, layers=True)
        extraction = extract(dataset, extractor=extractor, hold=True, listener=listener)
        rate = _rate(extractor, extraction.dataset)
        for rows in read_variants(extraction, None):
            pool = LAYERS if rows.recipe.layer in EVERY_LAYER else rows.pools[0]
            task = _task(extraction.dataset.all_in("test"), extraction.recipe, rows, seed)
            result = RowsInMemory(task).judge(get_head(_HEAD))
            skipped = extraction.dataset.quarantined
            suited.append(Suited(name, size, pool, result.test, rate, skipped))
    return sorted(suited, key=lambda each: -each.metrics.accuracy)


def cheapest_of_the_best(suited: Sequence[Suited]) -> Suited | None:
    """Return the cheapest of those nearly as accurate as the best; None where that guesses."""
    if suited[0].metrics.accuracy_low <= suited[0].metrics.guessing:
        return None
    gaps = [suited[0].metrics.accuracy - each.metrics.accuracy for each in suited]
    near = [each for each, gap in zip(suited, gaps) if round(gap, 6) <= _WORTH]
    return max(near, key=lambda each: each.images_per_second)


def advise(suited: Sequence[Suited]) -> str:
    """Say in a sentence which network to take, at which size."""
    best, cheapest = suited[0], cheapest_of_the_best(suited)
    if cheapest is None:
        return (
            "None of these is clearly better than always naming the most common class "
            f"({best.metrics.guessing:.3f}), so none is proposed: add images, or correct labels "
            "that are wrong."
        )
    if cheapest.title == best.title:
        others = [each for each in suited if each.title != best.title]
        close = any(each.metrics.accuracy >= best.metrics.accuracy_low for each in others)
        noise = " Another comes within its interval, so this may be chance." if close else ""
        return f"{best.title} is the most accurate here.{noise}"
    share = best.images_per_second / cheapest.images_per_second
    return (
        f"{cheapest.title} is within a point of {best.title}, the most accurate here, for "
        f"{share:.0%} of its CPU time."
    )


def sizes_of(name: str) -> tuple[int, int]:
    """Return the sizes that a network is tried at: 224 and 300 pixels, say."""
    default = BACKBONES[name].default_size
    return default, 10 * round(_LARGER * default / 10)


def _task(dataset: Dataset, recipe: Recipe, rows: ViewedRows, seed: int) -> Task:
    """Put rows together for 5 folds, or fewer: near-duplicates of these rows share a fold."""

    def task(folds: int) -> Task:
        return Task(dataset, (recipe,), Protocol(cv=folds), seed, variants=[rows])

    return in_most_folds(task)


def _sample(dataset: Dataset, seed: int) -> Dataset:
    """Take some of the images, of each class in its share, and at least ten where it has them."""
    labels, rng = dataset.targets.labels, np.random.default_rng(seed)
    chosen = []
    for label in range(len(dataset.classes)):
        places = np.flatnonzero(labels == label)
        share = max(10, round(_IMAGES * len(places) / len(dataset)))
        chosen.append(rng.permutation(places)[:share])
    return dataset.take(np.sort(np.concatenate(chosen)))


def _rate(extractor: Extractor, dataset: Dataset) -> float:
    """Measure how many pictures a network takes in a second of CPU time, once it is loaded."""
    recipe = extractor.recipe
    forward = load_backbone(recipe, extractor.weights, beside=extractor.recipes[1:])
    content, _ = read_image(dataset.paths[0])
    pixels = np.stack([recipe.decode(content)] * _TIMED)
    forward(pixels[:8])  # the first call compiles
    started = time.process_time()
    forward(pixels)
    return _TIMED / (time.process_time() - started)
