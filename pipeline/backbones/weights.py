"""Published weights: the places that they come from, and the digest that they must have."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import WeightsError
from pipeline.system.packages import pip

Weights = list[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Published:
    """Weights that somebody published for a network.

    Attributes
    ----------
    digest : str, optional
        Their `weights_digest`; None where it is not known before they are read.
    keras_file : str, optional
        Name of the file that Keras downloads them into; None where Keras has none.
    package : str, optional
        Python package of the extra ``offline`` that holds them.
    package_file : str
        Which file of that package.
    package_digest : str, optional
        SHA-256 of that file, where it is to be checked before it is read.
    """

    digest: str | None = None
    keras_file: str | None = None
    package: str | None = None
    package_file: str = ""
    package_digest: str | None = None

    @property
    def downloaded(self) -> Path | None:
        """Where Keras puts the file that it downloads."""
        home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
        return home / "models" / self.keras_file if self.keras_file else None

    def cached(self) -> Path | None:
        """Find the file that Keras has downloaded before."""
        file = self.downloaded
        return file if file and file.exists() else None

    def packaged(self) -> Path | None:
        """Find the file that the extra ``offline`` installs.

        Raises
        ------
        WeightsError
            It is not the published file.
        """
        spec = find_spec(self.package) if self.package else None
        if spec is None or spec.origin is None:
            return None
        file = Path(spec.origin).parent / self.package_file
        if not file.exists():
            return None
        if self.package_digest and (digest := hashlib.sha256(file.read_bytes()).hexdigest()) != (
            self.package_digest
        ):
            raise WeightsError(
                f"{file} has the SHA-256 {digest[:12]}…",
                expected=f"{self.package_digest[:12]}…, that of the published file",
                fix=f"install it again: {pip()} install --force-reinstall {self.package}",
            )
        return file


def weights_digest(weights: Sequence[npt.NDArray[np.float32]]) -> str:
    """Return the SHA-256 of the weights' float32 values, little-endian, in order."""
    digest = hashlib.sha256()
    for array in weights:
        digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return digest.hexdigest()


def check_finite(weights: Sequence[npt.NDArray[np.float32]]) -> None:
    """Refuse, with a ValueError, weights with which every row would be the same."""
    if not all(np.isfinite(array).all() for array in weights):
        raise ValueError("its numbers are not finite")
