# ruff: noqa: N803, ARG002 -- X, and y unused, are scikit-learn's interface
"""Stage one as a scikit-learn transformer, to stand first in a pipeline."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags

from pipeline.backbones.choices import DEFAULT
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import make_recipe
from pipeline.data.dataset import either, first_fix
from pipeline.data.loading import list_files
from pipeline.data.targets import require_labels
from pipeline.data.urls import locate
from pipeline.errors import DataError, ImageError
from pipeline.features.extractor import Extractor


class FeatureExtractor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
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
        """Learn nothing: the backbone is trained already. Labels that are missing are refused."""
        require_labels(y)
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
        DataError
            Something else than paths is given.
        ImageError
            A file cannot be read. A transformer may not leave samples out.
        """
        recipe = self._recipe()
        paths = [locate(path) for path in _paths(X)]
        dataset = list_files(paths)
        extractor = Extractor(recipe, cache=self.cache, weights=self._weights)
        # Each call measuring a calibration of its own would make rows that differ from one another.
        extractor = extractor.settle(dataset, calibrate=False, hold=True)
        extraction = extractor.make(extractor.plan(dataset, hold=True), remark=False)
        if refused := extraction.dataset.quarantined:
            raise ImageError(
                f"{len(refused)} of {len(paths)} images cannot be read; the first is "
                f"{refused[0].path}: {refused[0].reason}",
                fix=either(first_fix(refused), "leave them out of X and y"),
            )
        return extraction.rows().reshape(len(paths), math.prod(recipe.shape))

    @property
    def _weights(self) -> Path | None:
        return Path(self.weights) if self.weights else None

    def _recipe(self) -> Recipe:
        return make_recipe(
            self.backbone,
            layer=self.layer,
            size=self.size,
            scaling=self.scaling,
            precision=self.precision,
            resize=self.resize,
            white=self.white,
            page=self.page,
            weights=self._weights,
        )

    @property
    def _n_features_out(self) -> int:  # from which scikit-learn makes names of columns
        return math.prod(self._recipe().shape)

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


def _paths(X: Iterable[str | Path | bytes]) -> list[str | Path]:
    """List paths, which may be in one column of a table."""
    values = np.asarray(
        X if isinstance(X, Sequence | Path) or hasattr(X, "shape") else list(X), object
    )
    if values.ndim > 2 or (values.ndim == 2 and values.shape[1] != 1):
        raise DataError(
            f"X has the shape {values.shape}.", expected="paths of image files, one a row"
        )
    paths: list[str | Path] = []
    for place, path in enumerate(values.ravel()):
        if not isinstance(path, str | Path | bytes):
            raise DataError(
                f"X has {path!r} at {place}, which is no path.",
                expected="paths of image files, one a row",
            )
        paths.append(os.fsdecode(path) if isinstance(path, bytes) else path)
    return paths
