"""The parts of a page that puts several runs side by side, in their order; see `sections`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.evaluation.aims import rank
from pipeline.report import figures, tables
from pipeline.report.sections import Section
from pipeline.report.verdict import against, by_threshold, chosen, guessing, judged, learned_from
from pipeline.runs.reading import Record

Records = Sequence[Record]


def labelled(names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Call runs by their names, or by their folders where several have the same name."""
    return [folder if names.count(name) > 1 else name for name, folder in zip(names, folders)]


def verdict(records: Records) -> list[str]:
    """Say which run is best, if they can be compared; the first sentence gives its accuracy."""
    if not _same_data(records):
        apart = "These runs were not judged on the same images"
        return [f"{apart}, so differences between their figures may come from the images."]
    ranked = sorted(records, key=_rank)
    first, second = ranked[:2]
    unranked = [learned_from(_name(record)) for record in ranked if not record.best.validation]
    if not first.best.validation:
        return [
            "None of these runs can be chosen: all were trained on validation images.",
            *unranked,
        ]
    ways = {_way(record) for record in ranked if record.best.validation}
    if len(ways) > 1:
        return [
            f"No best can be named: {' and '.join(sorted(ways))} cannot be compared.",
            *(judged(_name(record), record.best, record) for record in ranked),
            *unranked,
        ]
    compared = (
        f"It cannot be compared with the runner-up, {_name(second)}: predictions for each image "
        "are missing, or the files have other names."
    )
    if _same_test(first, second):
        compared = against((_name(first), first.best, first), (_name(second), second.best, second))
    return [
        judged(_name(first), first.best, first),
        *by_threshold(_name(first), first.best, first),
        "It " + chosen(f"the best classifiers of {len(records)} runs on the same images", first),
        compared,
        *unranked,
    ]


def _rank(record: Record) -> tuple[float, float]:
    return rank(record.best.validation, record.best.aim_cost)


def _way(record: Record) -> str:
    """Say how a run chose: figures of different kinds, or of other images, are not ranked."""
    aimed = record.best.aim_cost is not None
    positive = f" for {record.classes[record.best.positive]}" if aimed else ""
    folds = f" of {record.protocol.cv} folds" if record.nested else ""
    count = record.best.validation.n if record.best.validation else 0
    return f"{record.chosen_for}{positive} {record.chosen_on}{folds} ({count:,} images)"


def _common(phrases: Iterable[str], otherwise: str) -> str:
    """Return the phrase of all runs, if it is the same."""
    first, *others = set(phrases)
    return otherwise if others else first


def _name(record: Record) -> str:
    return f"{record.name} ({record.best.name})"


def _same_data(records: Records) -> bool:
    return len({record.document.dataset.digest for record in records}) == 1


def _same_test(first: Record, second: Record) -> bool:
    if not (first.predictions and second.predictions) or first.classes != second.classes:
        return False
    mine, others = (record.predictions[record.best.name] for record in (first, second))
    return len(set(mine.paths)) == len(mine.paths) and dict(zip(mine.paths, mine.truth)) == dict(
        zip(others.paths, others.truth)
    )


def _heads(records: Records) -> Mapping[str, Any]:
    rows = [
        ((record.name, head.name), head, head is record.chosen)
        for record in records
        for head in record.heads
    ]
    chosen_on = _common((record.chosen_on for record in records), "where it was chosen")
    judged_on = _common((record.judged_on for record in records), "images judged")
    accuracies = [(_name(record), record.best, False) for record in records]
    [positive, *others] = {
        None if record.positive is None else (record.positive, record.classes[record.positive])
        for record in records
    }
    return {
        "table": tables.heads_table(
            rows, ["run", "classifier"], "best in this run", chosen_on, None if others else positive
        ),
        "judged_on": judged_on,
        "method": records[0].best.test.interval_method,
        "remarks": (),
        "failed": {},
        "left_out": {},
        "chart": figures.draw_accuracies(accuracies, guessing(records[0].best)[0], judged_on)
        if _same_data(records)
        else None,
        "reference": [],
        "augmentations": (),
        "chosen_on": chosen_on,
        "even_guess": math.log(len(records[0].classes)),
    }


def _curves(records: Records) -> Mapping[str, Any] | None:
    if not _same_data(records):
        return None
    subjects = [
        figures.Subject(
            _name(record),
            style,
            record.predictions[record.best.name],
            record.best.test,
            record.best.threshold,
        )
        for style, record in enumerate(records)
        if record.predictions
    ]
    judged_on = _common((record.judged_on for record in records), "images")
    chosen_on = _common((record.chosen_on for record in records), "where each was chosen")
    problems = [f"{record.name}: {record.problem}" for record in records if record.problem]
    return {
        "plots": figures.draw_curves(
            subjects,
            records[0].classes,
            judged_on=judged_on,
            chosen_on=chosen_on,
            nested=any(record.nested for record in records),
        ),
        "problem": "; ".join(problems),
        "uncalibrated": "",
    }


def _differences(records: Records) -> Mapping[str, Any]:
    settings = [dict(_settings(record)) for record in records]
    names = list(dict.fromkeys(name for of_run in settings for name in of_run))
    rows = [(name, [of_run.get(name, "-") for of_run in settings]) for name in names]
    return {
        "runs": [record.name for record in records],
        "rows": [row for row in rows if len(set(row[1])) > 1],
        "same": [(name, texts[0]) for name, texts in rows if len(set(texts)) == 1],
    }


def _settings(record: Record) -> list[tuple[str, str]]:
    document, protocol, best = record.document, asdict(record.protocol), record.best
    dataset = document.dataset
    return [
        ("created", document.created),
        ("data set", dataset.name),
        ("digest of the data", dataset.digest[:12]),
        *((f"{split} images", f"{sum(n.values()):,}") for split, n in dataset.images.items()),
        ("files skipped", f"{len(dataset.quarantined):,}"),
        ("seed", str(document.seed)),
        *((f"protocol: {name}", text) for name, text in tables.flattened(protocol)),
        ("best classifier", best.name),
        *((f"best classifier: {name}", text) for name, text in tables.flattened(best.parameters)),
        *((f"features: {name}", text) for name, text in tables.flattened(document.recipe)),
        *((f"version: {name}", text) for name, text in tables.flattened(document.versions)),
    ]


SECTIONS: tuple[Section[Records], ...] = (
    Section("heads", "Classifiers", _heads),
    Section("curves", "Curves of the best classifiers", _curves),
    Section("differences", "Differences", _differences),
)
"""What a comparison is made of, from top to bottom."""
