"""What is to be learned of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.data.names import nfc

Places = npt.NDArray[np.int64]


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
