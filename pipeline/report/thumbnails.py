"""Pictures as they are put into a page."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from pipeline.runs.documents import NOT_KEPT, PicturesDocument


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
            return cls(path, data_uri("jpeg", picture.jpeg), "")
        return cls(path, "", kept.missing.get(path, NOT_KEPT))


def data_uri(kind: str, content: bytes) -> str:
    """Put a picture into a page; empty where there is none."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}" if content else ""
