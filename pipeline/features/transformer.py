# ruff: noqa: N803, ARG002 -- X, and y unused, are scikit-learn's interface
"""Stage one as a scikit-learn transformer, to stand first in a pipeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from pipeline.backbones.choices import DEFAULT
from pipeline.backbones.registry import make_recipe
from pipeline.data.loading import list_files
from pipeline.data.urls import locate
from pipeline.errors import ImageError
from pipeline.features.extractor import Extractor


class FeatureExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn image paths into features, computed once and then read from the cache.

    Parameters
    ----------
    backbone, layer, size, scaling, precision, resize, white, page
        As in `pipeline.backbones.registry.make_recipe`.
    cache : str
        The cache folder.
    weights : str, optional
        File with the backbone's weights; see `pipeline.backbones.backbone.Backbone.load_weights`.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> classifier = make_pipeline(FeatureExtractor(), LogisticRegression())
    """

    def __init__(
        self,
        *,
        backbone: str = DEFAULT,
        layer: str | None = None,
        size: int | None = None,
        scaling: str | None = None,
        precision: str = "auto",
        resize: str = "bilinear",
        white: int | None = None,
        page: int = 1,
        cache: str = "cache",
        weights: str | None = None,
    ) -> None:
        self.backbone = backbone
        self.layer = layer
        self.size = size
        self.scaling = scaling
        self.precision = precision
        self.resize = resize
        self.white = white
        self.page = page
        self.cache = cache
        self.weights = weights

    def fit(self, X: Sequence[str | Path], y: Any = None) -> Self:
        """Do nothing: the backbone is trained already."""
        return self

    def transform(self, X: Sequence[str | Path]) -> npt.NDArray[np.float32]:
        """Look up the features of image files, and compute those that are not cached.

        Parameters
        ----------
        X : sequence of str or Path, shape (n,)
            Image files.

        Returns
        -------
        ndarray of float32, shape (n, height * width * channels)
            Flattened features; 8,192 of them by default.

        Raises
        ------
        ImageError
            A file cannot be read. A transformer may not leave samples out.
        """
        weights = Path(self.weights) if self.weights else None
        recipe = make_recipe(
            self.backbone,
            layer=self.layer,
            size=self.size,
            scaling=self.scaling,
            precision=self.precision,
            resize=self.resize,
            white=self.white,
            page=self.page,
            weights=weights,
        )
        paths = [locate(path) for path in np.ravel(np.asarray(X, dtype=object))]
        dataset = list_files(paths)
        extractor = Extractor(recipe, cache=self.cache, weights=weights)
        # Each call measuring a calibration of its own would make rows that differ from one another.
        extractor = extractor.settle(dataset, calibrate=False, hold=True)
        extraction = extractor.make(extractor.plan(dataset, hold=True))
        if refused := extraction.dataset.quarantined:
            raise ImageError(
                f"{len(refused)} of {len(paths)} images cannot be read; the first is "
                f"{refused[0].path}: {refused[0].reason}",
                fix="leave them out of X and y",
            )
        return extraction.rows().reshape(len(paths), math.prod(recipe.shape))

    def __sklearn_is_fitted__(self) -> bool:
        """Tell that there is nothing to fit."""
        return True

    def __sklearn_tags__(self) -> Tags:
        """Tell that it takes strings and needs no fitting."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        return tags
