"""Errors that tell what was found, what was expected and what to do next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Self

# Control characters, marks that turn or break the text around them or are not seen, halves of
# surrogate pairs, which stand for bytes that are no text, and what no XML file may hold.
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: object) -> str:
    """Show a text from outside on one line: what a terminal or page would obey, as an escape.

    All that is shown to people comes through here.
    """
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], str(text))


class PipelineError(Exception):
    """An error that the user can act on.

    Parameters
    ----------
    found : str
        What is wrong, as a sentence: what was found, and where.
    expected : str, optional
        What was expected instead.
    fix : str, optional
        What to do next.
    """

    def __init__(self, found: str, *, expected: str = "", fix: str = "") -> None:
        self.found = found
        self.expected = expected
        self.fix = fix
        super().__init__(found, expected, fix)

    def bare(self) -> Self:
        """Return the same without its traceback, which would keep what it was about in memory."""
        return type(self)(self.found, expected=self.expected, fix=self.fix)

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, an error would be made again from positional arguments, in another process.
        return partial(type(self), expected=self.expected, fix=self.fix), (self.found,)

    def __str__(self) -> str:
        lines = [self.found]
        if self.expected:
            lines.append(f"Expected: {self.expected}")
        if self.fix:
            lines.append(f"To do: {self.fix}")
        return "\n".join(map(printable, lines))


class ImageError(PipelineError):
    """One image cannot be read; its neighbours are not concerned."""


class DataError(PipelineError):
    """The data set as a whole cannot be used."""


class WeightsError(PipelineError):
    """The backbone's weights are missing or are not what they should be."""


class StoreError(PipelineError):
    """The feature store cannot be read or written."""


class ClusterError(PipelineError):
    """The cluster that was to do the work cannot, or cannot any more."""


class ModelError(PipelineError):
    """A saved model cannot be read."""


def in_one_line(error: BaseException, classes: Sequence[str] = ()) -> str:
    """Give any error's text in one line; libraries know classes by number, people by name."""
    if isinstance(error, PipelineError):
        text = error.found
    else:
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
    names = {str(number): name for number, name in enumerate(classes)}
    named = re.sub(r"(?<=\b[Cc]lass )\d+\b", lambda found: names.get(found[0], found[0]), text)
    return printable(" ".join(named.split()))


def did_you_mean(value: str, known: Sequence[str]) -> str:
    """Name those of the known names that an unknown one is near to; empty if there are none."""
    import difflib

    near = difflib.get_close_matches(str(value), known)
    return f"did you mean {' or '.join(near)}?" if near else ""
