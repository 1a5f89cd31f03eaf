"""VGG16's convolutional base: its layers, its preprocessing, and running it up to a layer."""

from __future__ import annotations

import contextlib
import itertools
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import images, quantised, tensorflow
from pipeline.errors import PipelineError
from pipeline.recipe import Recipe
from pipeline.weights import CONVOLUTIONS, IMAGENET_WEIGHTS, load_weights

_MIN_SIZE = 32  # what keras.applications accepts: five poolings leave one pixel


def _block(layer: str) -> int:
    return int(layer[len("block")])


LAYERS = tuple(
    layer
    for block, convolutions in itertools.groupby(CONVOLUTIONS, key=_block)
    for layer in (*convolutions, f"block{block}_pool")
)
"""Names of the layers that the base can be cut at, from the input up."""

SCALINGS = ("caffe", "unit")
PRECISIONS = ("auto", "float32", "bfloat16", "int8")

_CPU_HAS_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})
_CPU_HAS_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_IMAGENET_MEAN = (123.68, 116.779, 103.939)  # red, green, blue; Keras has them in its code only


def vgg16_recipe(
    *,
    layer: str = "block5_pool",
    size: int = 150,
    scaling: str = "caffe",
    precision: str = "auto",
    resize: str = "bilinear",
    calibration: str = "none",
) -> Recipe:
    """Make the recipe for features of VGG16 with ImageNet weights.

    Parameters
    ----------
    layer : str
        Where the base is cut: one of `LAYERS`.
    size : int
        Side of the square input in pixels, at least 32. 150 is the textbook recipe's.
    scaling : {"caffe", "unit"}
        VGG16's own preprocessing (BGR, ImageNet's mean subtracted), or the textbook
        recipe's division by 255.
    precision : {"auto", "float32", "bfloat16", "int8"}
        ``"auto"`` is bfloat16 where this CPU computes in it natively, else float32.
    resize : str
        One of `pipeline.images.FILTERS`.
    calibration : str
        For ``"int8"``: what `calibrate` measured, or ``"none"`` where it has still to.

    Raises
    ------
    PipelineError
        A value is not one of these.
    """
    for name, value, known in (
        ("layer", layer, LAYERS),
        ("scaling", scaling, SCALINGS),
        ("precision", precision, PRECISIONS),
        ("resize", resize, tuple(images.FILTERS)),
    ):
        if value not in known:
            raise PipelineError(f"unknown {name} {value!r}.", expected=f"one of {', '.join(known)}")
    if size < _MIN_SIZE:
        raise PipelineError(f"size {size} is too small.", expected=f"at least {_MIN_SIZE} pixels")
    if calibration != "none":
        _peaks(layer, precision, calibration)
    return Recipe(
        backbone="vgg16",
        weights=IMAGENET_WEIGHTS,
        layer=layer,
        shape=feature_shape(layer, size),
        size=size,
        decoding=images.DECODING,
        resize=resize,
        scaling=scaling,
        precision=native_precision() if precision == "auto" else precision,
        engine="openvino" if precision == "int8" else "tensorflow",
        calibration=calibration,
    )


def feature_shape(layer: str, size: int) -> tuple[int, int, int]:
    """Return the shape of one row, ``(height, width, channels)``.

    VGG16's convolutions keep height and width; each block's pooling halves them.
    """
    block = _block(layer)
    side = size >> (block if layer.endswith("pool") else block - 1)
    return side, side, CONVOLUTIONS[f"block{block}_conv1"]


def native_precision() -> str:
    """Return ``"bfloat16"`` where this CPU multiplies in it natively, else ``"float32"``.

    Elsewhere TensorFlow emulates bfloat16, slower than float32.
    """
    return "float32" if _CPU_HAS_BFLOAT16.isdisjoint(_cpu_flags()) else "bfloat16"


def needs_calibration(recipe: Recipe) -> bool:
    """Tell whether `calibrate` has to come before rows can be computed."""
    return recipe.precision == "int8" and recipe.calibration == "none"


def calibrate(recipe: Recipe, pixels: npt.NDArray[np.uint8], weights: Path | None = None) -> Recipe:
    """Measure how a recipe of precision ``"int8"`` is to round, on a sample of images.

    Parameters
    ----------
    recipe : Recipe
        As from `vgg16_recipe`.
    pixels : ndarray of uint8, shape (n, size, size, 3)
        RGB pictures of the kind that the recipe is for; their order does not matter.
    weights : Path, optional
        File with the weights; see `pipeline.weights.load_weights`.

    Returns
    -------
    Recipe
        The same with a calibration: the highest value of each layer, in words.

    Raises
    ------
    PipelineError
        OpenVINO is not installed, or the CPU has no 8-bit instructions.
    WeightsError
        The weights are not to be had.
    """
    _require_int8()
    peaks = quantised.measure_peaks(_base_for_openvino(recipe, weights), pixels)
    return replace(recipe, calibration=" ".join(f"{peak:g}" for peak in peaks))


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
        File with the weights; see `pipeline.weights.load_weights`.

    Raises
    ------
    PipelineError
        Its precision is ``"int8"``, and it is not calibrated, OpenVINO is not installed, or the
        CPU has no 8-bit instructions.
    WeightsError
        The weights are not to be had, or are not those of the recipe.
    """

    def __init__(self, recipe: Recipe, weights: Path | None = None) -> None:
        run_in = _run_in_openvino if recipe.engine == "openvino" else _run_in_tensorflow
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


def _run_in_openvino(
    recipe: Recipe, weights: Path | None
) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    _require_int8()
    peaks = _peaks(recipe.layer, recipe.precision, recipe.calibration)
    return quantised.QuantisedBase(_base_for_openvino(recipe, weights), peaks)


def _base_for_openvino(recipe: Recipe, weights: Path | None) -> quantised.Base:
    """Describe the base up to the recipe's layer, and what `preprocess` does."""
    arrays = load_weights(weights)
    if recipe.scaling == "caffe":  # its pixels are blue, green, red; here the kernel is turned
        arrays[0] = arrays[0][:, :, ::-1]
        mean, divisor = _IMAGENET_MEAN, 1.0
    else:
        mean, divisor = (0.0, 0.0, 0.0), 255.0
    pairs = iter(zip(arrays[::2], arrays[1::2]))
    steps = [next(pairs) if "conv" in layer else None for layer in _layers_up_to(recipe.layer)]
    return quantised.Base(recipe.size, mean, divisor, steps)


def _layers_up_to(layer: str) -> tuple[str, ...]:
    return LAYERS[: LAYERS.index(layer) + 1]


def _peaks(layer: str, precision: str, calibration: str) -> list[float]:
    """Read what `calibrate` wrote: one peak for each convolution but the last."""
    wanted = sum("conv" in name for name in _layers_up_to(layer)) - 1
    try:
        peaks = [float(peak) for peak in calibration.split()]
    except ValueError:
        peaks = []
    if precision != "int8" or len(peaks) != wanted or not all(0 < p < math.inf for p in peaks):
        raise PipelineError(
            f"the calibration {calibration!r} does not fit {precision} up to {layer}.",
            expected=f"{wanted} positive numbers, for precision int8 only",
            fix="let `extract`, `classify` or `pipeline features` calibrate on a data set",
        )
    return peaks


def _require_int8() -> None:
    """Refuse CPUs that add 8-bit products up in 16 bits: they are slow, and the sums overflow."""
    flags = _cpu_flags()
    if flags and _CPU_HAS_INT8.isdisjoint(flags):
        raise PipelineError(
            "this CPU has no instructions for precision int8.",
            expected=f"one of {', '.join(sorted(_CPU_HAS_INT8))} in /proc/cpuinfo",
            fix="use --precision auto",
        )


def _cpu_flags() -> list[str]:
    """List what this CPU can do; empty where the system does not tell."""
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        with contextlib.suppress(OSError), Path("/proc/cpuinfo").open() as cpuinfo:
            return next((line.split() for line in cpuinfo if line.startswith("flags")), [])
    return []


def build_base(
    weights: Sequence[npt.NDArray[np.float32]] | None, size: int, precision: str = "float32"
) -> Any:
    """Build Keras's VGG16 without its top, with the given weights.

    Parameters
    ----------
    weights : sequence of ndarray of float32, or None
        As from `pipeline.weights.load_weights`; None leaves random ones.
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
