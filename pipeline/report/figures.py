"""Charts of heads: what is drawn, its title, and its content in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.analysis.learning_curve import LearningCurve
from pipeline.evaluation.metrics import Metrics
from pipeline.evaluation.threshold import Threshold
from pipeline.report import charts, curves
from pipeline.report.charts import Frame, Line, Plot, Rule
from pipeline.report.matrix import MatrixChart, lay_out_matrix
from pipeline.report.words import number, shortened
from pipeline.runs.documents import HeadRecord
from pipeline.runs.reading import Predictions, Record

_SPELLED_OUT = 4  # with more classes, a confusion matrix is not put into words
_PAIRS = 8
_CURVES = 2
_MARK = 4.5  # radius of a threshold's dot
_LEAST_IN_BIN = 20  # images on average: with fewer, the intervals are wider than the bins


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
        Its predictions for the test images.
    test : Metrics
        Its figures, from `run.json`: the area under the ROC curve, and the positive class.
    threshold : Threshold or None
        Where it has one, that is marked on the curves.
    """

    label: str
    style: int
    predictions: Predictions
    test: Metrics
    threshold: Threshold | None = None

    @property
    def rates(self) -> tuple[float, float, float]:
        """False positive rate, recall and precision, with the threshold."""
        recall = self.test.recall(self.predictions.positive)
        precision = self.test.precision(self.predictions.positive)
        others = self.test.n - recall.count
        return (precision.count - precision.hits) / others, recall.value, precision.value


def draw_curves_of(record: Record) -> dict[str, Plot]:
    """Draw the curves of the best head and its rival; none where predictions are missing."""
    subjects = [
        Subject(head.name, style, record.predictions[head.name], head.test, head.threshold)
        for style, head in enumerate(record.heads[:_CURVES])
        if record.predictions
    ]
    return draw_curves(
        subjects,
        record.classes,
        judged_on=record.judged_on,
        chosen_on=record.chosen_on,
        nested=record.nested,
    )


def draw_curves(
    subjects: Sequence[Subject],
    classes: Sequence[str],
    *,
    judged_on: str,
    chosen_on: str,
    nested: bool,
) -> dict[str, Plot]:
    """Draw ROC, precision-recall and calibration curves; the first subject stands out.

    The last three are those of `Record`.
    """
    shown = list(subjects[: charts.STYLES])
    if not shown:
        return {}
    about = f"Positive is the class {classes[shown[0].predictions.positive]}."
    if len(classes) > 2:
        about = "Mean over the classes, each against all others."
    if any(subject.threshold for subject in shown):
        about += " The dot is the threshold."
        if nested:
            about += " Each fold has its own, chosen without it, so the dot may lie off the curve."
    if len(shown) < len(subjects):
        about += f" The {len(shown)} best {chosen_on} are drawn."
    on = f"on {len(shown[0].predictions.truth):,} {judged_on}"
    plots = {
        "roc": _roc(shown, on, about),
        "precision-recall": _precision_recall(shown, on, about),
        "calibration": _calibration(shown, on, classes)
        if can_bin(len(shown[0].predictions.truth))
        else None,
    }
    return {name: plot for name, plot in plots.items() if plot}


def can_bin(images: int) -> bool:
    """Tell whether there are enough images for the bins of a calibration curve."""
    return images >= _LEAST_IN_BIN * curves.BINS


def _roc(subjects: Sequence[Subject], on: str, about: str) -> Plot | None:
    frame, lines = Frame(), []
    for place, subject in enumerate(subjects):
        curve = curves.roc(*subject.predictions.scored)
        if curve is None:
            return None
        path = frame.path(curve.x, curve.y)
        area = number(subject.test.roc_auc)
        marks = frame.dots(*[[rate] for rate in subject.rates[:2]]) if subject.threshold else ()
        lines.append(
            Line(subject.style, path, subject.label, area, dots=marks, radius=_MARK, thin=place > 0)
        )
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
        result = curves.precision_recall(*subject.predictions.scored)
        if result is None:
            return None
        curve, area, share = result
        path = frame.path(curve.x, curve.y)
        marks = frame.dots(*[[rate] for rate in subject.rates[1:]]) if subject.threshold else ()
        text = f"{area:.3f}"
        lines.append(
            Line(subject.style, path, subject.label, text, dots=marks, radius=_MARK, thin=place > 0)
        )
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
        bins = curves.reliability(*subject.predictions.scored)
        path = frame.path(bins.predicted, bins.observed)
        line = Line(subject.style, path, subject.label, f"{bins.error:.3f}", thin=place > 0)
        if place == 0:  # the intervals of all would hide each other
            line = replace(
                line,
                dots=frame.dots(bins.predicted, bins.observed),
                bars=frame.bars(bins.predicted, bins.low, bins.high),
            )
            spoken = "; ".join(
                f"predicted {predicted:.2f}, observed {observed:.2f} ({count:,} images)"
                for predicted, observed, count in zip(bins.predicted, bins.observed, bins.counts)
            )
        lines.append(line)
    positive = subjects[0].predictions.positive
    what = f"of {classes[positive]}" if len(classes) == 2 else "of the likeliest class"
    return frame.plot(
        title="Calibration",
        summary=f"Predicted probability {what} and how often it came true, {on}. Mean difference: "
        f"{_listed(lines)}. {subjects[0].label}: {spoken}.",
        x_title=f"predicted probability {shortened(what, 28)}",
        y_title="observed share",
        lines=lines,
        rules=[Rule(frame.path([0, 1], [0, 1]), "perfectly calibrated")],
        note="Figures are mean differences between predicted and observed (expected calibration "
        "error, ten bins). Bars show 95 % intervals.",
    )


def _listed(lines: Sequence[Line]) -> str:
    return ", ".join(f"{line.label} {line.figure}" for line in lines)


def draw_confusion(head: HeadRecord, record: Record) -> MatrixChart:
    """Draw a head's confusion matrix."""
    confusion, classes = head.test.confusion, record.classes
    in_words = " ".join(
        f"Of {sum(row):,} {name}: "
        + ", ".join(f"{count:,} predicted {other}" for other, count in zip(classes, row))
        + "."
        for name, row in zip(classes, confusion[:_SPELLED_OUT])
    )
    pairs = "; ".join(
        f"{classes[truth]} predicted {classes[predicted]} ({count:,})"
        for truth, predicted, count in confused(head)[:3]
    )
    in_short = f"{int(np.trace(confusion)):,} of {head.test.n:,} are correct." + (
        f" Most often confused: {pairs}." if pairs else ""
    )
    spoken = in_words if len(classes) <= _SPELLED_OUT else in_short
    return lay_out_matrix(
        confusion,
        classes,
        title=head.name,
        summary=f"Confusion matrix of {head.name} on {head.test.n:,} {record.judged_on}. {spoken}",
        note=in_words if len(classes) == 2 else in_short,
    )


def confused(head: HeadRecord) -> list[tuple[int, int, int]]:
    """List the pairs of classes that are confused most often: (truth, prediction, count)."""
    counts = np.array(head.test.confusion)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_PAIRS]
    pairs = [(*divmod(int(place), len(counts)), int(counts.flat[place])) for place in order]
    return [pair for pair in pairs if pair[2]]


def draw_training(head: HeadRecord) -> list[Plot]:
    """Draw a network's loss and accuracy by epoch, as measured."""
    return [
        _training(head, name)
        for name in ("loss", "accuracy")
        if any(head.history.get(key) for key in (name, f"val_{name}"))
    ]


def _training(head: HeadRecord, name: str) -> Plot:
    measured = [
        (style, label, [np.nan if value is None else value for value in head.history[key]])
        for style, label, key in ((0, "training", name), (1, "validation", f"val_{name}"))
        if head.history.get(key)
    ]
    epochs = max(len(values) for *_, values in measured)
    frame = Frame(
        x=(1, max(epochs, 2)),
        y=charts.limits(value for *_, values in measured for value in values),
        x_whole=True,
    )
    lines, words = [], []
    for style, label, values in measured:
        x = range(1, len(values) + 1)
        path = frame.path(x, values)
        lines.append(Line(style, path, label, dots=frame.dots(x, values)))
        words.append(f"on {label} from {values[0]:.3f} to {values[-1]:.3f}")
    rules = []
    if head.best_epoch:
        kept = f"weights kept: epoch {head.best_epoch}"
        rules.append(Rule(frame.path([head.best_epoch] * 2, frame.y), kept))
        words.append(kept)
    for epoch in head.unfrozen_after:
        unfrozen = f"layers unfrozen after epoch {epoch}"
        rules.append(Rule(frame.path([epoch + 0.5] * 2, frame.y), unfrozen, solid=True))
        words.append(unfrozen)
    return frame.plot(
        title=f"{head.name}: {name}",
        summary=f"{name.capitalize()} of {head.name} over {epochs} epochs: {'; '.join(words)}.",
        x_title="epoch",
        y_title=name,
        lines=lines,
        rules=rules,
    )


def draw_learning_curve(curve: LearningCurve) -> Plot:
    """Draw how accuracy grows with the number of images, with intervals."""
    points = curve.points
    images = [point.images for point in points]
    accuracies = [point.accuracy for point in points]
    low, high = [point.low for point in points], [point.high for point in points]
    frame = Frame(x=(0, max(images)), y=charts.limits([*low, *high]), x_whole=True)
    spoken = "; ".join(f"{point.images:,} images {point.accuracy:.3f}" for point in points)
    line = Line(
        0,
        frame.path(images, accuracies),
        "accuracy",
        dots=frame.dots(images, accuracies),
        bars=frame.bars(images, low, high),
    )
    return frame.plot(
        title="Accuracy by number of images",
        summary=f"Cross-validated accuracy by number of images learned from: {spoken}. "
        f"{curve.answer}",
        x_title="images learned from",
        y_title="accuracy",
        lines=[line],
        note="Cross-validated without the test images. Bars show 95 % intervals.",
    )


def draw_aims(record: Record) -> charts.IntervalChart | None:
    """Draw the recalls or precisions that heads were to reach, and the least value; else none."""
    outcomes = [(head.name, head.aim(record.classes, record.protocol)) for head in record.heads]
    reached = [(name, aim) for name, aim in outcomes if aim and aim.aim.least and aim.share.count]
    if not reached:
        return None
    aim = reached[0][1]
    what = f"{aim.aim.name} of {aim.positive}"
    spoken = "; ".join(f"{name} {own.share}" for name, own in reached)
    return charts.lay_out_intervals(
        [
            (name, own.share.value, *own.share.interval, name == record.best.name)
            for name, own in reached
        ],
        aim.aim.least,
        title=what.capitalize(),
        summary=f"{what} on the {record.judged_on}: {spoken}; the aim: {aim.aim.least:g}.",
        x_title=f"{aim.aim.name} with 95 % interval",
        rule_label=f"the aim: {aim.threshold.aim_text}",
    )


def draw_accuracies(
    heads: Sequence[tuple[str, HeadRecord, bool]], guessing: float, judged_on: str
) -> charts.IntervalChart:
    """Draw accuracies with their intervals, from (label, head, whether it is the best)."""
    rows = [
        (label, head.test.accuracy, head.test.accuracy_low, head.test.accuracy_high, best)
        for label, head, best in heads
    ]
    spoken = "; ".join(
        f"{label} {value:.3f} ({low:.3f} to {high:.3f})" for label, value, low, high, _ in rows
    )
    guess = f"always guessing the most common class: {guessing:.3f}"
    return charts.lay_out_intervals(
        rows,
        guessing,
        title="Accuracy",
        summary=f"Accuracy on the {judged_on} with 95 % intervals: {spoken}; {guess}.",
        x_title="accuracy with 95 % interval",
        rule_label=guess,
    )
