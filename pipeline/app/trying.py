"""A model that stays in memory, and what it says of a picture's bytes."""

from __future__ import annotations

import os
import threading
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.analysis.class_maps import find_class_maps
from pipeline.app.looking import Collection
from pipeline.backbones.registry import get_backbone
from pipeline.data.augmentation import Augmentation
from pipeline.data.images import png
from pipeline.errors import ImageError, PipelineError
from pipeline.features.extractor import Extractor
from pipeline.features.listener import Listener
from pipeline.features.lookup import RowLookup
from pipeline.features.views import Views
from pipeline.models.model import Model, Prediction
from pipeline.report.thumbnails import overlay, strongest

Rows = npt.NDArray[np.float32]


_NOWHERE = Path(os.devnull) / "cache"  # reading a shard for one picture takes longer than computing


@dataclass(frozen=True)
class Trial:
    """Classifies pictures, by a model whose network is loaded once.

    Parameters
    ----------
    model : Model
        The model.
    extractor : Extractor
        Where the network's weights are.
    collection : Collection, optional
        Images that similar ones are looked for in.
    """

    model: Model
    extractor: Extractor
    collection: Collection | None = None
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def answer(self, content: bytes, similar: int = 0) -> dict[str, Any]:
        """Classify an image file, as `pipeline predict --json` does.

        Parameters
        ----------
        content : bytes
            The file.
        similar : int
            How many of the most similar images to name, too.
        """
        found, rows = self._classified(content)
        answer: dict[str, Any] = {
            "label": found.label,
            "probabilities": found.probabilities,
            "error": found.error,
        }
        if self.model.threshold:
            answer["threshold"] = asdict(self.model.threshold)
        if similar and self.collection and not found.error:
            rows = self._rows(content) if rows is None else rows
            answer["similar"] = self.collection.similar_to(rows[0], similar)
        return answer

    def _classified(self, content: bytes) -> tuple[Prediction, Rows | None]:
        """Classify a picture, and give its rows, which an exported file does not."""
        if self.model.portable:
            extractor = replace(self.extractor, cache=_NOWHERE)
            return self.model.predict(content, extractor=extractor), None
        [(place, rows)] = self._lookup.rows([content], Listener())
        [found] = self.model.predictions([(place, rows)])
        return found, None if isinstance(rows, ImageError) else rows

    def heat_map(self, content: bytes, label: str) -> dict[str, Any]:
        """Draw what in a picture counts for a class and against it, to be laid over the picture."""
        if label not in self.model.classes:
            raise PipelineError(f"the model knows no class {label!r}.")
        row, number = self._rows(content)[:1], self.model.classes.index(label)
        with self._one_at_a_time:
            maps = find_class_maps(self._whole, row, np.array([number]))
        values = maps.values[0]
        if values.size == 1:
            raise PipelineError(
                "this classifier learned from the maxima over the whole picture, which have no "
                "place in it: there is no map.",
                fix="classify with --pool flatten for one that has maps",
            )
        size = self.model.recipe.size
        backbone = get_backbone(self.model.recipe.backbone)

        def centres(cells: int) -> npt.NDArray[np.float64]:
            return backbone.cell_centres(cells, size) / size

        drawn = overlay(values, centres)
        return {"map": drawn, "where": strongest(values, centres) if drawn else ""}

    def warm_up(self) -> None:
        """Load what the first picture would otherwise wait for."""
        blank = png(np.zeros((1, 1, 3), np.uint8))
        self.answer(blank, similar=1)

    @property
    def _whole(self) -> Model:
        """The model with its head, which an exported file does not give."""
        if self.model.estimator is None and self.model.original is None:
            raise PipelineError(
                "an exported file has no maps.", fix="name the run that it was exported from"
            )
        return self.model.original() if self.model.original else self.model

    @cached_property
    def _lookup(self) -> RowLookup:
        augmentation = Augmentation.from_name(self.model.augmentation)
        views = Views(count=self.model.views, augmentation=augmentation, everywhere=True)
        return replace(self.extractor, recipe=self.model.recipe).lookup(views, stored=False)

    def _rows(self, content: bytes) -> Rows:
        """Compute the rows of an image file's views."""
        [(_, rows)] = self._lookup.rows([content], Listener())
        if isinstance(rows, ImageError):
            raise rows.bare()
        return rows
