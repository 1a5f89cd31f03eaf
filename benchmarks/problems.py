"""What `find_problems` finds on the demo of what was planted there, and what it names beside."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from benchmarks.accuracy import CACHE
from pipeline import Dataset, extract, load_dataset, make_recipe
from pipeline.analysis.duplicates import DuplicatePair, find_duplicates
from pipeline.analysis.labels import find_label_problems, out_of_fold
from pipeline.analysis.neighbours import find_neighbours
from pipeline.analysis.outliers import NEAREST, find_outliers
from pipeline.analysis.problems import find_problems
from pipeline.backbones.running import Forward, load_backbone
from pipeline.data.images import decode
from pipeline.features.extractor import Extractor
from pipeline.heads.registry import get_head

TITLE = "Problems of the data: errors planted in the demo, and how many are found"
RECIPE = make_recipe(precision="bfloat16")
FLIPPED, TOP = 0.03, 0.05
LABEL_SEEDS, COPY_SEEDS = range(10), range(5)
COPIES, STRANGE = 20, 5


def measure() -> str:
    """Plant wrong labels, copies and strange pictures, and count what is found."""
    backbone = load_backbone(RECIPE)
    dataset = load_dataset("demo")
    rows = extract(dataset, extractor=Extractor(RECIPE, cache=CACHE, forward=backbone)).rows()
    started = time.perf_counter()
    problems = find_problems(dataset, rows)
    seconds = time.perf_counter() - started
    return "\n".join(
        [
            *labels_section(dataset, rows),
            "",
            *copies_section(backbone, rows),
            "",
            *outliers_section(backbone, dataset, rows),
            "",
            f"All of it on the demo as it is took {seconds:.0f} s, and says:",
            "",
            *(f"- {sentence}" for sentence in problems.summary()),
        ]
    )


# Labels


def labels_section(dataset: Dataset, rows: np.ndarray) -> list[str]:
    """Flip labels at random, and see how many are high up in the list."""
    lines = [
        f"**Labels.** {FLIPPED:.0%} of the labels flipped at random, {len(LABEL_SEEDS)} seeds: the share of them",
        f"among the first {TOP:.0%} of the images, ranked by how badly their labels fit (by chance: {TOP:.0%}).",
        "",
        "| head | mean | least | most | flipped labels found likely wrong | other labels | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for head in ("rbf-svm", "logistic"):
        found = [flip(dataset, rows, head, seed) for seed in LABEL_SEEDS]
        top, likely, others, seconds = zip(*found)
        lines.append(
            f"| {head} | {statistics.mean(top):.3f} | {min(top):.3f} | {max(top):.3f} "
            f"| {statistics.mean(likely):.0%} | {statistics.mean(others):.0%} "
            f"| {statistics.median(seconds):.1f} |"
        )
    return lines


def flip(
    dataset: Dataset, rows: np.ndarray, head: str, seed: int
) -> tuple[float, float, float, float]:
    """Flip labels; give the shares found at the top, of the flipped and of the others, and time."""
    count = len(dataset)
    flipped = np.random.default_rng(seed).choice(count, round(FLIPPED * count), replace=False)
    labels = dataset.targets.labels.copy()
    labels[flipped] = 1 - labels[flipped]
    started = time.perf_counter()
    p = out_of_fold(rows, labels, get_head(head).build, classes=2, seed=seed)
    suspects = find_label_problems(labels, p).suspects
    seconds = time.perf_counter() - started
    top = [suspect.place for suspect in suspects[: int(TOP * count)]]
    likely = [suspect.place for suspect in suspects if suspect.likely]
    hits = np.isin(likely, flipped).sum()
    return (
        np.isin(flipped, top).mean(),
        hits / len(flipped),
        (len(likely) - hits) / (count - len(flipped)),
        seconds,
    )


# Copies


def copies_section(backbone: Forward, rows: np.ndarray) -> list[str]:
    """Put copies of test images into training, and see which are named."""
    planted = [plant_copies(backbone, rows, seed) for seed in COPY_SEEDS]
    kinds = planted[0][0]
    lines = [
        f"**Copies.** Of test images into training, {COPIES} of each kind, {len(COPY_SEEDS)} seeds with splits of their",
        "own. The images that the thresholds were set with are left out. Found means paired with the original.",
        "",
        "| copies | found | of |",
        "|---|---|---|",
    ]
    for kind in kinds:
        named = sum(found[kind] for found, _ in planted)
        lines.append(
            f"| {kind} | {named / COPIES / len(COPY_SEEDS):.0%} | {COPIES * len(COPY_SEEDS)} |"
        )
    alarms = [
        f"{statistics.mean(shares[where] for _, shares in planted):.2%} {where}"
        for where in planted[0][1]
    ]
    return [
        *lines,
        "",
        "Of the other images these were found too, by mistake or because the demo has such pairs itself: "
        + ", ".join(alarms)
        + ".",
    ]


def plant_copies(
    backbone: Forward, rows: np.ndarray, seed: int
) -> tuple[dict[str, int], dict[str, float]]:
    """Give how many copies of each kind were named, and which shares of the other images."""
    rng = np.random.default_rng(seed)
    dataset = load_dataset("demo", seed=seed)
    makers: dict[str, Callable[[Image.Image], Image.Image]] = {
        "the same bytes": lambda image: image,
        "PNG, saved anew": lambda image: image,
        "JPEG, quality 60 to 95": lambda image: jpeg(image, int(rng.integers(60, 96))),
        "resized by 0.5 to 2, PNG": lambda image: resized(image, 2 ** rng.uniform(-1, 1)),
        "resized, then JPEG": lambda image: jpeg(
            resized(image, 2 ** rng.uniform(-1, 1)), int(rng.integers(60, 96))
        ),
    }
    set_with = np.random.default_rng(0).choice(len(dataset), 250, replace=False)
    free = np.setdiff1d(dataset.where("test"), set_with)
    originals = rng.choice(free, (len(makers), COPIES), replace=False)
    images = [
        make(open_image(dataset.paths[place]))
        for make, places in zip(makers.values(), originals)
        for place in places
    ]
    count = len(dataset)
    planted = originals.ravel()
    digests = [
        dataset.digests[place] if number < COPIES else b"copy %d" % number
        for number, place in enumerate(planted)
    ]
    more = features(backbone, images)
    more[:COPIES] = rows[planted[:COPIES]]
    everything = {
        "rows": np.concatenate([rows, more]),
        "digests": (*dataset.digests, *digests),
        "labels": np.concatenate([dataset.targets.labels, dataset.targets.labels[planted]]),
        "splits": np.concatenate([dataset.splits, np.repeat("train", len(planted))]),
    }
    duplicates = find_duplicates(**everything)
    named = {frozenset((pair.first, pair.second)) for pair in duplicates.across}
    copies = np.arange(count, count + len(planted)).reshape(originals.shape)
    found = {
        kind: sum(frozenset(pair) in named for pair in zip(*places))
        for kind, *places in zip(makers, originals.tolist(), copies.tolist())
    }
    rest = np.setdiff1d(np.arange(count), planted)
    return found, {
        "in all": share(duplicates.pairs, rest),
        "across splits": share(duplicates.across, rest),
    }


def share(pairs: tuple[DuplicatePair, ...], rest: np.ndarray) -> float:
    """Give the share of some images that are named in any pair."""
    named = [place for pair in pairs for place in (pair.first, pair.second)]
    return float(np.isin(rest, named).mean())


# Outliers


def outliers_section(backbone: Forward, dataset: Dataset, rows: np.ndarray) -> list[str]:
    """Put strange pictures among the functional cells, and see which are named."""
    rng = np.random.default_rng(0)
    makers: dict[str, Callable[[Image.Image], Image.Image]] = {
        "inverted": ImageOps.invert,
        "half covered in black": half_covered,
        "blurred beyond recognition": lambda image: image.filter(ImageFilter.GaussianBlur(15)),
        "noise": lambda image: Image.fromarray(rng.integers(0, 256, (300, 300)).astype(np.uint8)),
    }
    label = dataset.classes.index("functional")
    labels = np.append(dataset.targets.labels, [label] * len(makers))
    named = dict.fromkeys(makers, 0)
    for place in rng.choice(
        np.flatnonzero(dataset.targets.labels == label), STRANGE, replace=False
    ):
        image = open_image(dataset.paths[place])
        more = features(backbone, [make(image) for make in makers.values()])
        [nearest] = find_neighbours(np.concatenate([rows, more]), NEAREST, among=[labels])
        found = {outlier.place for outlier in find_outliers(labels, nearest)}
        for number, kind in enumerate(makers):
            named[kind] += len(dataset) + number in found
    [nearest] = find_neighbours(rows, NEAREST, among=[dataset.targets.labels])
    alone = find_outliers(dataset.targets.labels, nearest)
    return [
        f"**Outliers.** {len(alone)} of the demo's own images are found. Strange pictures among the functional",
        f"cells, {STRANGE} of each kind, are found as follows: "
        + ", ".join(f"{kind} {count}" for kind, count in named.items())
        + ".",
    ]


# Pictures


def features(backbone: Forward, images: list[Image.Image]) -> np.ndarray:
    """Run pictures through the network, as stage one would."""
    pixels = [decode(encoded(image), RECIPE.size) for image in images]
    batches = [np.stack(pixels[start : start + 64]) for start in range(0, len(pixels), 64)]
    return np.concatenate([backbone(batch) for batch in batches])


def open_image(path) -> Image.Image:
    """Open a photograph of the demo, 300 x 300 grey pixels."""
    return Image.open(path).convert("L")


def encoded(image: Image.Image) -> bytes:
    """Save a picture as PNG."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Save a picture as JPEG, and open that."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("L")


def resized(image: Image.Image, by: float) -> Image.Image:
    """Scale a picture."""
    size = (round(image.width * by), round(image.height * by))
    return image.resize(size, Image.Resampling.LANCZOS)


def half_covered(image: Image.Image) -> Image.Image:
    """Cover the left half in black."""
    covered = image.copy()
    covered.paste(0, (0, 0, image.width // 2, image.height))
    return covered
