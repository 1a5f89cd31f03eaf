"""A recipe's network as one Keras graph that takes pictures as they are, for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.backbones.choices import EVERY_LAYER
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import get_backbone
from pipeline.system import tensorflow


@tensorflow.pinned()
def rows_graph(recipe: Recipe, pixels: Any, weights: Path | None = None) -> Any:
    """Return the flattened rows, float32 (n, values), of a Keras input of pixels.

    It computes in float32, whatever the recipe's precision is.
    """
    _, keras = tensorflow.load()
    backbone = get_backbone(recipe.backbone)
    arrays = backbone.load_weights(weights, digest=recipe.weights)
    network = backbone.build(recipe.size, "float32", arrays)
    layers = backbone.taps if recipe.layer in EVERY_LAYER else (recipe.layer,)
    cut = keras.Model(network.input, [backbone.output(network, layer) for layer in layers])
    outputs = cut(backbone.preprocess(pixels, recipe.scaling), training=False)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    if recipe.layer in EVERY_LAYER:
        outputs = [keras.ops.max(output, axis=(1, 2)) for output in outputs]
    return as_rows(recipe, outputs)


def output_shapes(recipe: Recipe) -> list[tuple[int, ...]]:
    """Return the shapes of what `as_rows` takes."""
    if recipe.layer in EVERY_LAYER:
        return [(channels,) for channels in get_backbone(recipe.backbone).tap_channels]
    return [recipe.shape]


def as_rows(recipe: Recipe, outputs: Sequence[Any]) -> Any:
    """Return flattened rows of the outputs of layers: of one, or of all their maxima."""
    _, keras = tensorflow.load()
    if recipe.layer in EVERY_LAYER:
        return _unit_layers(outputs, EVERY_LAYER[recipe.layer])
    return keras.layers.Flatten()(outputs[0])


def _unit_layers(maxima: Sequence[Any], bits: int) -> Any:
    """Do what `pipeline.backbones.running` does to the maxima of every layer (n, channels)."""
    _, keras = tensorflow.load()
    ops, share = keras.ops, len(maxima) ** -0.5
    parts = []
    for values in maxima:
        roots = ops.sign(values) * ops.sqrt(ops.absolute(values))
        length = ops.sqrt(ops.sum(roots * roots, axis=1, keepdims=True))
        parts.append(roots * (share / ops.maximum(length, 1e-12)))
    rows = ops.concatenate(parts, axis=1)
    far = rows * (2.0 ** (24 - bits) + 1)  # so far from 0, a float32 number has only these bits
    return far - (far - rows)
