"""How pixels are decoded, where it can be chosen: the white level of 16-bit grey, and the page."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from pipeline.errors import PipelineError

VERSION = "1"
"""Version of how pixels are decoded; part of every recipe, so it goes up when pixels change."""

MAX_16_BIT = 65_535
_DIGITS = 9  # of a page's number


@dataclass(frozen=True)
class Decoding:
    """What becomes pixels.

    Parameters
    ----------
    white : int, optional
        The value of 16-bit grey that is white; the default is the largest that the file's number
        of bits can hold. No image may have larger ones.
    page : int
        Which page of a TIFF, from 1 on.

    Raises
    ------
    PipelineError
        A value is out of range.
    """

    white: int | None = None
    page: int = 1

    def __post_init__(self) -> None:
        if self.white is not None and not 1 <= self.white <= MAX_16_BIT:
            raise PipelineError(
                f"white level {self.white} is out of range.",
                expected=f"1 to {MAX_16_BIT}; 4095 for 12 bits",
            )
        if not 1 <= self.page < 10**_DIGITS:
            raise PipelineError(f"there is no page {self.page}.", expected="1 for the first page")

    @property
    def name(self) -> str:
        """What a recipe calls it; its version alone where nothing was chosen."""
        white = "" if self.white is None else f" white={self.white}"
        return VERSION + white + (f" page={self.page}" if self.page > 1 else "")

    @classmethod
    @functools.cache
    def from_name(cls, name: str) -> Decoding:
        """Return what has this name.

        Raises
        ------
        PipelineError
            This version of the program decodes in another way, or the name is not one.
        """
        match = re.fullmatch(
            rf"{VERSION}(?: white=(\d{{1,5}}))?(?: page=(\d{{1,{_DIGITS}}}))?", name
        )
        decoding = match and cls(int(match[1]) if match[1] else None, int(match[2] or 1))
        if decoding is None or decoding.name != name:
            raise PipelineError(
                f"pixels were decoded in a way that is not known: {name!r}.",
                expected=f"version {VERSION}, with or without a white level and a page",
                fix="use the version of this program that made them",
            )
        return decoding
