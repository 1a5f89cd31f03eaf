"""VGG16's convolutional base: its layers, its preprocessing, and running it up to a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backbones import int8 as quantised
from pipeline.backbones.int8 import run_in_openvino
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.weights import load_weights
from pipeline.system import tensorflow


def preprocess(pixels: Any, scaling: str) -> Any:
    """Turn pixels into what the first layer expects: the only place that does so.

    Parameters
    ----------
    pixels : ndarray or tensor, shape (n, size, size, 3)
        RGB, 0 to 255, of any numeric type. It is not changed.
    scaling : {"caffe", "unit"}
        As in `vgg16_recipe`.

    Returns
    -------
    tensor of float32, same shape
    """
    tf, keras = tensorflow.load()
    pixels = tf.cast(pixels, tf.float32)
    if scaling == "unit":
        return pixels / 255.0
    return keras.applications.vgg16.preprocess_input(pixels)


def limit_threads(count: int) -> None:
    """Let backbones compute in so many threads, in this process: to be said before the first.

    Where several processes share a machine, as a cluster's workers do, each has its part. The
    number of threads does not change a bit of a row.
    """
    tensorflow.limit_threads(count)
    quantised.limit_threads(count)


class Backbone:
    """The convolutional base up to one layer, ready to run.

    Parameters
    ----------
    recipe : Recipe
        What to compute.
    weights : Path, optional
        File with the weights; see `pipeline.backbones.weights.load_weights`.

    Raises
    ------
    PipelineError
        Its precision is ``"int8"``, and it is not calibrated, OpenVINO is not installed, or the
        CPU has no 8-bit instructions.
    WeightsError
        The weights are not to be had, or are not those of the recipe.
    """

    def __init__(self, recipe: Recipe, weights: Path | None = None) -> None:
        run_in = run_in_openvino if recipe.engine == "openvino" else _run_in_tensorflow
        self._run = run_in(recipe, weights)

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Compute features.

        Parameters
        ----------
        pixels : ndarray of uint8, shape (n, size, size, 3)
            RGB pictures, 0 to 255.

        Returns
        -------
        ndarray of float32, shape (n, height, width, channels)
            Row i depends on picture i alone, not on the batch it is in.
        """
        return self._run(pixels)


def _run_in_tensorflow(
    recipe: Recipe, weights: Path | None
) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    tf, keras = tensorflow.load()
    base = build_base(load_weights(weights), recipe.size, recipe.precision)
    cut = keras.Model(base.input, base.get_layer(recipe.layer).output)
    signature = tf.TensorSpec((None, recipe.size, recipe.size, 3), tf.uint8)

    # Keras's own jit_compile="auto" would use XLA, which is slower for convolutions on a CPU.
    @tf.function(input_signature=[signature], jit_compile=False)  # type: ignore[untyped-decorator]
    def run(pixels: Any) -> Any:
        return tf.cast(cut(preprocess(pixels, recipe.scaling), training=False), tf.float32)

    return lambda pixels: run(pixels).numpy()


def build_base(
    weights: Sequence[npt.NDArray[np.float32]] | None, size: int, precision: str = "float32"
) -> Any:
    """Build Keras's VGG16 without its top, with the given weights.

    Parameters
    ----------
    weights : sequence of ndarray of float32, or None
        As from `pipeline.backbones.weights.load_weights`; None leaves random ones.
    size : int
        Side of the input in pixels.
    precision : {"float32", "bfloat16"}
        What the layers compute in; the weights stay float32.

    Returns
    -------
    keras.Model
        Input ``(n, size, size, 3)``, preprocessed.
    """
    _, keras = tensorflow.load()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        base = keras.applications.VGG16(
            weights=None, include_top=False, input_shape=(size, size, 3)
        )
    finally:
        keras.config.set_dtype_policy(before)
    if weights is not None:
        base.set_weights(weights)
    return base
