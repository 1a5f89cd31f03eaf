"""A model that stays in memory, and what it says of a picture's bytes."""

from __future__ import annotations

import tempfile
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
from pipeline.backbones.running import Forward
from pipeline.data.augmentation import Augmentation
from pipeline.errors import ImageError, PipelineError
from pipeline.features.computing import LateBackbone
from pipeline.features.extractor import Extractor
from pipeline.features.views import Views
from pipeline.models.model import Model
from pipeline.report.thumbnails import overlay, strongest

Rows = npt.NDArray[np.float32]


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

    @cached_property
    def _forward(self) -> Forward:
        return self.extractor.forward or LateBackbone(self.model.recipe, self.extractor.weights)

    def answer(self, content: bytes, similar: int = 0) -> dict[str, Any]:
        """Classify an image file, as `pipeline predict --json` does.

        Parameters
        ----------
        content : bytes
            The file.
        similar : int
            How many of the most similar images to name, too.
        """
        with self._one_at_a_time:
            try:
                rows = self._rows(content)
            except ImageError as error:
                return {"label": None, "probabilities": {}, "error": error.found}
            mean = self.model.probabilities(rows).mean(axis=0)
            label = self.model.classes[int(self.model.call(mean[None])[0])]
            answer: dict[str, Any] = {
                "label": label,
                "probabilities": dict(zip(self.model.classes, mean.tolist())),
                "error": None,
            }
            if self.model.threshold:
                answer["threshold"] = asdict(self.model.threshold)
            if similar and self.collection:
                answer["similar"] = self.collection.similar_to(rows[0], similar)
            return answer

    def heat_map(self, content: bytes, label: str) -> dict[str, Any]:
        """Draw what in a picture counts for a class and against it, to be laid over the picture."""
        if label not in self.model.classes:
            raise PipelineError(f"the model knows no class {label!r}.")
        with self._one_at_a_time:
            number = self.model.classes.index(label)
            maps = find_class_maps(self.model, self._rows(content)[:1], np.array([number]))
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
        """Load the network, so that the first picture does not wait for it."""
        blank = np.zeros((1, self.model.recipe.size, self.model.recipe.size, 3), np.uint8)
        self._forward(blank)

    def _rows(self, content: bytes) -> Rows:
        """Compute the rows of an image file's views: by way of a file, as everywhere."""
        views = Views(
            count=self.model.views,
            augmentation=Augmentation.from_name(self.model.augmentation),
            everywhere=True,
        )
        with tempfile.TemporaryDirectory(prefix="pipeline-app-") as folder:
            file, nowhere = Path(folder) / "picture", Path(folder) / "cache"
            file.write_bytes(content)
            extractor = replace(
                self.extractor, recipe=self.model.recipe, cache=nowhere, forward=self._forward
            )
            [(_, rows)] = extractor.rows_of_files([file], views)
        if isinstance(rows, ImageError):
            raise rows.bare()
        return rows
