"""A run's heads as a table of text: for a terminal, for Python's prompt, for a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.run import Result, Run

COLUMNS = (
    "head",
    "accuracy",
    "95 % interval",
    "balanced",
    "ROC AUC",
    "log loss",
    "Brier",
    "fit",
)

_FEW = 20  # the interval of an accuracy is then more than 30 points wide


def row(result: Result, *, best: bool = False) -> tuple[str, ...]:
    """Write a head's figures, one for each of `COLUMNS`; the best head gets a star."""
    test = result.test
    return (
        result.head + (" *" if best else ""),
        f"{test.accuracy:.3f}",
        f"{test.accuracy_low:.3f}-{test.accuracy_high:.3f}",
        f"{test.balanced_accuracy:.3f}",
        "-" if test.roc_auc is None else f"{test.roc_auc:.3f}",
        f"{test.log_loss:.3f}",
        f"{test.brier:.3f}",
        f"{result.seconds:.1f} s",
    )


def title(run: Run) -> str:
    """Say what the figures are of."""
    n = run.results[0].test.n
    if run.protocol.cv is None and n < _FEW:
        return f"{n:,} test images, never seen in training: too few to judge by"
    if run.protocol.cv is None:
        return f"{n:,} test images, never seen in training"
    times = f", {run.protocol.repeats} times" if run.protocol.repeats > 1 else ""
    return f"{n:,} images, each judged by a fit without it ({run.protocol.cv} folds{times})"


def notes(run: Run) -> list[str]:
    """Say what the table does not."""
    best, protocol, classes = run.best, run.protocol, run.dataset.classes
    test = best.test
    by = "by cross-validation on the training images" if protocol.search else "on validation"
    if protocol.cv is not None:
        by = "on the folds not tested on"
    found = [f"Always guessing the commonest class: {max(map(sum, test.confusion)) / test.n:.3f}"]
    if best.validation:
        found[0] = f"* best {by}. {found[0]}"
    if run.comparison:
        found.append(run.comparison.sentence)
    if protocol.cv is not None:
        found.append("The models are fitted on all images; the figures are of fits without them.")
    if protocol.cv is not None and protocol.threshold is not None:
        found.append("The figures are of thresholds chosen for each fold without it.")
    found += [
        f"{result.head}: {result.model.threshold.outcome(classes, result.test.confusion)}"
        for result in run.results
        if result.model.threshold
    ]
    found += run.remarks
    if run.unfinished:
        found.append(f"Stopped before these heads were done: {', '.join(run.unfinished)}")
    for why in dict.fromkeys(run.failed.values()):
        heads = ", ".join(head for head, own in run.failed.items() if own == why)
        found.append(f"{heads} could not be fitted: {why}")
    found += [f"Left out of the run: {name}. {why}" for name, why in run.left_out.items()]
    return found


def as_text(run: Run) -> str:
    """Write the table with spaces between its columns, the best head marked by a star."""
    lines = [COLUMNS, *(row(result, best=result is run.best) for result in run.results)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([title(run), "", *text, "", *notes(run), f"Kept in {run.folder}"])


def as_html(run: Run) -> str:
    """Write the table for a notebook."""
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    body = "".join(
        f"<tr{_bold(result is run.best)}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row(result, best=result is run.best))
        + "</tr>"
        for result in run.results
    )
    lines = (*notes(run), f"Kept in {run.folder}")
    return (
        f"<table><caption>{escape(title(run))}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>" + "".join(f"<p>{escape(line)}</p>" for line in lines)
    )


def _bold(best: bool) -> str:
    return ' style="font-weight: bold"' if best else ""
