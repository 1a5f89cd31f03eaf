"""The parts of a page that puts several runs side by side, in their order; see `sections`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report import figures, tables
from pipeline.report.reading import Record
from pipeline.report.sections import Section
from pipeline.report.verdict import against, chosen, guessing, judged, learned_from

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
    sentences = [
        judged(_name(first), first.best, first.classes),
        chosen(f"the best heads of {len(records)} runs on the same images"),
    ]
    if _same_test(first, second):
        compared = against(_name(first), first.best, _name(second), second.best, first, second)
    else:
        compared = (
            f"Whether it differs from the runner-up, {_name(second)}, cannot be told: what was "
            "predicted of each image is missing, or the files are named differently."
        )
    return [*sentences, compared, *unranked]


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
    return {
        "table": tables.heads_table(rows, ["run", "head"], "best of its run on validation"),
        "method": records[0].best.test.get("interval_method"),
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
    problems = [f"{record.name}: {record.problem}" for record in records if record.problem]
    return {
        "plots": figures.draw_curves(subjects, records[0].classes) if subjects else [],
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
