"""What came of a run, in sentences."""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.significance import corrected_t_test, disagreement, noise_verdict
from pipeline.report.words import p_value, percent
from pipeline.runs.documents import HeadRecord
from pipeline.runs.reading import Record


def how_chosen(record: Record) -> list[str]:
    """Say how the best head was chosen, and whether another is as good."""
    best, document = record.best, record.document
    sentences = []
    if not best.validation:
        sentences.append(learned_from(best.name))
    if len(record.heads) > 1:
        sentences.append(
            f"{best.name} {chosen(f'{len(record.heads)} classifiers', record)}"
            if record.chosen
            else ""
        )
        sentences.append(_against_runner_up(record))
    if outcome := best.aim(record.classes, record.protocol):
        sentences.append(f"{best.name}: {outcome.rule}")
        if record.nested:
            sentences.append("For each fold, the threshold was chosen without it.")
    if record.nested:
        sentences.append("The saved models are fitted on all images.")
    if document.unfinished:
        sentences.append(f"Stopped before these were done: {', '.join(document.unfinished)}.")
    return [sentence for sentence in sentences if sentence]


def _against_runner_up(record: Record) -> str:
    best, runner_up, *_ = record.heads
    comparison = record.document.comparison
    if comparison and comparison.test != "McNemar's exact test":  # for that, counts are added
        return comparison.sentence
    if record.predictions:
        return against((best.name, best, record), (runner_up.name, runner_up, record))
    return f"It cannot be compared with the runner-up, {runner_up.name}: {record.problem}."


def guessing(head: HeadRecord) -> tuple[float, int]:
    """Return the accuracy of always guessing the most common class, and which class that is."""
    rows = [sum(row) for row in head.test.confusion]
    return max(rows) / sum(rows), int(np.argmax(rows))


def judged(label: str, head: HeadRecord, record: Record) -> str:
    """Say how accurate a head is, with its interval, and what guessing gives."""
    test, (share, commonest) = head.test, guessing(head)
    return (
        f"{label}: {percent(test.accuracy)} correct {judged_where(head, record)}, 95 % interval "
        f"{percent(test.accuracy_low)} to {percent(test.accuracy_high)}. Always guessing the most "
        f"common class, {record.classes[commonest]}, gives {percent(share)}."
    )


def judged_where(head: HeadRecord, record: Record) -> str:
    """Say which images a head was tested on, as it follows "correct"."""
    if not record.nested:
        images = "image" if head.test.n == 1 else "images"
        return f"on {head.test.n:,} test {images}"
    repeats = record.protocol.repeats
    times = f", repeated {repeats} times" if repeats > 1 else ""
    return f"in {record.protocol.cv}-fold cross-validation{times} ({head.test.n:,} images)"


def by_threshold(label: str, head: HeadRecord, record: Record) -> list[str]:
    """Say what a head's threshold is, and what came of it; nothing if it has none."""
    outcome = head.aim(record.classes, record.protocol)
    if outcome is None:
        return []
    how = ["For each fold, the threshold was chosen without it."] if record.nested else []
    return [" ".join([f"{label}: {outcome.rule}", *outcome.sentences, *how])]


def chosen(among: str, record: Record) -> str:
    """Say how the best was chosen, as it follows its name."""
    without = "the fold it is tested on" if record.nested else "the test images"
    return (
        f"has {record.chosen_for} {record.chosen_on} of {among}, and was chosen without {without}."
    )


def learned_from(label: str) -> str:
    """Say that there are no figures on validation."""
    return f"{label} was trained on the validation images too, so it has no figures on them."


Named = tuple[str, HeadRecord, Record]


def against(best: Named, runner_up: Named) -> str:
    """Say whether a head differs from the runner-up on the same test images.

    Cross-validations are compared by their accuracies on the folds, as predictions for images of
    one fold come from one fit. Where the folds are not the same, as with other features that make
    other copies known, they differ by more, and the test is the more cautious. Images of a group
    are not independent, and what a run holds does not tell which are of one group.
    """
    (label, head, record), (other_label, other, other_record) = best, runner_up
    beginning = f"The runner-up, {other_label}, has {percent(other.test.accuracy)}: "
    if head.fold_accuracies and other.fold_accuracies and record.protocol.cv:
        pairs = zip(head.fold_accuracies, other.fold_accuracies)
        differences = [accuracy - other_accuracy for accuracy, other_accuracy in pairs]
        p = corrected_t_test(differences, folds=record.protocol.cv)
        how = f"corrected resampled t test, {p_value(p)}"
        return f"{beginning}the difference is {noise_verdict(p)} ({how})."
    first, second = record.predictions[head.name], other_record.predictions[other.name]
    places = {path: place for place, path in enumerate(second.paths)}
    right = second.right[[places[path] for path in first.paths]]
    counts = disagreement(first.right, right)
    if not counts.only_first + counts.only_second:
        return f"The runner-up, {other_label}, is right on the same images."
    apart = (
        f"only {label} is correct on {counts.only_first:,} images, only {other_label} on "
        f"{counts.only_second:,}"
    )
    if head.test.grouped or other.test.grouped:
        unknown = "The images come in groups, which runs do not keep, so it cannot be tested"
        return f"{beginning}{apart}. {unknown} whether that is more than noise."
    how = f"{apart}; McNemar's exact test, {p_value(counts.p)}"
    return f"{beginning}the difference is {noise_verdict(counts.p)} ({how})."
