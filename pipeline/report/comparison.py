"""The parts of a page that puts several runs side by side, in their order; see `sections`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.report import figures, tables
from pipeline.report.sections import Section
from pipeline.report.verdict import against, by_threshold, chosen, guessing, judged, learned_from
from pipeline.runs.reading import Record

Records = Sequence[Record]


def labelled(names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Call runs by their names, and those whose name is not theirs alone by their folders."""
    return [folder if names.count(name) > 1 else name for name, folder in zip(names, folders)]


def verdict(records: Records) -> list[str]:
    """Say which run did best, if that can be said; the first sentence says it all."""
    if not _same_data(records):
        apart = "These runs were not judged on the same images"
        return [f"{apart}, so a difference between their figures may come from the images."]
    ranked = sorted(records, key=lambda record: record.best.chosen_by)
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
            f"No best can be named: log losses {' and '.join(sorted(ways))} cannot be compared.",
            *(judged(_name(one), one.best, one.classes, one.judged_on) for one in ranked),
            *unranked,
        ]
    sentences = [
        judged(_name(first), first.best, first.classes, first.judged_on),
        *by_threshold(_name(first), first.best, first),
        chosen(f"the best heads of {len(records)} runs on the same images", first),
    ]
    if _same_test(first, second):
        compared = against(_name(first), first.best, _name(second), second.best, first, second)
    else:
        compared = (
            f"Whether it differs from the runner-up, {_name(second)}, cannot be told: what was "
            "predicted of each image is missing, or the files are named differently."
        )
    return [*sentences, compared, *unranked]


def _way(record: Record) -> str:
    """Tell in which way a run chose: figures that were come by in different ways are not ranked."""
    folds = f" of {record.protocol['cv']} folds" if record.nested else ""
    count = record.best.validation["n"] if record.best.validation else 0
    return f"{record.chosen_on}{folds} ({count:,} images)"


def _common(phrases: Iterable[str], otherwise: str) -> str:
    """Give what is said of all runs, if it is the same."""
    first, *others = set(phrases)
    return otherwise if others else first


def _name(record: Record) -> str:
    return f"{record.name} ({record.best.name})"


def _same_data(records: Records) -> bool:
    return len({record.document["dataset"]["digest"] for record in records}) == 1


def _same_test(first: Record, second: Record) -> bool:
    if not (first.predictions and second.predictions) or first.classes != second.classes:
        return False
    one, other = (record.predictions[record.best.name] for record in (first, second))
    return len(set(one.paths)) == len(one.paths) and dict(zip(one.paths, one.truth)) == dict(
        zip(other.paths, other.truth)
    )


def _heads(records: Records) -> Mapping[str, Any]:
    rows = [
        ((record.name, head.name), head, head is record.chosen)
        for record in records
        for head in record.heads
    ]
    chosen_on = _common((record.chosen_on for record in records), "where it was chosen")
    return {
        "table": tables.heads_table(
            rows, ["run", "head"], f"best of its run {chosen_on}", chosen_on
        ),
        "judged_on": _common((record.judged_on for record in records), "images judged"),
        "method": records[0].best.test.get("interval_method"),
        "remarks": (),
        "failed": {},
        "chart": figures.draw_accuracies(
            [(_name(record), record.best, False) for record in records],
            guessing(records[0].best)[0],
        )
        if _same_data(records)
        else None,
        "reference": [],
    }


def _curves(records: Records) -> Mapping[str, Any] | None:
    if not _same_data(records):
        return None
    subjects = [
        figures.Subject(
            _name(record), style, record.predictions[record.best.name], record.best.test["roc_auc"]
        )
        for style, record in enumerate(records)
        if record.predictions
    ]
    judged_on = _common((record.judged_on for record in records), "images")
    chosen_on = _common((record.chosen_on for record in records), "where each was chosen")
    problems = [f"{record.name}: {record.problem}" for record in records if record.problem]
    return {
        "plots": figures.draw_curves(
            subjects, records[0].classes, judged_on=judged_on, chosen_on=chosen_on
        )
        if subjects
        else [],
        "problem": "; ".join(problems),
    }


def _differences(records: Records) -> Mapping[str, Any]:
    recorded = [dict(_recorded(record)) for record in records]
    names = list(dict.fromkeys(name for one in recorded for name in one))
    rows = [(name, [one.get(name, "-") for one in recorded]) for name in names]
    return {
        "runs": [record.name for record in records],
        "rows": [row for row in rows if len(set(row[1])) > 1],
        "same": [(name, texts[0]) for name, texts in rows if len(set(texts)) == 1],
    }


def _recorded(record: Record) -> list[tuple[str, str]]:
    document = record.document
    dataset = document["dataset"]
    return [
        ("created", str(document["created"])),
        ("data set", str(dataset["name"])),
        ("digest of the data", str(dataset["digest"])[:12]),
        *((f"{split} images", f"{sum(of.values()):,}") for split, of in dataset["images"].items()),
        ("files that took no part", f"{len(dataset['quarantined']):,}"),
        ("seed", str(document["seed"])),
        *((f"protocol: {name}", text) for name, text in tables.flattened(record.protocol)),
        ("best head", record.best.name),
        *((f"best head: {name}", text) for name, text in tables.flattened(record.best.parameters)),
        *((f"features: {name}", text) for name, text in tables.flattened(document["recipe"])),
        *((f"version: {name}", text) for name, text in tables.flattened(document["versions"])),
    ]


SECTIONS: tuple[Section[Records], ...] = (
    Section("heads", "Heads", _heads),
    Section("curves", "Curves of the best heads", _curves),
    Section("differences", "What is different", _differences),
)
"""What a comparison is made of, from top to bottom."""
