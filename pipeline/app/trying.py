"""A model that stays in memory, and what it says of a picture's bytes."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.analysis.heat_maps import heat_map, mapped_model
from pipeline.app.looking import Collection
from pipeline.data.images import png
from pipeline.errors import ImageError
from pipeline.features.computing import LateBackbone
from pipeline.features.extractor import Extractor
from pipeline.features.listener import Listener
from pipeline.features.lookup import RowLookup
from pipeline.models.model import Model
from pipeline.report.thumbnails import data_uri

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

    def answer(self, content: bytes, similar: int = 0) -> dict[str, Any]:
        """Classify an image file, as `pipeline predict --json` does.

        Parameters
        ----------
        content : bytes
            The file.
        similar : int
            How many of the most similar images to name, too.
        """
        [(found, rows)] = self.model.predict_rows([content], self._for(self.model), Listener())
        answer: dict[str, Any] = {
            "label": found.label,
            "probabilities": found.probabilities,
            "error": found.error,
        }
        if self.model.threshold:
            answer["threshold"] = asdict(self.model.threshold)
        if similar and self.collection and not found.error:
            if self.model.portable:
                [(_, rows)] = self._lookup.rows([content], Listener())
            if isinstance(rows, ImageError):
                raise rows.bare()
            answer["similar"] = self.collection.similar_to(rows[0], similar)
        return answer

    def heat_map(self, content: bytes, label: str) -> dict[str, Any]:
        """Draw what in a picture counts for a class and against it, to be laid over the picture."""
        mapped = mapped_model(self.model)
        found = heat_map(mapped, content, label, extractor=self._for(mapped))
        return {"map": data_uri("png", found.overlay()), "where": found.where}

    def warm_up(self) -> None:
        """Load what the first picture would otherwise wait for."""
        blank = png(np.zeros((1, 1, 3), np.uint8))
        self.answer(blank, similar=1)

    def _for(self, model: Model) -> Extractor:
        """Return what pictures go through: the network, or what an exported file has of it."""
        network = self._network
        return replace(network, forward=self.extractor.forward) if model.portable else network

    @cached_property
    def _network(self) -> Extractor:
        """A network that stays loaded; an exported file classifies without it."""
        recipe = self.model.recipe
        forward = self.extractor.forward or LateBackbone(recipe, self.extractor.weights)
        return replace(self.extractor, recipe=recipe, cache=_NOWHERE, forward=forward)

    @cached_property
    def _lookup(self) -> RowLookup:
        return self._network.lookup(stored=False)
