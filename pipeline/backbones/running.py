"""Running a network up to the layer that a recipe names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backbones import int8, openvino_engine
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import get_backbone
from pipeline.backbones.scaling import RULES
from pipeline.system import tensorflow

Pixels = npt.NDArray[np.uint8]
"""RGB pictures, 0 to 255, of shape (n, size, size, 3)."""

Forward = Callable[[Pixels], npt.NDArray[np.float32]]
"""Pixels to rows (n, height, width, channels); row i depends on picture i alone."""


def load_backbone(recipe: Recipe, weights: Path | None = None) -> Forward:
    """Load the network of a recipe, up to its layer."""
    if recipe.engine == "tensorflow":
        return _load_in_tensorflow(recipe, weights)
    backbone = get_backbone(recipe.backbone)
    if recipe.precision == "int8":
        peaks = int8.read_peaks(recipe.calibration, backbone.steps(recipe.layer))
        return int8.load_chain(_chain(recipe, weights), peaks)
    arrays = backbone.load_weights(weights, digest=recipe.weights)
    graph = backbone.graph([recipe.layer], recipe.size, recipe.scaling, arrays)
    run = openvino_engine.compile_graph(graph, recipe.precision)
    return lambda pixels: np.concatenate([outputs[0] for outputs in run(pixels)])


def calibrate(recipe: Recipe, pixels: Pixels, weights: Path | None = None) -> Recipe:
    """Measure on a sample of images how a recipe of precision ``"int8"`` has to round."""
    peaks = int8.measure_peaks(_chain(recipe, weights), pixels)
    return replace(recipe, calibration=int8.write_peaks(peaks))


def limit_threads(count: int) -> None:
    """Let networks compute in so many threads, in this process; call it before loading any.

    Processes that share a machine, as a cluster's workers do, share its cores so. The number of
    threads does not change a bit of a row.
    """
    tensorflow.limit_threads(count)
    openvino_engine.limit_threads(count)


@tensorflow.pinned()
def _load_in_tensorflow(recipe: Recipe, weights: Path | None) -> Forward:
    tf, keras = tensorflow.load()
    backbone = get_backbone(recipe.backbone)
    arrays = backbone.load_weights(weights, digest=recipe.weights)
    network = backbone.build(recipe.size, recipe.precision, arrays)
    cut = keras.Model(network.input, backbone.output(network, recipe.layer))
    signature = tf.TensorSpec((None, recipe.size, recipe.size, 3), tf.uint8)

    # Keras's own jit_compile="auto" would use XLA, which is slower for convolutions on a CPU.
    @tf.function(input_signature=[signature], jit_compile=False)  # type: ignore[untyped-decorator]
    def run(pixels: Any) -> Any:
        scaled = backbone.preprocess(pixels, recipe.scaling)
        return tf.cast(cut(scaled, training=False), tf.float32)

    @tensorflow.pinned()
    def forward(pixels: Pixels) -> npt.NDArray[np.float32]:
        rows: npt.NDArray[np.float32] = run(pixels).numpy()
        return rows

    return forward


def _chain(recipe: Recipe, weights: Path | None) -> int8.Chain:
    backbone = get_backbone(recipe.backbone)
    rule = RULES[recipe.scaling]
    steps = backbone.steps(recipe.layer)
    arrays = backbone.load_weights(weights, digest=recipe.weights)
    return int8.Chain(recipe.size, rule, steps, arrays)
