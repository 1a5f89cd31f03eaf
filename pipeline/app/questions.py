"""What is asked of the person who labels, and what was answered."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pipeline.data.names import MISSING, UNCLEAR, nfc
from pipeline.data.urls import Location
from pipeline.errors import PipelineError, printable


@dataclass(frozen=True)
class Question:
    """An image to be labelled.

    Attributes
    ----------
    place : int
        Its position in the data set.
    path : Path or Url
        Its file.
    label : str
        The label that it has, empty if it has none.
    suggested : str
        The class that it probably has, empty while that is not known.
    why : {"typical", "unsure", "suspicious", "skipped", "undone"}
        It is typical of many images; the classifier is least sure of it; its label may be wrong; it
        was skipped before; or its answer was taken back.
    """

    place: int
    path: Location
    label: str
    suggested: str
    why: str


@dataclass(frozen=True)
class Change:
    """What became of an image's label.

    Attributes
    ----------
    path : Path or Url
        Its file.
    before, label : str
        The label that it had, and the one that it has now; empty if none.
    """

    path: Location
    before: str
    label: str


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer, and what it takes to take it back."""

    place: int
    label: str
    before: str
    suspected: str | None  # the class that a suspicious label probably should be
    confirmed: bool  # it is the label that the image had, and that was seen


def class_name(label: str, classes: Collection[str]) -> str:
    """Return the class that an answer names: one of those so far, or a new one."""
    name = nfc(label.strip())
    if name not in classes and (not name or name in MISSING - UNCLEAR or printable(name) != name):
        raise PipelineError(
            f"{label!r} cannot be the name of a class.",
            expected="a name on one line, and not as programs write a missing value",
        )
    return name
