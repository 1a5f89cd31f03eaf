"""The whole network: a backbone and a dense head, of which a part is trained.

Cut at a layer, it is a frozen trunk from pixels to rows, and a tail from rows to probabilities.
Both share their layers with the whole, so whoever trains the tail has trained the whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import get_backbone
from pipeline.errors import PipelineError
from pipeline.heads.dense import as_probabilities, build_dense
from pipeline.heads.pooling import POOLS, Pooling
from pipeline.models.files import KERAS_FILE, WHOLE_FILE
from pipeline.system import tensorflow


def pooling_layer(pool: Pooling) -> Any:
    """Return what is between a feature map and a dense head."""
    _, keras = tensorflow.load()
    layers = {
        "flatten": keras.layers.Flatten,
        "average": keras.layers.GlobalAveragePooling2D,
        "max": keras.layers.GlobalMaxPooling2D,
    }
    return layers[pool](dtype="float32")


class Network:
    """A backbone with a dense head on top.

    Parameters
    ----------
    recipe : Recipe
        Size, scaling and precision; its layer is where the network is cut.
    n_classes : int
        Number of classes, 2 or more.
    weights : sequence of ndarray, or None
        Of the whole base, as from `pipeline.backbones.backbone.Backbone.load_weights`; None where
        the tail's are to be loaded: the trunk gets its own when `whole` needs them.
    pool : {"flatten", "average", "max"}
        What is between base and head; the textbook flattens.
    units, dropout, seed
        As in `pipeline.heads.dense.build_dense`; the textbook's network has no dropout here.

    Attributes
    ----------
    base : keras.Model
        Preprocessed pixels ``(n, size, size, 3)`` to the base's last layer.
    trunk : keras.Model
        The same up to the recipe's layer: pixels to rows.
    upper : keras.Model or None
        Rows to the base's last layer; None where the network is cut there.
    head : keras.Model
        The base's last layer to probabilities: pooling and the dense head.
    tail : keras.Model
        Rows to probabilities.
    """

    @tensorflow.pinned()
    def __init__(
        self,
        recipe: Recipe,
        n_classes: int,
        *,
        weights: Sequence[npt.NDArray[np.float32]] | None,
        pool: Pooling = "flatten",
        units: int = 256,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        if pool not in POOLS:
            raise PipelineError(f"unknown pool {pool!r}.", expected=f"one of {', '.join(POOLS)}")
        _, keras = tensorflow.load()
        precision = "bfloat16" if recipe.precision == "bfloat16" else "float32"
        self.recipe = recipe
        self._lacks_trunk = weights is None
        self.backbone = get_backbone(recipe.backbone)
        self.base = self.backbone.build(recipe.size, precision, weights)
        self.trunk = keras.Model(self.base.input, self.backbone.output(self.base, recipe.layer))
        self.upper = self._upper()
        top = self.base.output.shape[1:]
        features = int(np.prod(top)) if pool == "flatten" else int(top[-1])
        self.dense = build_dense(features, n_classes, units=units, dropout=dropout, seed=seed)
        inputs = keras.Input(top)
        self.head = keras.Model(inputs, self.dense(pooling_layer(pool)(inputs)))
        rows = keras.Input(recipe.shape)
        self.tail = keras.Model(rows, self.head(self.upper(rows) if self.upper else rows))

    def _upper(self) -> Any:
        if self.recipe.layer == self.backbone.top:
            return None
        _, keras = tensorflow.load()
        return keras.Model(self.trunk.output, self.base.output)

    def freeze(self, *, upper: bool) -> None:
        """Freeze the trunk and, if asked for, all of the base; the rest can be trained.

        Batch normalisation stays as it is: its statistics would be those of small batches.
        """
        _, keras = tensorflow.load()
        for layer in self.base.layers:
            layer.trainable = False
        if self.upper is not None:
            for layer in self.upper.layers:
                normalises = isinstance(layer, keras.layers.BatchNormalization)
                layer.trainable = not (upper or normalises)

    def frozen_digest(self) -> str:
        """Return the SHA-256 of all weights of the base that cannot be trained."""
        digest = hashlib.sha256()
        for layer in self.base.layers:
            if not layer.trainable:
                for array in layer.get_weights():
                    digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def layers(self) -> list[tuple[str, tuple[int, ...], int, bool]]:
        """List name, output shape, number of parameters and whether it is trained, layer by layer.

        What has no parameters is not trained.
        """
        return [
            (
                layer.name,
                tuple(layer.output.shape[1:]),
                layer.count_params(),
                bool(layer.trainable_variables),
            )
            for layer in [*self.base.layers[1:], *self.dense.layers]
        ]

    @tensorflow.pinned()
    def whole(self) -> Any:
        """Return one Keras model that takes pictures as they are."""
        _, keras = tensorflow.load()
        size = self.recipe.size
        pixels = keras.Input((size, size, 3), name="pixels")
        return keras.Model(pixels, self.outputs(pixels), name="whole")

    def outputs(self, pixels: Any, weights: Path | None = None) -> Any:
        """Apply the network to pictures as they are; `weights` has those of the frozen part."""
        if self._lacks_trunk:
            trunk = {id(variable) for variable in self.trunk.weights}
            arrays = self.backbone.load_weights(weights, digest=self.recipe.weights)
            for variable, array in zip(self.base.weights, arrays):
                if id(variable) in trunk:
                    variable.assign(array)
            self._lacks_trunk = False
        return self.head(self.base(self.backbone.preprocess(pixels, self.recipe.scaling)))


class TunedClassifier:
    """The trained tail as a classifier of flattened rows, as a saved model has it.

    Parameters
    ----------
    network : Network
        The trained network.
    n_classes : int
        Number of classes.
    parameters : dict
        What `Network` was built with: pool, units and dropout.
    """

    def __init__(self, network: Network, n_classes: int, parameters: dict[str, Any]) -> None:
        self.network = network
        self.parameters = parameters
        self.classes_ = np.arange(n_classes)

    @tensorflow.pinned()
    def predict_proba(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Give the probability of each class for each flattened row, shape (n, k)."""
        shaped = rows.reshape(len(rows), *self.network.recipe.shape)
        parts = [
            np.asarray(self.network.tail(shaped[start : start + 64], training=False))
            for start in range(0, len(shaped), 64)
        ]
        return as_probabilities(np.concatenate(parts))

    @tensorflow.pinned()
    def save(self, folder: Path) -> list[Path]:
        """Write the tail's weights, and the whole network as one Keras model."""
        files = [folder / KERAS_FILE, folder / WHOLE_FILE]
        self.network.tail.save_weights(files[0])
        self.network.whole().save(files[1])
        return files
