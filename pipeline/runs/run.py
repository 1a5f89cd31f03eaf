"""An experiment: what was done, what came of it, and the folder that holds both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.analysis.examples import ExampleImages
from pipeline.analysis.problems import Problems
from pipeline.backbones.recipe import Recipe
from pipeline.data.dataset import Dataset
from pipeline.errors import in_one_line
from pipeline.evaluation.aims import AimOutcome, judge_aim, rank
from pipeline.evaluation.groups import find_units
from pipeline.evaluation.metrics import Metrics
from pipeline.evaluation.protocol import Protocol
from pipeline.evaluation.significance import (
    Comparison,
    corrected_t_test,
    disagreement,
    sign_flip_test,
)
from pipeline.models.model import Model
from pipeline.runs.table import FEW, Figures, TextTable


@dataclass(frozen=True)
class Result:
    """One head, fitted and judged.

    Attributes
    ----------
    model : Model
        The fitted head.
    parameters : dict
        What was chosen on validation.
    candidates : tuple of (dict, float)
        What was tried: parameters, and their log loss on validation.
    validation : Metrics
        Of the chosen candidate, on images that it was not fitted on: the validation split, the
        folds of a search, or the inner folds of a cross-validation; None where the validation
        images were trained on.
    test : Metrics
        Of the final fit on the test split; of a cross-validation, of all images, each by a fit
        that was chosen and made without it.
    seconds : float
        Time for all candidates and the final fit.
    probabilities : ndarray of float64, shape (n, k)
        For every image of the data set, in its order: by the final fit, or, of a
        cross-validation, by a fit without the image, from the first repeat.
    history : dict of list of float
        Learning curves by epoch, for a network; else empty.
    best_epoch : int
        Epoch whose weights were kept, for a network; else 0.
    phases : tuple of int
        Epochs after which layers were unfrozen.
    calls : ndarray of int64, shape (n,), optional
        What each image is called, where that need not be the likeliest class.
    fold_accuracies : tuple of float
        Of a cross-validation: the accuracy on each fold of each repeat.
    aim_cost : float, optional
        What heads are compared by where a threshold has an aim, on the images of `validation`; see
        `pipeline.evaluation.threshold.Aim.cost`.
    """

    model: Model
    parameters: dict[str, Any]
    candidates: tuple[tuple[dict[str, Any], float], ...]
    validation: Metrics | None
    test: Metrics
    seconds: float
    probabilities: npt.NDArray[np.float64]
    history: dict[str, list[float]]
    best_epoch: int
    phases: tuple[int, ...] = ()
    calls: npt.NDArray[np.int64] | None = None
    fold_accuracies: tuple[float, ...] = ()
    aim_cost: float | None = None

    @property
    def head(self) -> str:
        """Name of the head."""
        return self.model.head

    def aim(self, protocol: Protocol) -> AimOutcome | None:
        """Tell whether the aim of its threshold was reached on what it was tested on."""
        nested = protocol.cv is not None
        return judge_aim(self.model.threshold, self.test, self.model.classes, nested=nested)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """What each image is called, shape (n,)."""
        return self.model.call(self.probabilities) if self.calls is None else self.calls


@dataclass(frozen=True)
class Run:
    """One experiment: what was done and what came of it.

    Attributes
    ----------
    folder : Path
        Its folder.
    dataset : Dataset
        The data set, less the files that could not be read.
    recipe : Recipe
        How its images became rows; of several networks, that of the best head.
    results : tuple of Result
        One for each head, in the order asked for.
    protocol : Protocol
        Which images heads were trained, chosen and tested on.
    unfinished : tuple of str
        Heads that were asked for, and not done when the run was stopped.
    failed : dict of str to str
        Heads that could not be fitted, and why.
    left_out : dict of str to str
        Which of `problems`, `examples` and the page failed, and why.
    remarks : tuple of str
        Remarks on the run, in sentences.
    problems : Problems or None
        What is wrong with the data set, where that was looked for.
    examples : ExampleImages or None
        Test images with the best head's predictions, maps and neighbours.
    beside : tuple of Recipe
        Those of the other networks that heads could learn from.
    """

    folder: Path
    dataset: Dataset
    recipe: Recipe
    results: tuple[Result, ...]
    protocol: Protocol = field(default_factory=Protocol)
    unfinished: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    problems: Problems | None = None
    examples: ExampleImages | None = None
    beside: tuple[Recipe, ...] = ()

    @property
    def ranked(self) -> list[Result]:
        """The heads from the best on validation to the worst: by the aim, else by log loss."""
        return sorted(self.results, key=lambda head: rank(head.validation, head.aim_cost))

    @property
    def best(self) -> Result:
        """The head that is best on validation: the test split has no say."""
        return self.ranked[0]

    def chose(self, result: Result) -> bool:
        """Tell whether a head is the best of several."""
        return result is self.best and len(self.results) > 1

    @property
    def comparison(self) -> Comparison | None:
        """The best head compared with the runner-up on the same images, if there are two heads."""
        if len(self.results) < 2:
            return None
        first, second = self.ranked[:2]
        points = 100 * (first.test.accuracy - second.test.accuracy)
        if self.protocol.cv is not None:
            differences = np.subtract(first.fold_accuracies, second.fold_accuracies).tolist()
            p = corrected_t_test(differences, folds=self.protocol.cv)
            return Comparison(first.head, second.head, points, p, "corrected resampled t test")
        test = self.dataset.where("test")
        right, other = (
            self.dataset.targets.right(result.predicted[test], test) for result in (first, second)
        )
        if self.dataset.groups:
            p = sign_flip_test(right, other, find_units(self.dataset)[test])
            return Comparison(first.head, second.head, points, p, "exact sign-flip test by group")
        p = disagreement(right, other).p
        return Comparison(first.head, second.head, points, p, "McNemar's exact test")

    def __repr__(self) -> str:
        return self._table().as_text()

    def _skipped(self) -> Iterator[str]:
        """Say how many files were skipped, and one of them."""
        for bad in self.dataset.quarantined[:1]:
            count = len(self.dataset.quarantined)
            files = "1 file" if count == 1 else f"{count:,} files"
            yield f"{files} skipped: {bad.path}: {bad.reason}" + ("; ..." if count > 1 else "")

    def _repr_html_(self) -> str:
        return self._table().as_html()

    def _table(self) -> TextTable:
        named = self.protocol.positive is not None
        rows = [row(result, best=self.chose(result), named=named) for result in self.results]
        headings = figures_of(self.best, named=named).headings
        problems = self.problems.summary() if self.problems else ()
        below = (*notes(self), *self._skipped(), *problems, f"saved in {self.folder}")
        return TextTable(title(self), headings, rows, self.results.index(self.best), below)


class Interrupted(KeyboardInterrupt):
    """Work was stopped, and what was done is kept.

    Attributes
    ----------
    run : Run
        The heads that were done.
    """

    def __init__(self, run: Run) -> None:
        count = len(run.results)
        heads = "1 head is" if count == 1 else f"{count} heads are"
        super().__init__(f"stopped; {heads} saved in {run.folder}")
        self.run = run


def with_optional_parts(
    run: Run, parts: Mapping[str, Callable[[], Any]]
) -> tuple[Run, KeyboardInterrupt | None]:
    """Add the optional parts (problems, examples); note in `left_out` what failed."""
    for name, make in parts.items():
        try:
            run = replace(run, **{name: make()})
        except KeyboardInterrupt as stop:
            return run, stop
        except Exception as error:  # noqa: BLE001 (any library below)
            why = in_one_line(error, run.dataset.classes)
            run = replace(run, left_out={**run.left_out, name: why})
    return run, None


def figures_of(result: Result, *, every: bool = False, named: bool = False) -> Figures:
    """Return which figures a table of heads such as this one has.

    The recall of the positive class alone is shown where it was `named`, or has a threshold.
    """
    model = result.model
    positive = model.threshold.positive if model.threshold else model.positive if named else None
    return Figures(model.classes, positive, every)


def row(
    result: Result, *, best: bool = False, every: bool = False, named: bool = False
) -> list[str]:
    """Write a head's figures; the best head gets a star."""
    network = result.parameters.get("backbone")
    name = result.head + (" *" if best else "") + (f" on {network}" if network else "")
    return figures_of(result, every=every, named=named).row(name, result.test, result.seconds)


def title(run: Run) -> str:
    """Say which images the figures are for."""
    n = run.results[0].test.n
    if run.protocol.cv is None and n < FEW:
        return f"{n:,} test images, never seen in training: too few to be reliable"
    if run.protocol.cv is None:
        return f"{n:,} test images, never seen in training"
    times = f", repeated {run.protocol.repeats} times" if run.protocol.repeats > 1 else ""
    return f"{run.protocol.cv}-fold cross-validation of {n:,} images{times}"


def notes(run: Run) -> list[str]:
    """Add in sentences what the table does not show."""
    best, protocol = run.best, run.protocol
    test = best.test
    by = "by cross-validation on the training images" if protocol.search else "on validation"
    if protocol.cv is not None:
        by = "in the inner folds"
    lines = [f"Always guessing the most common class: {test.guessing:.3f}"]
    if run.chose(best) and best.validation:
        lines[0] = f"* best {by}. {lines[0]}"
    if comparison := run.comparison:
        lines.append(comparison.sentence)
    if protocol.cv is not None:
        lines.append("The saved models are fitted on all images.")
    if protocol.cv is not None and protocol.threshold is not None:
        lines.append("For each fold, the threshold was chosen without it.")
    if outcome := best.aim(protocol):
        lines += [f"{best.head}: {outcome.rule}", *outcome.sentences]
    lines += (*run.dataset.remarks, *run.remarks)
    if run.unfinished:
        lines.append(f"Stopped before these were done: {', '.join(run.unfinished)}")
    for why in dict.fromkeys(run.failed.values()):
        heads = ", ".join(head for head, own in run.failed.items() if own == why)
        lines.append(f"{heads} could not be fitted: {why}")
    lines += [f"Left out of the run: {name}. {why}" for name, why in run.left_out.items()]
    return lines
