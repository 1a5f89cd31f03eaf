"""How many labels a classifier needs: those that Labelling asks for, against images drawn at random."""

from __future__ import annotations

import csv
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from pipeline import Extractor, extract, make_recipe
from pipeline.analysis.active_learning import NONE, ActiveLearner
from pipeline.analysis.reduction import reduced_rows
from pipeline.app.labelling import Labelling
from pipeline.data.demo import demo_images

TITLE = "Labelling: the images that are asked about, against images drawn at random"
SEEDS = range(10)
MOST = {"vgg16": 700, "efficientnet-lite0": 400}  # labels that are asked for
AIMS = (0.854, 0.865)
STEP = 20
SIZES = (10_000, 100_000)


@dataclass(frozen=True)
class Course:
    """Accuracy on the test images by the number of labels, and where it may stop."""

    accuracy: dict[int, float]
    stopped: int | None


def measure(cache: str | None) -> str:
    """Label the demo with a quarter of it as test images, by what the product asks and at random."""
    lines = [
        "A quarter of the demo are test images, other ones for each of "
        f"{len(SEEDS)} seeds; the others have no label. The classifier is the one that chooses. "
        "Labels until its mean accuracy is that high, and stays:",
        "",
        "| network | accuracy | labels, as asked for | at random | times fewer |",
        "|---|---|---|---|---|",
    ]
    stops = []
    for network, most in MOST.items():
        asked, random = zip(*(run(network, seed, cache or "cache") for seed in SEEDS))
        for aim in AIMS:
            few, many = needed(asked, aim), needed(random, aim)
            times = f"{many / few:.1f}" if few and many else "-"
            lines.append(
                f"| {network} | {aim} | {few or f'over {most}'} | {many or 'never'} | {times} |"
            )
        stops.append(stopping(network, asked, random))
    lines += [
        "",
        *stops,
        "",
        "| images | learning one answer, scoring all, judging 500 to 1,000 |",
        "|---|---|",
    ]
    lines += [
        f"| {size:,} | {1000 * answer_seconds(size, cache or 'cache'):.0f} ms |" for size in SIZES
    ]
    return "\n".join(lines)


def run(network: str, seed: int, cache: str) -> tuple[Course, Course]:
    """Label as the product asks, and at random."""
    images = demo_images()
    names = [label for _, label in images]
    _, test = train_test_split(
        range(len(images)), test_size=0.25, random_state=seed, stratify=names
    )
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "demo.csv"
        held = set(test)
        rows = [
            (path, label if at in held else "", "test" if at in held else "train")
            for at, (path, label) in enumerate(images)
        ]
        with given.open("w", newline="") as stream:
            csv.writer(stream).writerows([("path", "label", "split"), *rows])
        extractor = Extractor(make_recipe(network), cache=cache)
        labelling = Labelling(
            given, labels=Path(folder) / "labels.csv", extractor=extractor, seed=seed
        )
        truth = {str(path): label for path, label in images}
        right, stopped = {}, None
        for count in range(1, MOST[network] + 1):
            [question] = labelling.next()
            state = labelling.answer(question.place, truth[str(question.path)])
            stopped = stopped or (count if state.may_stop else None)
            if count % STEP == 0:
                right[count] = accuracy(
                    labelling._learner, labelling.dataset, truth, labelling.classes
                )
        asked = Course(right, stopped)
        dataset, classes = labelling.dataset, sorted(set(names))
        labels = np.array([classes.index(truth[str(path)]) for path in dataset.paths])
        order = np.random.default_rng(seed).permutation(dataset.where("train"))
        learner = ActiveLearner(labelling._learner._rows, np.arange(len(labels)), seed=seed)
        right = {}
        for start in range(0, len(order) - STEP, STEP):
            learner.learn(order[start : start + STEP], labels[order[start : start + STEP]])
            right[start + STEP] = accuracy(learner, dataset, truth, classes)
    return asked, Course(right, None)


def accuracy(learner, dataset, truth, classes) -> float:
    """Judge it on the test images."""
    test = dataset.where("test")
    predicted = learner.predicted()[test]
    return statistics.mean(
        classes[label] == truth[str(dataset.paths[place])] for place, label in zip(test, predicted)
    )


def needed(courses, aim: float) -> int | None:
    """Give the number of labels from which the mean accuracy of three steps is at least so high."""
    counts = sorted(set.intersection(*(set(course.accuracy) for course in courses)))
    means = [statistics.mean(course.accuracy[count] for course in courses) for count in counts]
    smooth = np.convolve(means, np.ones(3) / 3, mode="valid")
    reached = np.flatnonzero(smooth >= aim)
    return counts[int(reached[0]) + 1] if reached.size else None


def stopping(network: str, asked, random) -> str:
    """Say where it would have stopped, and what that costs."""
    stopped = [course.stopped for course in asked if course.stopped]
    everything = statistics.mean(max(course.accuracy.items())[1] for course in random)
    if not stopped:
        return f"With {network} it never said that one may stop, within {MOST[network]} labels. With all labels: {everything:.3f}."
    at = [
        course.accuracy[max(STEP, course.stopped // STEP * STEP)]
        for course in asked
        if course.stopped
    ]
    return (
        f"With {network} it said that one may stop after {min(stopped)} to {max(stopped)} labels "
        f"({len(stopped)} of {len(asked)} seeds), at an accuracy of {statistics.mean(at):.3f}; with all labels {everything:.3f}."
    )


def answer_seconds(size: int, cache: str) -> float:
    """Time what follows an answer, on rows like the demo's."""
    rng = np.random.default_rng(0)
    rows = extract("demo", extractor=Extractor(make_recipe("vgg16"), cache=cache, layers=None))
    reduced = reduced_rows(rows)
    many = np.resize(reduced, (size, reduced.shape[1]))
    many = many + rng.normal(0, reduced.std() / 10, many.shape).astype(np.float32)
    labels = np.resize(rows.dataset.targets.labels, size)
    learner = ActiveLearner(many, np.arange(size))
    order = rng.permutation(size)
    learner.learn(order[:500], labels[order[:500]])
    taken = []
    for place in order[500:550]:
        started = time.perf_counter()
        learner.learn(np.array([place]), labels[[place]])
        learner.unsure(np.flatnonzero(learner.labels == NONE), 2)
        learner.held_out()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
