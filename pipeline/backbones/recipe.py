"""Everything beside an image's bytes that decides the value of its features."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.images import decode
from pipeline.errors import StoreError
from pipeline.system.documents import Document, NewerError, convert, read_document, to_json

SCHEMA = 1
"""Version of what is written to disk: recipe files and shards."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an image file becomes a row of features: the settings of stage one.

    Recipes that differ in any field have different fingerprints, so their rows lie in different
    folders and never mix. What cannot change a value (batch size, number of threads, machine) is
    not here.

    Parameters
    ----------
    backbone : str
        Name of the network; see `pipeline.backbones.registry.BACKBONES`.
    weights : str
        SHA-256 of its weights, as hexadecimal digits.
    layer : str
        Where the network is cut; a row is this layer's output.
    shape : tuple of int
        Shape of one row, ``(height, width, channels)``.
    size : int
        Side of the square input, in pixels.
    decoding : str
        How a file's bytes become pixels: the name of a `pipeline.data.decoding.Decoding`.
    resize : str
        Filter that scales a picture to ``size``.
    scaling : str
        What is done to pixels before the first layer, as `pipeline.backbones.scaling` names it.
    precision : str
        Number format that the network computes in.
    engine : str
        Library that computes.
    calibration : str
        For precision ``"int8"``, what was measured on a sample of images; else ``"none"``.
    augmentation : str
        How the views beyond view 0 are made; ``"none"`` for view 0 itself.
    """

    backbone: str
    weights: str
    layer: str
    shape: tuple[int, int, int]
    size: int
    decoding: str
    resize: str
    scaling: str
    precision: str
    engine: str
    calibration: str = "none"
    augmentation: str = "none"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the recipe in canonical JSON, as 64 hexadecimal digits."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def needs_calibration(self) -> bool:
        """Whether a calibration has to be measured before rows can be computed."""
        return self.precision == "int8" and self.calibration == "none"

    @property
    def name(self) -> str:
        """Name of the store's folder: readable parts, then the fingerprint's first 12 digits."""
        return f"{self.backbone}-{self.layer}-{self.size}-{self.fingerprint[:12]}"

    def decode(self, content: bytes) -> npt.NDArray[np.uint8]:
        """Decode an image file to the network's input, uint8 (size, size, 3)."""
        return decode(content, self.size, resize=self.resize, decoding=self.decoding)

    def to_json(self) -> str:
        """Write the recipe as readable JSON, with the schema version and the fingerprint."""
        return to_json(RecipeDocument(fingerprint=self.fingerprint, recipe=asdict(self)))

    @classmethod
    def from_json(cls, text: str, *, source: str) -> Recipe:
        """Read what `to_json` wrote; errors name `source`.

        Raises
        ------
        StoreError
            The text has a newer schema, is damaged, or does not match its fingerprint.
        """
        try:
            document = read_document(text, RecipeDocument)
            recipe = cls.from_fields(document.recipe)
        except NewerError as error:
            raise newer(source, error.version) from error
        except ValueError as error:
            raise damaged(source, f"not a recipe ({error})") from error
        if document.fingerprint != recipe.fingerprint:
            raise damaged(source, "its fingerprint does not match its contents")
        return recipe

    @classmethod
    def from_fields(cls, values: dict[str, Any]) -> Recipe:
        """Make a recipe from the dictionary of its fields, as JSON gives it back.

        Raises
        ------
        ValueError
            A field is missing, unknown or malformed.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise ValueError(f"fields {sorted(set(values) ^ names)} are missing or unknown")
        return convert(values, cls)


class RecipeDocument(Document, frozen=True, kw_only=True):
    """What `recipe.json` holds."""

    schema: int = SCHEMA
    fingerprint: str
    recipe: dict[str, Any]


def newer(source: str, schema: int) -> StoreError:
    """Return the error for a file that a later version of this project wrote."""
    return StoreError(
        f"{source} is of schema version {schema}.",
        expected=f"version {SCHEMA} or older, which is what this installation reads",
        fix="update cached-feature-pipeline, or name another cache with --cache",
    )


def damaged(source: str, reason: str) -> StoreError:
    """Return the error for a recipe file that was changed."""
    return StoreError(
        f"{source} is damaged: {reason}.",
        expected="the recipe.json that was written when the store was made",
        fix="restore the file, or delete its folder: the features are then computed again",
    )
