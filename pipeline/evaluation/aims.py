"""Whether an aim was reached, what that rests on, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import PipelineError
from pipeline.evaluation.intervals import NORMAL_975, Share
from pipeline.evaluation.metrics import Metrics
from pipeline.evaluation.threshold import Aim, Threshold

Verdict = Literal["reached", "missed", "unclear", ""]


@dataclass(frozen=True)
class AimOutcome:
    """What came of an aim on the images that a head was tested on.

    Attributes
    ----------
    aim : Aim
        What the threshold was chosen for.
    threshold : Threshold
        It, with the number of images that it was chosen on.
    classes : tuple of str
        The two classes.
    recall, precision : Share
        Of the positive class.
    alarms : Share
        Images of the other class that are called positive.
    where : str
        ``"on test"`` or ``"in cross-validation"``.
    """

    aim: Aim
    threshold: Threshold
    classes: tuple[str, ...]
    recall: Share
    precision: Share
    alarms: Share
    where: str

    @property
    def positive(self) -> str:
        """Name of the positive class."""
        return self.classes[self.threshold.positive]

    @property
    def other(self) -> str:
        """Name of the other class."""
        return self.classes[1 - self.threshold.positive]

    @property
    def share(self) -> Share:
        """What the aim is about, as tested."""
        return self.precision if self.aim.name == "precision" else self.recall

    @property
    def verdict(self) -> Verdict:
        """Tell whether a least value was reached.

        ``"reached"``: the whole interval is at it or above. ``"missed"``: the share is below it.
        ``"unclear"``: the share is not below it, but the interval is. ``""`` for the aims that
        have no least value.
        """
        if not self.aim.least:
            return ""
        if not self.share.value >= self.aim.least:
            return "missed"
        return "reached" if self.share.interval[0] >= self.aim.least else "unclear"

    @property
    def needed(self) -> int:
        """How many images it takes at least to show that the aim is reached: all of them right."""
        return images_needed(self.aim)

    @property
    def supported(self) -> bool:
        """Whether there are enough images to show that the aim is reached."""
        count = self.share.count if self.share.effective is None else self.share.effective
        if self.aim.name == "precision":
            count = max(count, self.recall.count)  # as many could be called
        return count >= self.needed

    @property
    def headline(self) -> str:
        """Say whether the aim was reached, how many of how many, and what it costs."""
        found = self.recall
        figures = (
            f"{found.hits:,} of {found.count:,} {self.positive} found (recall {found}), with "
            f"{self.false_alarms} (precision {self.precision})."
        )
        return " ".join([*self.in_a_word, figures])

    @property
    def in_a_word(self) -> tuple[str, ...]:
        """Say whether the aim was reached, in one sentence; none for aims without a least value."""
        what = self.threshold.aim_text
        sentence = {
            "reached": f"Aim reached {self.where}: {what}.",
            "missed": f"Aim missed {self.where}: {what}.",
            "unclear": f"Aim met {self.where}, by too few images to be sure: {what}.",
        }
        return (sentence[self.verdict],) if self.verdict else ()

    @property
    def false_alarms(self) -> str:
        """Say what it costs: how many images of the other class are called positive."""
        return f"{self.alarms.hits:,} false alarms among {self.alarms.count:,} {self.other}"

    @property
    def support(self) -> str:
        """Say that these data cannot support the aim, and what would help; else empty."""
        if self.supported:
            return ""
        count = self.recall.count
        folds = "" if self.where == _NESTED else "; with --cv 5 all images are tested on"
        few = f"there are {count:,}"
        if count >= self.needed and self.recall.effective is not None:
            few += (
                f", which come in groups or folds and tell as much as {self.recall.effective:.0f}"
            )
        about = "a precision" if self.aim.name == "precision" else "a recall"
        return (
            f"These data cannot show {about} of {self.aim.least:g}: that takes {self.needed:,} or "
            f"more tested images of {self.positive}, and {few}. Add images of {self.positive}"
            f"{folds}."
        )

    @property
    def rule(self) -> str:
        """Say when an image is called positive, as it follows a head's name and a colon."""
        return f"{self.threshold.rule(self.classes)}."

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdict, and what the data cannot support."""
        return tuple(filter(None, (self.headline, self.support)))


_NESTED = "in cross-validation"


def images_needed(aim: Aim) -> int:
    """Count the images that it takes to show that an aim is reached, if all of them are right."""
    least = min(aim.least, 0.999)  # 1 itself cannot be shown by any number
    return math.ceil(NORMAL_975**2 * least / (1 - least)) if least else 0


def rank(validation: Metrics | None, aim_cost: float | None) -> tuple[float, float]:
    """Give what heads are compared by, the lower the better: the aim's cost, then the log loss.

    One without figures on validation comes last.
    """
    return (aim_cost or 0.0, validation.log_loss) if validation else (math.inf, math.inf)


def judge_aim(
    threshold: Threshold | None, test: Metrics, classes: Sequence[str], *, nested: bool
) -> AimOutcome | None:
    """Hold a head's threshold against the images that it was tested on; None without one."""
    if threshold is None or len(classes) != 2:
        return None
    try:
        aim = Aim.from_text(threshold.aim)
    except PipelineError:  # in a stranger's run
        aim = Aim(threshold.aim)
    positive, other = threshold.positive, 1 - threshold.positive
    recall = test.recall(other)
    alarms = Share(recall.count - recall.hits, recall.count, recall.effective)
    return AimOutcome(
        aim,
        threshold,
        tuple(classes),
        test.recall(positive),
        test.precision(positive),
        alarms,
        _NESTED if nested else "on test",
    )
