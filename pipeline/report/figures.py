"""Charts of heads: what is drawn, what it is called, and what it says in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report import charts, curves
from pipeline.report.charts import Bar, Frame, Line, Plot, Rule, smoothed
from pipeline.report.matrix import Matrix, matrix
from pipeline.report.words import number, shortened
from pipeline.runs.findings import CurvePoint
from pipeline.runs.reading import Head, Predictions

_SPELLED_OUT = 4  # with more classes, a confusion matrix is not put into words
_PAIRS = 8


@dataclass(frozen=True)
class Subject:
    """A head under the name that it has on the page.

    Attributes
    ----------
    label : str
        The name.
    style : int
        Its colour, the same in all charts.
    predictions : Predictions
        What it says of the test images.
    roc_auc : float or None
        Its area under the ROC curve, from `run.json`.
    """

    label: str
    style: int
    predictions: Predictions
    roc_auc: float | None


def draw_curves(
    subjects: Sequence[Subject], classes: Sequence[str], *, judged_on: str, chosen_on: str
) -> list[Plot]:
    """Draw ROC, precision-recall and calibration curves; the first subject stands out.

    What they are on, and where the best were chosen, are said as `Record` says it.
    """
    shown = list(subjects[: charts.STYLES])
    several = len(classes) > 2
    about = "Mean over the classes, each against all others." if several else ""
    about = about or f"Positive is the class {classes[1]}."
    if len(shown) < len(subjects):
        about += f" The {len(shown)} best {chosen_on} are drawn."
    on = f"on {len(shown[0].predictions.truth):,} {judged_on}"
    plots = [_roc(shown, on, about), _precision_recall(shown, on, about)]
    return [plot for plot in plots if plot] + [_calibration(shown, on, classes)]


def _roc(subjects: Sequence[Subject], on: str, about: str) -> Plot | None:
    frame, lines = Frame(), []
    for place, subject in enumerate(subjects):
        curve = curves.roc(subject.predictions.truth, subject.predictions.probabilities)
        if curve is None:
            return None
        path = frame.path(curve.x, curve.y)
        area = number(subject.roc_auc)
        lines.append(Line(subject.style, path, subject.label, area, thin=place > 0))
    return frame.plot(
        title="ROC curve",
        summary=f"ROC curves {on}. Area under the curve: {_listed(lines)}.",
        x_title="false positive rate",
        y_title="true positive rate",
        lines=lines,
        rules=[Rule(frame.path([0, 1], [0, 1]), "guessing")],
        note=f"Figures are areas under the curve. {about}",
    )


def _precision_recall(subjects: Sequence[Subject], on: str, about: str) -> Plot | None:
    frame, lines, share = Frame(), [], 0.0
    for place, subject in enumerate(subjects):
        found = curves.precision_recall(
            subject.predictions.truth, subject.predictions.probabilities
        )
        if found is None:
            return None
        curve, area, share = found
        path = frame.path(curve.x, curve.y)
        lines.append(Line(subject.style, path, subject.label, f"{area:.3f}", thin=place > 0))
    return frame.plot(
        title="Precision and recall",
        summary=f"Precision against recall {on}. Average precision: {_listed(lines)}; "
        f"guessing: {share:.3f}.",
        x_title="recall",
        y_title="precision",
        lines=lines,
        rules=[Rule(frame.path([0, 1], [share, share]), f"guessing {share:.3f}")],
        note=f"Figures are average precisions. {about}",
    )


def _calibration(subjects: Sequence[Subject], on: str, classes: Sequence[str]) -> Plot:
    frame, lines, spoken = Frame(), [], ""
    for place, subject in enumerate(subjects):
        found = curves.reliability(subject.predictions.truth, subject.predictions.probabilities)
        bars: list[Bar] = []
        if place == 0:  # the intervals of all would hide each other
            for x, low, high in zip(found.said, found.low, found.high):
                across, bottom = frame.place(x, low)
                bars.append(Bar(across, bottom, frame.place(x, high)[1]))
            spoken = "; ".join(
                f"said {said:.2f}, came true {happened:.2f} ({count:,} images)"
                for said, happened, count in zip(found.said, found.happened, found.counts)
            )
        lines.append(
            Line(
                subject.style,
                frame.path(found.said, found.happened),
                subject.label,
                f"{found.error:.3f}",
                frame.dots(found.said, found.happened) if place == 0 else [],
                bars,
                thin=place > 0,
            )
        )
    what = f"of {classes[1]}" if len(classes) == 2 else "of the likeliest class"
    return frame.plot(
        title="Calibration",
        summary=f"How often a probability {what} came true, {on}. Mean difference: "
        f"{_listed(lines)}. {subjects[0].label}: {spoken}.",
        x_title=f"probability {shortened(what, 34)}",
        y_title="share that came true",
        lines=lines,
        rules=[Rule(frame.path([0, 1], [0, 1]), "as often as said")],
        note="Figures are mean differences between what was said and what came true "
        "(expected calibration error, ten bins). Strokes are 95 % intervals.",
    )


def _listed(lines: Sequence[Line]) -> str:
    return ", ".join(f"{line.label} {line.figure}" for line in lines)


def draw_confusion(head: Head, classes: Sequence[str], judged_on: str) -> Matrix:
    """Draw a head's confusion matrix on images that are called so."""
    confusion = head.test["confusion"]
    in_words = " ".join(
        f"Of {sum(row):,} {name}, "
        + ", ".join(f"{count:,} are seen as {seen}" for seen, count in zip(classes, row))
        + "."
        for name, row in zip(classes, confusion[:_SPELLED_OUT])
    )
    pairs = "; ".join(
        f"{classes[truth]} seen as {classes[seen]} ({count:,})"
        for truth, seen, count in confused(head)[:3]
    )
    in_short = f"{int(np.trace(confusion)):,} of {head.test['n']:,} are right." + (
        f" Most often wrong: {pairs}." if pairs else ""
    )
    spoken = in_words if len(classes) <= _SPELLED_OUT else in_short
    return matrix(
        confusion,
        classes,
        title=head.name,
        summary=f"Confusion matrix of {head.name} on {head.test['n']:,} {judged_on}. {spoken}",
        note=in_words if len(classes) == 2 else in_short,
    )


def confused(head: Head) -> list[tuple[int, int, int]]:
    """List which class is most often taken for which: (truth, prediction, count)."""
    counts = np.array(head.test["confusion"])
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_PAIRS]
    pairs = [(*divmod(int(place), len(counts)), int(counts.flat[place])) for place in order]
    return [pair for pair in pairs if pair[2]]


def draw_training(head: Head) -> list[Plot]:
    """Draw a network's loss and accuracy by epoch, as measured and smoothed."""
    return [
        _training(head, name)
        for name in ("loss", "accuracy")
        if any(head.history.get(one) for one in (name, f"val_{name}"))
    ]


def _training(head: Head, name: str) -> Plot:
    there = [
        (style, label, head.history[key])
        for style, label, key in ((0, "training", name), (1, "validation", f"val_{name}"))
        if head.history.get(key)
    ]
    epochs = max(len(values) for *_, values in there)
    frame = Frame(
        x=(1, max(epochs, 2)),
        y=charts.limits([value for *_, values in there for value in values]),
        x_whole=True,
    )
    lines, words = [], []
    for style, label, values in there:
        x = range(1, len(values) + 1)
        path = frame.path(x, smoothed(values))
        lines.append(Line(style, path, label, dots=frame.dots(x, values)))
        words.append(f"on {label} from {values[0]:.3f} to {values[-1]:.3f}")
    rules = []
    if head.best_epoch:
        kept = [head.best_epoch] * 2
        rules.append(Rule(frame.path(kept, frame.y), f"weights kept: epoch {head.best_epoch}"))
        words.append(f"the weights of epoch {head.best_epoch} were kept")
    for epoch in head.unfrozen_after:
        edge = [epoch + 0.5] * 2
        rules.append(Rule(frame.path(edge, frame.y), f"layers unfrozen after {epoch}", solid=True))
        words.append(f"layers were unfrozen after epoch {epoch}")
    return frame.plot(
        title=f"{head.name}: {name}",
        summary=f"{name.capitalize()} of {head.name} over {epochs} epochs: {'; '.join(words)}.",
        x_title="epoch",
        y_title=name,
        lines=lines,
        rules=rules,
        note="Dots: as measured. Lines: smoothed, so they lag behind.",
    )


def draw_learning_curve(points: Sequence[CurvePoint], answer: str) -> Plot:
    """Draw how accuracy grows with the number of images, with intervals."""
    images, accuracies = zip(*((float(one.images), one.accuracy) for one in points))
    ends = [end for one in points for end in (one.low, one.high)]
    frame = Frame(x=(0, max(images)), y=charts.limits(ends), x_whole=True)
    bars = []
    for one in points:
        across, bottom = frame.place(one.images, one.low)
        bars.append(Bar(across, bottom, frame.place(one.images, one.high)[1]))
    spoken = "; ".join(f"{one.images:,} images {one.accuracy:.3f}" for one in points)
    line = Line(
        0, frame.path(images, accuracies), "accuracy", "", frame.dots(images, accuracies), bars
    )
    return frame.plot(
        title="Accuracy by number of images",
        summary=f"Accuracy on images that were left out, by number of images learned from: "
        f"{spoken}. {answer}",
        x_title="images learned from",
        y_title="accuracy",
        lines=[line],
        note="Cross-validated without the test images. Strokes are 95 % intervals.",
    )


def draw_accuracies(heads: Sequence[tuple[str, Head, bool]], guessing: float) -> charts.Intervals:
    """Draw accuracies on test with their intervals, from (label, head, whether it is the best)."""
    rows = [
        (
            label,
            head.test["accuracy"],
            head.test["accuracy_low"],
            head.test["accuracy_high"],
            best,
        )
        for label, head, best in heads
    ]
    spoken = "; ".join(
        f"{label} {value:.3f} ({low:.3f} to {high:.3f})" for label, value, low, high, _ in rows
    )
    return charts.intervals(
        rows,
        guessing,
        title="Accuracy on test",
        summary=f"Accuracy on test with 95 % intervals: {spoken}. Always guessing the commonest "
        f"class: {guessing:.3f}.",
        x_title="accuracy, with its 95 % interval",
        rule_label=f"always guessing the commonest class: {guessing:.3f}",
    )
