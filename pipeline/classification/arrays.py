"""Types of the arrays that this wing computes with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RowMatrix = npt.NDArray[np.float32]
"""Features, shape (n, d): a row an image, or an image's view."""

Labels = npt.NDArray[np.int64]
"""Classes, from 0; shape (n,)."""

Places = npt.NDArray[np.int64]
"""Positions of images, or of rows."""

Floats = npt.NDArray[np.float64]
"""Probabilities, shape (n, k), or other figures."""
