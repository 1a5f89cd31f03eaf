"""Published weights: the places that they come from, and the digest that they must have."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Weights = list[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Published:
    """Weights that somebody published for a network.

    Attributes
    ----------
    digest : str
        Their `weights_digest`.
    keras_file : str
        Name of the file that Keras downloads them into.
    package : str, optional
        Python package of the extra ``offline`` that holds them.
    package_file : str
        Which file of that package.
    """

    digest: str
    keras_file: str
    package: str | None = None
    package_file: str = ""

    def cached(self) -> Path | None:
        """Find the file that Keras has downloaded before."""
        home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
        file = home / "models" / self.keras_file
        return file if file.exists() else None

    def packaged(self) -> Path | None:
        """Find the file that the extra ``offline`` installs."""
        spec = find_spec(self.package) if self.package else None
        if spec is None or spec.origin is None:
            return None
        file = Path(spec.origin).parent / self.package_file
        return file if file.exists() else None


def weights_digest(weights: Sequence[npt.NDArray[np.float32]]) -> str:
    """Return the SHA-256 of the weights' float32 values, little-endian, in order."""
    digest = hashlib.sha256()
    for array in weights:
        digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return digest.hexdigest()


def layers_by_name(model: Any) -> dict[str, Any]:
    """Collect a Keras model's layers, those of models inside it included."""
    layers = {}
    for layer in model.layers:
        layers[layer.name] = layer
        if hasattr(layer, "layers"):
            layers |= layers_by_name(layer)
    return layers
