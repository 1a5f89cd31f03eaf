"""Who is fitted on what, chosen by what and judged on what: the settings, and the folds.

Every head gets the same images, folds and seeds. Images of one group, and files with the same
bytes, are never parted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

from pipeline.data.dataset import Dataset
from pipeline.errors import PipelineError
from pipeline.evaluation.threshold import Aim

_FEWEST_FOLDS = 3  # of nested ones: one to test on, one to choose by, one to learn from


class Shares(TypedDict, total=False):
    """Shares of the splits, as `pipeline.data.loading.load_dataset` takes them."""

    validation: float
    test: float


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How heads are fitted, chosen and judged.

    As it stands: candidates are fitted on the training split, compared by their log loss on the
    validation split, the best is fitted again on both, and judged once on the test split.

    Attributes
    ----------
    search : bool
        Compare candidates by cross-validation on training and validation images together.
    cv : int or None
        Nested cross-validation with this number of folds in place of the splits: every image is
        tested on once, by a fit that was chosen and made without it. The model that is kept is
        fitted on all images.
    repeats : int
        How often that is done, with other folds and seeds.
    threshold : str or None
        Aim of a threshold for two classes; see `pipeline.evaluation.threshold.Aim`.
    positive : str or None
        The class whose probability that is; the default is the second.
    balanced : bool
        Whether all classes count the same in training, however many images they have.
    """

    search: bool = False
    cv: int | None = None
    repeats: int = 1
    threshold: str | None = None
    positive: str | None = None
    balanced: bool = False

    def __post_init__(self) -> None:
        if self.cv is not None and self.cv < _FEWEST_FOLDS:
            raise PipelineError(
                f"{self.cv} folds are too few.",
                expected=f"{_FEWEST_FOLDS} or more: to test on, to choose by and to learn from",
            )
        if self.repeats < 1 or (self.repeats > 1 and self.cv is None):
            raise PipelineError(
                f"{self.repeats} repeats.", expected="1 or more, of a cross-validation (--cv 5)"
            )
        if self.threshold is not None:
            Aim.from_text(self.threshold)
        elif self.positive is not None:
            raise PipelineError(
                "a positive class is for a threshold only.", fix="give --threshold f1, say"
            )

    @property
    def shares(self) -> Shares:
        """Shares of the splits for `load_dataset`, where none are to be drawn; else its own."""
        return {} if self.cv is None else {"validation": 0.0, "test": 0.0}

    @property
    def aim(self) -> Aim | None:
        """What the threshold is to be chosen for."""
        return None if self.threshold is None else Aim.from_text(self.threshold)

    def check(self, dataset: Dataset) -> Dataset:
        """Refuse a data set that cannot be judged so; give it with the splits that are used.

        Raises
        ------
        PipelineError
            A split is empty, or a threshold is wanted, and does not fit the classes.
        """
        self.positive_of(dataset.classes)
        if self.cv is not None:
            return dataset.all_in("train")  # all may be learned from, in all their views
        dataset.require_all_splits()
        return dataset

    def positive_of(self, classes: Sequence[str]) -> int:
        """Give the number of the positive class.

        Raises
        ------
        PipelineError
            A threshold is wanted, and there are more than two classes, or none of that name.
        """
        if self.threshold is not None and len(classes) != 2:
            raise PipelineError(
                f"there are {len(classes)} classes.", expected="two, for a threshold between them"
            )
        if self.positive is not None and self.positive not in classes:
            raise PipelineError(
                f"there is no class {self.positive!r}.", expected=f"one of {', '.join(classes)}"
            )
        return 1 if self.positive is None else list(classes).index(self.positive)

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain values, ready for JSON."""
        return asdict(self)
