"""What came of a run in sentences."""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.significance import corrected_t_test, disagreement, noise_verdict
from pipeline.report.words import p_value, percent
from pipeline.runs.reading import Head, Record


def verdict(record: Record) -> list[str]:
    """Say what came of a run; the first sentence says it all."""
    best = record.best
    nested = record.nested
    what = "images, each judged by a fit without it," if nested else record.judged_on
    sentences = [judged(best.name, best, record.classes, what)]
    sentences += by_threshold(best.name, best, record)
    # A threshold gives accuracy up for something else, so it is not held against guessing.
    if not best.threshold and best.test["accuracy_low"] <= guessing(best)[0]:
        sentences.append("That is not clearly better than guessing.")
    if nested:
        sentences.append("The models that are kept are fitted on all images.")
    if not best.validation:
        sentences.append(learned_from(best.name))
    if len(record.heads) > 1:
        heads = f"{len(record.heads)} heads"
        sentences.append(chosen(heads, record))
        runner_up = record.heads[1]
        comparison = record.document.get("comparison")
        if comparison and comparison["test"] != "McNemar's exact test":  # that has more to say
            sentences.append(str(comparison["sentence"]))
        elif record.predictions:
            sentences.append(against(best.name, best, runner_up.name, runner_up, record, record))
        else:
            sentences.append(
                f"Whether it differs from the runner-up, {runner_up.name}, cannot be told: "
                f"{record.problem}."
            )
    if unfinished := record.document.get("unfinished"):
        sentences.append(f"The run was stopped before these were done: {', '.join(unfinished)}.")
    if record.findings and record.findings.copied:
        sentences.append(record.findings.summary[0])
    return sentences


def guessing(head: Head) -> tuple[float, int]:
    """Tell how often always guessing the commonest class is right on test, and which one it is."""
    rows = [sum(row) for row in head.test["confusion"]]
    return max(rows) / sum(rows), int(np.argmax(rows))


def judged(label: str, head: Head, classes: tuple[str, ...], what: str = "test images") -> str:
    """Say how good a head is on test, with its interval, and how good guessing is."""
    test, (share, commonest) = head.test, guessing(head)
    return (
        f"{label} gets {percent(test['accuracy'])} of {test['n']:,} {what} right "
        f"(95 % interval {percent(test['accuracy_low'])} to {percent(test['accuracy_high'])}); "
        f"always guessing the commonest class, {classes[commonest]}, gets {percent(share)}."
    )


def by_threshold(label: str, head: Head, record: Record) -> list[str]:
    """Say what a head's threshold is, and what came of it; nothing if it has none."""
    if head.threshold is None:
        return []
    how = " The figures are of thresholds chosen for each fold without it." if record.nested else ""
    outcome = head.threshold.outcome(record.classes, head.test["confusion"])
    return [f"By {label}'s threshold: {outcome}.{how}"]


def chosen(among: str, record: Record) -> str:
    """Say how the best was chosen."""
    tested = "the folds tested on" if record.nested else "the test images"
    return (
        f"Of {among}, it had the lowest log loss {record.chosen_on}; {tested} had no say in that."
    )


def learned_from(label: str) -> str:
    """Say that there is no figure on validation."""
    return f"{label} was trained on the validation images too, so it has no figures on them."


def against(  # noqa: PLR0917
    label: str, head: Head, other_label: str, other: Head, record: Record, other_record: Record
) -> str:
    """Say whether a head differs from the runner-up on the same test images.

    Of cross-validations, by their accuracies on the folds: what is said of images of one fold comes
    from one fit. Where the folds are not the same, as with other features that make other copies
    known, they differ by more, and the test is the more cautious.
    """
    runner_up = (
        f"The runner-up, {other_label}, gets {percent(other.test['accuracy'])}: the difference"
    )
    if head.fold_accuracies and other.fold_accuracies:
        pairs = zip(head.fold_accuracies, other.fold_accuracies)
        p = corrected_t_test([one - two for one, two in pairs], folds=record.protocol["cv"])
        return f"{runner_up} is {noise_verdict(p)} (corrected resampled t test, {p_value(p)})."
    first, second = record.predictions[head.name], other_record.predictions[other.name]
    places = {path: place for place, path in enumerate(second.paths)}
    right = second.right[[places[path] for path in first.paths]]
    found = disagreement(first.right, right)
    return (
        f"{runner_up} is {noise_verdict(found.p)} (images that one gets right and the other wrong: "
        f"{found.only_first:,} for {label}, {found.only_second:,} for {other_label}; McNemar's "
        f"exact test, {p_value(found.p)})."
    )
