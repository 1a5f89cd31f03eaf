"""The top of a run's page: how good, on what, what goes wrong, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from pipeline.evaluation.aims import AimOutcome
from pipeline.report import figures
from pipeline.report.mistakes import Seen, surest_mistakes
from pipeline.report.verdict import guessing, judged_where
from pipeline.report.words import percent
from pipeline.runs.next_steps import next_steps
from pipeline.runs.reading import Record
from pipeline.runs.table import FEW

_RECALLS = 8  # classes, those with the lowest recall
_MISTAKES = 6


def first_screen(record: Record) -> Mapping[str, Any]:
    """Gather what someone wants to know first."""
    best, test = record.best, record.best.test
    recalls = sorted(
        ((test.recall(place), name) for place, name in enumerate(record.classes)),
        key=lambda recall: (recall[0].count > 0, recall[0].value, -recall[0].count),
    )
    known = [recall.value for recall, _ in recalls if recall.count]
    aim = best.aim(record.classes, record.protocol)
    least = aim is not None and aim.aim.least and aim.share.count
    return {
        **(_figure_of_aim(aim, record) if aim and least else _accuracy(record)),
        "basis": "Every image was tested by a classifier that was trained without it."
        if record.nested
        else "No classifier was trained on these images.",
        "best": best.name,
        "chosen_among": len(record.heads) if record.chosen else 0,
        "recalls": recalls[:_RECALLS],
        "classes": len(record.classes),
        "median": percent(median(known)),
        "warnings": [*_told(aim), *_warnings(record)],
        "confused": [
            (record.classes[truth], record.classes[called], count, sum(test.confusion[truth]))
            for truth, called, count in figures.confused(best)[:1]
        ],
        "mistakes": _mistakes(record),
        "steps": next_steps(record.document, record.problems, run="RUN"),
    }


def _mistakes(record: Record) -> list[Seen]:
    """Choose from the surest mistakes; up to half are of the kind that is the most frequent."""
    mistakes, classes = surest_mistakes(record), record.classes
    often = [(classes[truth], classes[p]) for truth, p, _ in figures.confused(record.best)[:1]]
    of_them = [mistake for mistake in mistakes if (mistake.truth, mistake.predicted) in often]
    first = of_them[: _MISTAKES // 2]
    chosen = [*first, *(mistake for mistake in mistakes if mistake not in first)][:_MISTAKES]
    return [Seen.plain(mistake, record.pictures) for mistake in chosen]


def _accuracy(record: Record) -> Mapping[str, Any]:
    """Show the accuracy, large."""
    best, test, (share, commonest) = record.best, record.best.test, guessing(record.best)
    sizes = [sum(row) for row in test.confusion]
    most = f"the most common class, {record.classes[commonest]},"
    always = "one class" if sizes.count(max(sizes)) > 1 else most
    return {
        "share": (percent(test.accuracy), f"correct {judged_where(best, record)}"),
        "interval": (percent(test.accuracy_low), percent(test.accuracy_high)),
        "guess": f"Always guessing {always} gives {percent(share)}.",
        # A threshold gives accuracy up for something else, so it is not held against guessing.
        "by_chance": "" if best.threshold else _by_chance(test.accuracy, test.accuracy_low, share),
        "accuracy": "",
    }


def _by_chance(value: float, low: float, guess: float) -> str:
    """Say that a share is not better than what guessing gives, if it is not."""
    if low > guess:
        return ""
    return f"This is {'not clearly' if value > guess else 'no'} better than guessing."


def _figure_of_aim(aim: AimOutcome, record: Record) -> Mapping[str, Any]:
    """Show the recall or precision that the threshold was to reach, large."""
    share, name, n = aim.share, aim.positive, record.best.test.n
    count = f"{share.hits:,} of {share.count:,}"
    if aim.aim.name == "precision":
        what = f"of the images called {name} are {name} ({count})"
        chance = aim.recall.count / n
        guess = f"Of images called so at random, {percent(chance)} would be."
    else:
        what = f"of {name} found ({count}), with {aim.false_alarms},"
        chance = aim.precision.count / n
        guess = (
            f"Calling any {aim.precision.count:,} of the {n:,} images {name} would find "
            f"{percent(chance)}."
        )
    return {
        "share": (percent(share.value), f"{what} {judged_where(record.best, record)}"),
        "interval": tuple(map(percent, share.interval)),
        "guess": guess,
        "by_chance": _by_chance(share.value, share.interval[0], chance),
        "accuracy": percent(record.best.test.accuracy),
    }


def _told(aim: AimOutcome | None) -> Iterator[str]:
    """Say whether the aim was reached and at what cost, without the figure that is shown large."""
    if aim is None:
        return
    if not (aim.aim.least and aim.share.count):
        yield from aim.sentences
        return
    other = aim.recall if aim.aim.name == "precision" else aim.precision
    low, high = map(percent, other.interval)
    if other is aim.recall:
        cost = f"{other.hits:,} of {other.count:,} {aim.positive} are found"
        what = "the recall"
    else:
        cost = f"Of {other.count:,} images called {aim.positive}, {other.hits:,} are"
        what = "the precision"
    figure = f"{percent(other.value)}, {what}; 95 % interval {low} to {high}"
    [verdict] = aim.in_a_word
    wanted = f"{100 * aim.aim.least:g} %"
    goal = f"{wanted} of {aim.positive} found"
    if other is aim.recall:
        goal = f"{wanted} of the images called {aim.positive} are so"
    yield f"{verdict.removesuffix('.')} ({goal}). {cost} ({figure})."
    if aim.support:
        yield aim.support


def _warnings(record: Record) -> Iterator[str]:
    """Say why the figure may be wrong."""
    n, problems = record.best.test.n, record.problems
    if n < FEW:
        kind = "" if record.nested else "test "
        yield f"{n:,} {kind}{'image is' if n == 1 else 'images are'} too few to judge by: add some."
    if problems and problems.leakage.matters:
        yield problems.summary[0]
