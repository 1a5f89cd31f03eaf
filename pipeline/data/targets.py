"""What is to be learned of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from pipeline.data.names import nfc
from pipeline.errors import DataError

Places = npt.NDArray[np.int64]


def require_labels(labels: ArrayLike | None) -> None:
    """Refuse labels of which some are missing: NumPy would make texts of them, as in ``"nan"``.

    Of numbers, scikit-learn refuses those that are not finite.

    Raises
    ------
    DataError
        One is None, NaN, or what pandas has for a missing value.
    """
    kind = getattr(getattr(labels, "dtype", None), "kind", "O")
    if labels is None or kind != "O":
        return
    for place, label in enumerate(np.ravel(np.asarray(labels, dtype=object))):
        missing = label is None or type(label).__name__ in ("NAType", "NaTType")
        if missing or (isinstance(label, float | np.floating) and np.isnan(label)):
            raise DataError(
                f"label {place} is missing: it is {label}.",
                expected="a class for each row",
                fix="leave such rows out of X and y",
            )


@dataclass(frozen=True)
class Targets:
    """One of several classes for each image.

    Attributes
    ----------
    labels : ndarray of int64, shape (n,)
        Index into `classes`.
    classes : tuple of str
        Class names, sorted.
    """

    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: Sequence[int] | Places) -> Targets:
        """Return the targets of some images."""
        return replace(self, labels=self.labels[places])

    def composed(self) -> Targets:
        """Return the same with composed names of classes, those joined that are then the same."""
        names = [nfc(name) for name in self.classes]
        if names == list(self.classes):
            return self
        classes = tuple(sorted(set(names)))
        number = {name: label for label, name in enumerate(classes)}
        return Targets(np.array([number[name] for name in names])[self.labels], classes)

    def name(self, place: int) -> str:
        """Return an image's class by its name."""
        return self.classes[int(self.labels[place])]

    def counts(self, places: Places | slice = slice(None)) -> npt.NDArray[np.int64]:
        """Count the images of each class, shape (k,), among all or some."""
        return np.bincount(self.labels[places], minlength=len(self.classes))

    def right(
        self, predicted: Places, places: Places | slice = slice(None)
    ) -> npt.NDArray[np.bool_]:
        """Tell which images, among all or some, are predicted correctly."""
        right: npt.NDArray[np.bool_] = predicted == self.labels[places]
        return right
