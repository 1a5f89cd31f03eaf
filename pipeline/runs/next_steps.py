"""What to do after a run: at most three commands, the most useful first."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.analysis.sentences import CREDIBLE
from pipeline.evaluation.aims import images_needed
from pipeline.evaluation.protocol import Protocol
from pipeline.evaluation.threshold import Aim
from pipeline.runs.documents import HeadRecord, ProblemsDocument, RunDocument
from pipeline.runs.table import FEW

_MISSED = 0.9  # a recall below this is offered to be raised, to
_RAISED = "recall=0.95"
_FOLDS = ("--cv", "5")
_KEPT = ("--cache", "--weights")  # of stage one, what a run does not know
_WIDE = 0.1  # an interval of the accuracy wider than this is offered to be narrowed


@dataclass(frozen=True)
class Step:
    """A command, and what it is good for."""

    why: str
    command: str


def next_steps(
    document: RunDocument,
    problems: ProblemsDocument | None,
    *,
    run: str,
    data: str = "DATA",
    options: Sequence[str] = (),
    candidates: Sequence[str] = (),
) -> list[Step]:
    """Propose up to three commands; the last one is to predict, if that makes sense.

    `data` and `options` are the data set and the options of stage one, as the user typed them;
    `candidates` are those of `classify` that say what is to be compared.
    """
    classify = ("classify", data, *options, *candidates)
    kept_in = [
        text for pair in zip(options[::2], options[1::2]) for text in pair if pair[0] in _KEPT
    ]
    look_at = ("problems", data, *kept_in, "--run", run)
    steps = list(_on_data(document, problems, classify, look_at))
    predict = Step("classify new images", _command("predict", run, "NEW_PHOTOS"))
    return [*steps[:2], predict] if _is_of_use(document) or not steps else steps[:2]


def _on_data(
    document: RunDocument,
    problems: ProblemsDocument | None,
    classify: tuple[str, ...],
    look_at: tuple[str, ...],
) -> Iterator[Step]:
    best = next(head for head in document.heads if head.name == document.best)
    protocol = document.protocol
    name = _missed(document, best)
    tested_by = _ways_to_show(document, best) if name else None
    if tested_by is not None:
        yield Step(
            f"find more of the class {name}, at the cost of false alarms",
            _command(*classify, "--positive", name, "--threshold", _RAISED, *tested_by),
        )
    if what := _lacking(document, best):
        again = _command(*classify, *_aim(protocol))
        yield Step(f"add {what}, and run again", again)
    if not protocol.cv and not tested_by and not best.is_fine_tuned:  # its options are others
        again = _command(*classify, *_aim(protocol), *_FOLDS)
        if problems and problems.leakage.matters:
            yield Step("judge without copies of training images, by cross-validation", again)
        elif best.test.accuracy_high - best.test.accuracy_low > _WIDE:
            yield Step("test on every image once, for a narrower interval", again)
    if problems is None or not problems.learning_curve:
        suspects = len(problems.likely_wrong) if problems else 0
        if problems and suspects > CREDIBLE * problems.labels.judged:
            suspects = 0
        why = "find out whether more images would help"
        if suspects:
            labels = "label" if suspects == 1 else f"{suspects:,} labels"
            why = f"list the {labels} that may be wrong, and {why}"
        yield Step(why, _command(*look_at))


def _is_of_use(document: RunDocument) -> bool:
    """Tell whether the best head did not miss its aim, or else is clearly better than guessing."""
    best = next(head for head in document.heads if head.name == document.best)
    if outcome := best.aim(document.dataset.classes, document.protocol):
        return outcome.verdict != "missed"
    return best.test.n >= FEW and best.test.accuracy_low > best.test.guessing


def _aim(protocol: Protocol) -> Iterator[str]:
    """Repeat what decides the positive class, its threshold and the classes' weights."""
    if protocol.positive:
        yield from ("--positive", protocol.positive)
    if protocol.threshold:
        yield from ("--threshold", protocol.threshold)
    if protocol.balanced:
        yield "--balanced"


def _lacking(document: RunDocument, best: HeadRecord) -> str:
    """Name the images that are too few, where all were tested on already."""
    outcome = best.aim(document.dataset.classes, document.protocol)
    if not document.protocol.cv:
        return ""
    if outcome and not outcome.supported:
        return f"images of {outcome.positive}, of which there are too few for this aim"
    if (name := _missed(document, best)) and _ways_to_show(document, best) is None:
        return f"images of {name}, many of which are missed"
    return "images, of which there are too few to judge by" if best.test.n < FEW else ""


def _missed(document: RunDocument, best: HeadRecord) -> str:
    """Name the positive one of two classes, if many of its images are missed, and no aim is set."""
    classes, recall = document.dataset.classes, best.test.recall(best.positive)
    is_told = len(classes) == 2 and best.test.n >= FEW and recall.count
    is_to_raise = is_told and not document.protocol.threshold and recall.value < _MISSED
    return classes[best.positive] if is_to_raise else ""


def _ways_to_show(document: RunDocument, best: HeadRecord) -> tuple[str, ...] | None:
    """Return the options by which enough images are tested for the aim; None where too few are."""
    recall, needed = best.test.recall(best.positive), images_needed(Aim.from_text(_RAISED))
    tested = recall.count if recall.effective is None else recall.effective
    if tested >= needed:
        return ()
    name = document.dataset.classes[best.positive]
    images = sum(counts.get(name, 0) for counts in document.dataset.images.values())
    by_folds = not document.protocol.cv and not best.is_fine_tuned
    return _FOLDS if by_folds and images * tested / recall.count >= needed else None


def _command(*parts: str) -> str:
    return shlex.join(["pipeline", *parts])
