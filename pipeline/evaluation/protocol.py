"""Which images heads are trained, chosen and tested on: the settings.

Every head gets the same images, folds and seeds. Images of one group, and copies of one file, are
never split between training and testing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from pipeline.data.dataset import Dataset
from pipeline.data.splits import Shares
from pipeline.data.targets import Targets
from pipeline.errors import DataError, PipelineError
from pipeline.evaluation.threshold import Aim

_FEWEST_TO_JUDGE = 10  # test images of a class: with fewer, its recall is uncertain by 30 points
_MOST_IMAGES = 1000  # of a data set that is cross-validated unasked: it takes 15 times as long
_FOLDS = 5
_FEWEST_FOLDS = 3  # one to test on, one to choose by, one to learn from

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How heads are trained, chosen and tested.

    By default, candidates are trained on the training split and compared by their log loss on the
    validation split; the best is trained again on both, and tested once on the test split. Where
    splits were drawn and have too few images to judge by, `classify` cross-validates instead.

    Attributes
    ----------
    search : bool
        Compare candidates by cross-validation on training and validation images together.
    cv : int or None
        Nested cross-validation with this number of folds, in place of the splits: every image is
        tested once, by a model that was chosen and trained without it. The model that is saved is
        trained on all images.
    repeats : int
        How often the cross-validation is repeated, with other folds and seeds.
    threshold : str or None
        What a threshold between two classes is chosen for, as "recall=0.95"; see
        `pipeline.evaluation.threshold.Aim`.
    positive : str or None
        Of two classes, the one that precision, recall and the threshold are of; the default is the
        rarer, and of two that have as many images the second.
    splits : bool
        Judge by the splits, however few images they have.
    balanced : bool
        Whether all classes have the same weight in training, however many images they have.
    """

    search: bool = False
    cv: int | None = None
    repeats: int = 1
    threshold: str | None = None
    positive: str | None = None
    balanced: bool = False
    splits: bool = False

    def __post_init__(self) -> None:
        if self.cv is not None and self.cv < _FEWEST_FOLDS:
            raise PipelineError(
                f"{self.cv} {'fold is' if self.cv == 1 else 'folds are'} too few",
                expected=f"{_FEWEST_FOLDS} or more: to test on, to choose by and to learn from",
            )
        if self.repeats < 1:
            raise PipelineError(f"{self.repeats} repeats", expected="1 or more")
        if self.repeats > 1 and self.cv is None:
            raise PipelineError(
                f"{self.repeats} repeats without cross-validation",
                expected="1 repeat of the given splits",
                fix="give the number of folds, for example --cv 5",
            )
        if self.splits and self.cv is not None:
            raise PipelineError("--cv and --no-cv exclude each other.")
        if self.threshold is not None:
            Aim.from_text(self.threshold)

    @property
    def shares(self) -> Shares:
        """Shares of the splits for `load_dataset`: none are held out for cross-validation."""
        return Shares() if self.cv is None else Shares(validation=0.0, test=0.0)

    @property
    def aim(self) -> Aim | None:
        """What the threshold is chosen for."""
        return None if self.threshold is None else Aim.from_text(self.threshold)

    def check(self, dataset: Dataset) -> Dataset:
        """Return the data set with the splits that are used, or refuse it.

        Raises
        ------
        PipelineError
            A split is empty, or the threshold does not fit the classes.
        """
        self.positive_of(dataset.targets)
        if self.cv is not None:
            return dataset.all_in("train")  # every image is learned from, in all its views
        dataset.require_all_splits()
        return dataset

    def judged(self, dataset: Dataset) -> Dataset:
        """Return the data set with the images in the splits that they are judged in."""
        return dataset if self.cv is None else dataset.all_in("test")

    def suited(self, dataset: Dataset, seed: int) -> tuple[Protocol, tuple[str, ...]]:
        """Return the protocol that these images can be judged by, and say so where it is another.

        Of splits that were drawn, the test split must have 10 images of every class. Where it has
        fewer, images are tested on in cross-validation, unless that takes long or cannot be done.
        """
        if self.cv is not None or self.splits or not {"validation", "test"} <= {*dataset.drawn}:
            return self, ()
        counts = dataset.targets.counts(dataset.where("test"))
        fewest = int(counts.argmin())
        if counts[fewest] >= _FEWEST_TO_JUDGE:
            return self, ()
        few = f"{'only ' if counts[fewest] else ''}{counts[fewest] or 'no'} images"
        if counts[fewest] == 1:
            few = "only 1 image"
        few += f" of {dataset.classes[fewest]}"
        if len(dataset) > _MOST_IMAGES:
            return self, (f"The test split has {few}; --cv 5 tests on all images.",)
        try:
            folds = most_folds(dataset, seed)
        except DataError:
            return self, (f"The test split has {few}, too few to judge by. Add images.",)
        remark = (
            f"Cross-validated, since the test split would have {few}; --no-cv keeps the splits."
        )
        return replace(self, cv=folds, search=False), (remark,)

    def with_rows_at_hand(self) -> Protocol:
        """Return the protocol for rows in memory.

        A threshold is then chosen on all images that may be learned from, each judged by a fit
        without it: those of the folds of a search.
        """
        folds = self.search or (self.threshold is not None and self.cv is None)
        return replace(self, search=folds)

    def remarks_on(self, targets: Targets) -> tuple[str, ...]:
        """Say which class is positive, where nobody named it."""
        counts = targets.counts()
        if len(counts) != 2 or self.positive is not None or counts[0] == counts[1]:
            return ()
        name = targets.classes[self.positive_of(targets)]
        return (f"The positive class is {name}, the rarer one; --positive names the other.",)

    def positive_of(self, targets: Targets) -> int:
        """Return the number of the positive class; 1 where there are more than two.

        Raises
        ------
        PipelineError
            There is a threshold or a positive class, and more than two classes, or no class of
            that name.
        """
        classes = targets.classes
        if len(classes) != 2 and (self.threshold is not None or self.positive is not None):
            raise PipelineError(
                f"there are {len(classes)} classes",
                expected="two, for a threshold between them, and for one of them to be positive",
                fix="put the others together, as in a CSV with the labels defect and good",
            )
        if self.positive is not None and self.positive not in classes:
            raise PipelineError(
                f"there is no class {self.positive!r}", expected=f"one of {', '.join(classes)}"
            )
        if self.positive is not None:
            return classes.index(self.positive)
        first, second, *others = targets.counts()
        return 0 if first < second and not others else 1


def in_most_folds(make: Callable[[int], _Result]) -> _Result:
    """Return what `make` gives for 5 folds, or for fewer where the images are too few for those."""
    for folds in range(_FOLDS, _FEWEST_FOLDS, -1):
        with suppress(DataError):
            return make(folds)
    return make(_FEWEST_FOLDS)


def most_folds(dataset: Dataset, seed: int) -> int:
    """Tell in how many folds images can be dealt out for a nested cross-validation, or refuse."""
    from pipeline.evaluation.folds import deal_folds  # not at the top: scikit-learn comes with it
    from pipeline.evaluation.groups import find_units

    labels, units = dataset.targets.labels, find_units(dataset)

    def deal(folds: int) -> int:
        dealt = deal_folds(labels, units, dataset.classes, folds=folds, seed=seed, nested=True)
        return len(dealt)

    return in_most_folds(deal)
