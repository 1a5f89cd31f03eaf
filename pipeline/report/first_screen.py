"""The top of a run's page: how good, on what, what goes wrong, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.report import figures
from pipeline.report.mistakes import surest_mistakes
from pipeline.report.verdict import guessing, judged_where
from pipeline.report.words import percent
from pipeline.runs.next_steps import next_steps
from pipeline.runs.reading import Record
from pipeline.runs.table import FEW

_RECALLS = 8  # classes, those with the lowest recall
_MISTAKES = 6


def first_screen(record: Record) -> Mapping[str, Any]:
    """Gather what someone wants to know first."""
    best, document = record.best, record.document
    test, (share, commonest) = best.test, guessing(best)
    recalls = sorted(
        ((test.recall(place), name) for place, name in enumerate(record.classes)),
        key=lambda recall: (recall[0].count > 0, recall[0].value),
    )
    aim = best.aim(record.classes, record.protocol)
    return {
        "figure": percent(test.accuracy),
        "where": judged_where(best, record),
        "interval": (percent(test.accuracy_low), percent(test.accuracy_high)),
        "guess": (record.classes[commonest], percent(share)),
        # A threshold gives accuracy up for something else, so it is not held against guessing.
        "by_chance": not best.threshold and test.accuracy_low <= share,
        "best": best.name,
        "chosen_among": len(record.heads) if record.chosen else 0,
        "recalls": recalls[:_RECALLS],
        "classes": len(record.classes),
        "warnings": [*(aim.sentences if aim else ()), *_warnings(record)],
        "confused": [
            (record.classes[truth], record.classes[called], count, sum(test.confusion[truth]))
            for truth, called, count in figures.confused(best)[:1]
        ],
        "mistakes": surest_mistakes(record)[:_MISTAKES],
        "steps": next_steps(document, record.problems, run="RUN"),
    }


def _warnings(record: Record) -> Iterator[str]:
    """Say why the figure may be wrong."""
    n, problems = record.best.test.n, record.problems
    if n < FEW:
        yield f"{n:,} test {'image is' if n == 1 else 'images are'} too few to judge by."
    if problems and problems.leakage.matters:
        yield problems.summary[0]
