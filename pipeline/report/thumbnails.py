"""Pictures as they are put into a page, and maps to be laid over them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.images import png
from pipeline.runs.documents import NOT_KEPT, PicturesDocument

_MAP_SIDE = 40
_FOR, _AGAINST = (230, 97, 1), (33, 102, 172)  # the colour-blind can tell them apart
_OPAQUE = 170  # of 255: what lies below is still seen


@dataclass(frozen=True)
class Picture:
    """An image file's picture for a page, or why there is none.

    Attributes
    ----------
    path : str
        The file.
    source : str
        A small JPEG as a ``data:`` URI; empty where there is none.
    reason : str
        Why there is none.
    """

    path: str
    source: str
    reason: str

    @classmethod
    def of(cls, path: str, kept: PicturesDocument) -> Picture:
        """Find the picture of a file among those kept in a run."""
        if picture := kept.images.get(path):
            return cls(path, _uri("jpeg", picture.jpeg), "")
        return cls(path, "", kept.missing.get(path, NOT_KEPT))


Centres = Callable[[int], npt.NDArray[np.float64]]
"""Number of cells along a side to their middles, as shares of the side."""


def overlay(values: npt.NDArray[np.float64], centres: Centres) -> str:
    """Draw a map of the evidence for a class (orange) and against it (blue).

    Each value is drawn where the network's cell lies, and interpolated between. The largest value
    of the map, of either sign, has the strongest colour.
    """
    largest = np.abs(values).max()
    if not largest:
        return ""
    at = (np.arange(_MAP_SIDE) + 0.5) / _MAP_SIDE
    for axis in (0, 1):
        middles = centres(values.shape[axis])
        values = np.apply_along_axis(lambda line, x=middles: np.interp(at, x, line), axis, values)
    pixels = np.empty((_MAP_SIDE, _MAP_SIDE, 4), np.uint8)
    pixels[..., :3] = np.where(values[..., None] > 0, _FOR, _AGAINST)
    pixels[..., 3] = np.rint(_OPAQUE * np.abs(values) / largest)
    return _uri("png", png(pixels))


def strongest(values: npt.NDArray[np.float64], centres: Centres) -> str:
    """Say where a map's largest value lies."""
    down, across = np.unravel_index(values.argmax(), values.shape)
    vertical = _third(centres(values.shape[0])[down], ("top", "middle", "bottom"))
    horizontal = _third(centres(values.shape[1])[across], ("left", "centre", "right"))
    return f"{vertical} {horizontal}"


def _third(share: float, names: tuple[str, str, str]) -> str:
    return names[min(int(3 * share), 2)]


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
