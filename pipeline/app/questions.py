"""What is asked of the person who labels, and what was answered."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.data.urls import Location


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


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer, and what it takes to take it back."""

    place: int
    label: str
    before: str
    suspected: str | None  # the class that a suspicious label probably should be
