"""How many labels a classifier needs: those that Labelling asks for, against random images."""

from __future__ import annotations

import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from pipeline import Extraction, Extractor, Labelling, extract, make_recipe
from pipeline.analysis.active_learning import NONE, ActiveLearner
from pipeline.analysis.reduction import reduced_rows
from pipeline.evaluation.groups import find_units

TITLE = "Labelling: the images that are asked about, against images drawn at random"
SEEDS = range(10)
STOPPING_SEEDS = range(2)
MOST = {"vgg16": 640, "efficientnet-lite0": 300}  # labels that are asked for
TYPICAL = 30
AIMS = (0.854, 0.865)
STEP = 20
SIZES = (10_000, 100_000)

Course = dict[int, float]
"""Accuracy on the test images by the number of labels."""


@dataclass(frozen=True)
class Demo:
    """The demo's images, and what a classifier learns them from."""

    network: str
    cache: str
    extraction: Extraction
    rows: np.ndarray

    @classmethod
    def of(cls, network: str, cache: str) -> Demo:
        """Read it."""
        extractor = Extractor(make_recipe(network), cache=cache, layers=None)
        extraction = extract("demo", extractor=extractor)
        return cls(network, cache, extraction, reduced_rows(extraction))

    @property
    def labels(self) -> np.ndarray:
        """The true labels."""
        return self.extraction.dataset.targets.labels

    def split(self, seed: int) -> list[np.ndarray]:
        """Draw a quarter as test images."""
        places = np.arange(len(self.rows))
        return train_test_split(places, test_size=0.25, random_state=seed, stratify=self.labels)

    def label(
        self, seed: int, choose: Callable[[ActiveLearner, np.ndarray], int], most: int
    ) -> Course:
        """Label one image after another, and judge."""
        train, test = self.split(seed)
        learner = ActiveLearner(self.rows, find_units(self.extraction.dataset), seed=seed)
        course = {}
        for count in range(1, most + 1):
            place = choose(learner, train[learner.labels[train] == NONE])
            learner.learn(np.array([place]), self.labels[[place]])
            if count % STEP == 0:
                course[count] = float((learner.predicted()[test] == self.labels[test]).mean())
        return course

    def asked(self, seed: int) -> Course:
        """Label as Labelling asks."""
        typical: list[int] = []

        def choose(learner: ActiveLearner, left: np.ndarray) -> int:
            if len(learner.classes) == 0:
                typical.extend(learner.typical(np.sort(left), TYPICAL))
            return typical.pop(0) if typical else int(learner.unsure(np.sort(left), 1)[0])

        return self.label(seed, choose, MOST[self.network])

    def random(self, seed: int) -> Course:
        """Label at random, until nearly all have a label."""
        train, test = self.split(seed)
        order = np.random.default_rng(seed).permutation(train)
        learner = ActiveLearner(self.rows, find_units(self.extraction.dataset), seed=seed)
        course = {}
        for start in range(0, len(order) - STEP + 1, STEP):
            places = order[start : start + STEP]
            learner.learn(places, self.labels[places])
            if len(learner.classes) > 1:
                right = learner.predicted()[test] == self.labels[test]
                course[start + STEP] = float(right.mean())
        return course

    def stopped(self, seed: int) -> tuple[Course, int | None]:
        """Label by Labelling itself, and tell when it says that one may stop."""
        dataset, (_, test) = self.extraction.dataset, self.split(seed)
        truth = {str(path): dataset.targets.name(at) for at, path in enumerate(dataset.paths)}
        held = {str(dataset.paths[place]) for place in test}
        rows = [
            (path, label if path in held else "", "test" if path in held else "train")
            for path, label in truth.items()
        ]
        with tempfile.TemporaryDirectory() as folder:
            given = Path(folder) / "demo.csv"
            with given.open("w", newline="") as stream:
                csv.writer(stream).writerows([("path", "label", "split"), *rows])
            extractor = Extractor(self.extraction.recipe, cache=self.cache)
            labelling = Labelling(
                given, labels=Path(folder) / "labels.csv", extractor=extractor, seed=seed
            )
            places = labelling.dataset.where("test")
            right, stop = {}, None
            for count in range(1, MOST[self.network] + 1):
                [question] = labelling.next()
                state = labelling.answer(question.place, truth[str(question.path)])
                stop = stop or (count if state.may_stop else None)
                if count % STEP == 0:
                    predicted = labelling._progress.now.predicted[places]
                    right[count] = statistics.mean(
                        labelling.classes[label] == truth[str(labelling.dataset.paths[place])]
                        for place, label in zip(places, predicted)
                    )
        return right, stop


def measure(cache: str | None) -> str:
    """Label the demo with a quarter of it as test images, by what the product asks and at random."""
    lines = [
        f"A quarter of the demo are test images, others for each of {len(SEEDS)} seeds; the rest has no "
        "label. The classifier that is judged is the one that chooses. Labels from which its mean "
        "accuracy, over three steps of 20 labels, is that high:",
        "",
        "| network | accuracy | labels, as asked for | at random | times fewer |",
        "|---|---|---|---|---|",
    ]
    notes = []
    for network, most in MOST.items():
        demo = Demo.of(network, cache or "cache")
        asked = told(f"{network}, as asked for", [demo.asked(seed) for seed in SEEDS])
        random = told(f"{network}, at random", [demo.random(seed) for seed in SEEDS])
        for aim in AIMS:
            few, many = needed(asked, aim), needed(random, aim)
            times = f"{many / few:.1f}" if few and many else "-"
            lines.append(
                f"| {network} | {aim} | {few or f'over {most}'} | {many or 'not with all'} | {times} |"
            )
        notes.append(about_stopping(demo, random))
    times = [f"| {size:,} | {1000 * answer_seconds(size, demo):.0f} ms |" for size in SIZES]
    head = [
        "| images | learning an answer, finding the next image, judging by cross-validation |",
        "|---|---|",
    ]
    return "\n".join([*lines, "", *notes, "", *head, *times])


def told(what: str, courses: Sequence[Course]) -> Sequence[Course]:
    """Show the mean accuracies."""
    means = {
        count: round(statistics.mean(each[count] for each in courses), 4) for count in courses[0]
    }
    print(what, means, file=sys.stderr, flush=True)
    return courses


def needed(courses: Sequence[Course], aim: float) -> int | None:
    """Give the number of labels from which the mean accuracy of three steps is at least so high."""
    counts = list(courses[0])
    means = [statistics.mean(course[count] for course in courses) for count in counts]
    smooth = np.convolve(means, np.ones(3) / 3, mode="valid")
    reached = np.flatnonzero(smooth >= aim)
    return counts[int(reached[0]) + 1] if reached.size else None


def about_stopping(demo: Demo, random: Sequence[Course]) -> str:
    """Say when Labelling says that one may stop, and what that costs."""
    everything = statistics.mean(max(course.items())[1] for course in random)
    found = [demo.stopped(seed) for seed in STOPPING_SEEDS]
    stops = [(stop, course[max(STEP, stop // STEP * STEP)]) for course, stop in found if stop]
    at = ", ".join(f"{stop} (accuracy {accuracy:.3f})" for stop, accuracy in stops)
    return (
        f"With {demo.network} and all labels the mean accuracy is {everything:.3f}. Labelling said that one "
        f"may stop at {at or 'no number'} of up to {MOST[demo.network]} labels, on {len(STOPPING_SEEDS)} seeds."
    )


def answer_seconds(size: int, demo: Demo) -> float:
    """Time what follows an answer, on rows like the demo's."""
    rng = np.random.default_rng(0)
    many = np.resize(demo.rows, (size, demo.rows.shape[1]))
    many = many + rng.normal(0, demo.rows.std() / 10, many.shape).astype(np.float32)
    labels = np.resize(demo.labels, size)
    learner = ActiveLearner(many, np.arange(size))
    order = rng.permutation(size)
    learner.learn(order[:500], labels[order[:500]])
    taken = []
    for place in order[500:530]:
        started = time.perf_counter()
        learner.learn(np.array([place]), labels[[place]])
        learner.unsure(np.flatnonzero(learner.labels == NONE), 2)
        learner.held_out()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
