"""Running a network up to the layer that a recipe names."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backbones import int8, openvino_engine
from pipeline.backbones.choices import EVERY_LAYER
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import get_backbone
from pipeline.backbones.scaling import RULES
from pipeline.system import tensorflow

Pixels = npt.NDArray[np.uint8]
"""RGB pictures, 0 to 255, of shape (n, size, size, 3)."""

Forward = Callable[[Pixels], npt.NDArray[np.float32]]
"""Pixels to rows (n, height, width, channels); row i depends on picture i alone."""


Outputs = Callable[[Pixels], list[npt.NDArray[np.float32]]]
"""Pixels to the outputs of layers, or to their maxima over all places, for one or more recipes."""


def load_backbone(
    recipe: Recipe, weights: Path | None = None, *, beside: Sequence[Recipe] = ()
) -> Forward:
    """Load the network of a recipe, up to its layer.

    Parameters
    ----------
    recipe : Recipe
        How pixels become rows.
    weights : Path, optional
        As in `pipeline.backbones.backbone.Backbone.load_weights`.
    beside : sequence of Recipe
        Recipes that differ from it in their layers only. With them a row holds the values of all
        recipes, one after the other, from a single pass: shape (n, values).
    """
    recipes = (recipe, *beside)
    backbone = get_backbone(recipe.backbone)
    wanted = [
        (tap, each.layer in EVERY_LAYER)
        for each in recipes
        for tap in (backbone.taps if each.layer in EVERY_LAYER else (each.layer,))
    ]
    load = {"tensorflow": _load_in_tensorflow, "openvino": _load_in_openvino}[recipe.engine]
    run = (_load_in_8_bits if recipe.precision == "int8" else load)(recipe, wanted, weights)

    def forward(pixels: Pixels) -> npt.NDArray[np.float32]:
        outputs = iter(run(pixels))
        rows = [
            _unit_layers(
                list(itertools.islice(outputs, len(backbone.taps))), EVERY_LAYER[each.layer]
            )
            if each.layer in EVERY_LAYER
            else next(outputs)
            for each in recipes
        ]
        if not beside:
            return rows[0]
        return np.concatenate([values.reshape(len(values), -1) for values in rows], axis=1)

    return forward


def _unit_layers(maxima: Sequence[npt.NDArray[np.float32]], bits: int) -> npt.NDArray[np.float32]:
    """Make rows of length one (n, 1, 1, channels), to which every layer (n, c) gives the same.

    They hold roots of the maxima, with the maxima's signs, so that a few large ones do not decide.
    Values are rounded to so many significant bits: finer differences say nothing, and take space.
    """
    share = np.float32(len(maxima) ** -0.5)
    roots = [np.copysign(np.sqrt(np.abs(values)), values) for values in maxima]
    parts = [
        values * (share / np.maximum(np.sqrt((values * values).sum(axis=1, keepdims=True)), 1e-12))
        for values in roots
    ]
    values, dropped = np.concatenate(parts, axis=1).view(np.uint32), 24 - bits
    half = np.uint32(2 ** (dropped - 1) - 1)
    values += half + ((values >> np.uint32(dropped)) & np.uint32(1))  # to the even one of two
    values &= np.uint32(2**32 - 2**dropped)
    return values.view(np.float32)[:, None, None, :]


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


_Wanted = Sequence[tuple[str, bool]]
"""Layers, and whether it is their maxima over all places that are wanted."""


@tensorflow.pinned()
def _load_in_tensorflow(recipe: Recipe, wanted: _Wanted, weights: Path | None) -> Outputs:
    tf, keras = tensorflow.load()
    backbone = get_backbone(recipe.backbone)
    arrays = backbone.load_weights(weights, digest=recipe.weights)
    network = backbone.build(recipe.size, recipe.precision, arrays)
    cut = keras.Model(network.input, [backbone.output(network, layer) for layer, _ in wanted])
    signature = tf.TensorSpec((None, recipe.size, recipe.size, 3), tf.uint8)

    # Keras's own jit_compile="auto" would use XLA, which is slower for convolutions on a CPU.
    @tf.function(input_signature=[signature], jit_compile=False)  # type: ignore[untyped-decorator]
    def run(pixels: Any) -> Any:
        outputs = cut(backbone.preprocess(pixels, recipe.scaling), training=False)
        return [
            tf.cast(tf.reduce_max(output, (1, 2)) if maximum else output, tf.float32)
            for output, (_, maximum) in zip(tf.nest.flatten(outputs), wanted)
        ]

    @tensorflow.pinned()
    def outputs(pixels: Pixels) -> list[npt.NDArray[np.float32]]:
        return [output.numpy() for output in run(pixels)]

    return outputs


def _load_in_openvino(recipe: Recipe, wanted: _Wanted, weights: Path | None) -> Outputs:
    backbone = get_backbone(recipe.backbone)
    arrays = backbone.load_weights(weights, digest=recipe.weights)
    # What else a graph gives decides how OpenVINO rounds in bfloat16. So that a row is the same
    # with or without others beside it, both kinds are always computed.
    both = [(backbone.top, False), *((tap, True) for tap in backbone.taps)]
    computed = both if set(wanted) <= set(both) else wanted
    layers, maxima = zip(*computed)
    graph = backbone.graph(layers, recipe.size, recipe.scaling, arrays)
    graph = openvino_engine.with_maxima(graph, maxima)
    # What a network makes of one picture stays in a core's cache, which is a seventh faster.
    graph.reshape([1, recipe.size, recipe.size, 3])
    run = openvino_engine.compile_graph(graph, recipe.precision)

    def outputs(pixels: Pixels) -> list[npt.NDArray[np.float32]]:
        by_layer = dict(zip(computed, openvino_engine.joined(run(pixels))))
        return [by_layer[each] for each in wanted]

    return outputs


def _load_in_8_bits(recipe: Recipe, wanted: _Wanted, weights: Path | None) -> Outputs:
    backbone = get_backbone(recipe.backbone)
    peaks = int8.read_peaks(recipe.calibration, backbone.steps(recipe.layer))
    maxima = any(maximum for _, maximum in wanted)
    run = int8.load_chain(_chain(recipe, weights), peaks, maxima=maxima)

    def outputs(pixels: Pixels) -> list[npt.NDArray[np.float32]]:
        rows, *of_steps = openvino_engine.joined(run(pixels))
        by_layer = dict(zip(backbone.layers, of_steps))
        return [by_layer[layer] if maximum else rows for layer, maximum in wanted]

    return outputs


def graph_in_8_bits(recipe: Recipe, weights: Path | None) -> Any:
    """Return the network as OpenVINO's graph of pixels to rows, or to the maxima of every layer."""
    backbone = get_backbone(recipe.backbone)
    peaks = int8.read_peaks(recipe.calibration, backbone.steps(recipe.layer))
    maxima = recipe.layer in EVERY_LAYER
    graph = int8.network_graph(_chain(recipe, weights), peaks, maxima=maxima)
    rows, *of_steps = graph.get_results()
    by_layer = dict(zip(backbone.layers, of_steps))
    wanted = [by_layer[tap] for tap in backbone.taps] if maxima else [rows]
    return openvino_engine.with_results(graph, wanted)


def _chain(recipe: Recipe, weights: Path | None) -> int8.Chain:
    backbone = get_backbone(recipe.backbone)
    rule = RULES[recipe.scaling]
    steps = backbone.steps(recipe.layer)
    arrays = backbone.load_weights(weights, digest=recipe.weights)
    return int8.Chain(recipe.size, rule, steps, arrays)
