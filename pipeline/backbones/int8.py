"""A convolutional base in 8-bit integers, run by OpenVINO.

Weights become 8-bit numbers with a scale for each output channel. What a convolution gives becomes
8-bit numbers from 0 to its peak: the highest value that it gave on a sample of images. So weights
and a dozen peaks decide the network. The first convolution and the last one's output stay float32:
rounding there costs most, and computing them in float32 next to nothing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.vgg16 import IMAGENET_MEAN, layers_up_to
from pipeline.backbones.weights import load_weights
from pipeline.errors import PipelineError
from pipeline.system.machine import CPU_HAS_INT8, cpu_flags


def calibrate(recipe: Recipe, pixels: npt.NDArray[np.uint8], weights: Path | None = None) -> Recipe:
    """Measure how a recipe of precision ``"int8"`` is to round, on a sample of images.

    Parameters
    ----------
    recipe : Recipe
        As from `vgg16_recipe`.
    pixels : ndarray of uint8, shape (n, size, size, 3)
        RGB pictures of the kind that the recipe is for; their order does not matter.
    weights : Path, optional
        File with the weights; see `pipeline.backbones.weights.load_weights`.

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
    peaks = measure_peaks(_base_for_openvino(recipe, weights), pixels)
    return replace(recipe, calibration=" ".join(f"{peak:g}" for peak in peaks))


def run_in_openvino(
    recipe: Recipe, weights: Path | None
) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    _require_int8()
    peaks = read_peaks(recipe.layer, recipe.precision, recipe.calibration)
    return QuantisedBase(_base_for_openvino(recipe, weights), peaks)


def _base_for_openvino(recipe: Recipe, weights: Path | None) -> Base:
    """Describe the base up to the recipe's layer, and what `preprocess` does."""
    arrays = load_weights(weights)
    if recipe.scaling == "caffe":  # its pixels are blue, green, red; here the kernel is turned
        arrays[0] = arrays[0][:, :, ::-1]
        mean, divisor = IMAGENET_MEAN, 1.0
    else:
        mean, divisor = (0.0, 0.0, 0.0), 255.0
    pairs = iter(zip(arrays[::2], arrays[1::2]))
    steps = [next(pairs) if "conv" in layer else None for layer in layers_up_to(recipe.layer)]
    return Base(recipe.size, mean, divisor, steps)


def read_peaks(layer: str, precision: str, calibration: str) -> list[float]:
    """Read what `calibrate` wrote: one peak for each convolution but the last."""
    wanted = sum("conv" in name for name in layers_up_to(layer)) - 1
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
    flags = cpu_flags()
    if flags and CPU_HAS_INT8.isdisjoint(flags):
        raise PipelineError(
            "this CPU has no instructions for precision int8.",
            expected=f"one of {', '.join(sorted(CPU_HAS_INT8))} in /proc/cpuinfo",
            fix="use --precision auto",
        )


Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_PICTURES_PER_CALL = 8
_LEVELS = 256
_HIGHEST_WEIGHT = 127
_TELEMETRY = "openvino_telemetry"
_limits: dict[str, int] = {}


@dataclass(frozen=True)
class Base:
    """Convolutions, each followed by a ReLU, and poolings, one after the other, in float32.

    Attributes
    ----------
    size : int
        Side of the square input in pixels.
    mean : tuple of float
        Subtracted from the pixels first, by channel.
    divisor : float
        What they are divided by then.
    steps : sequence of (ndarray, ndarray) or None
        Kernel ``(3, 3, in, out)`` and bias ``(out,)`` of a convolution, or None for a pooling that
        halves height and width.
    """

    size: int
    mean: tuple[float, float, float]
    divisor: float
    steps: Sequence[tuple[Floats, Floats] | None]

    @property
    def peaks(self) -> int:
        """How many peaks there are: one for each convolution but the last."""
        return sum(step is not None for step in self.steps) - 1


def measure_peaks(base: Base, pixels: Pixels) -> list[float]:
    """Find the highest value that each convolution but the last gives on a sample.

    Parameters
    ----------
    base : Base
        The network.
    pixels : ndarray of uint8, shape (n, size, size, 3)
        RGB pictures of the kind that the network will be shown. Their order does not matter.

    Returns
    -------
    list of float
        Rounded up to three digits, so that machines which differ in the last bits agree.

    Raises
    ------
    PipelineError
        OpenVINO is not installed.
    """
    run = _compile(base, None)
    highest = np.max([outputs[1:] for outputs in run(pixels)], axis=0)
    return [_rounded_up(peak) for peak in highest.tolist()]


class QuantisedBase:
    """A base in 8 bits, ready to run.

    Parameters
    ----------
    base : Base
        The network.
    peaks : sequence of float
        As from `measure_peaks`.

    Raises
    ------
    PipelineError
        OpenVINO is not installed.
    """

    def __init__(self, base: Base, peaks: Sequence[float]) -> None:
        self._run = _compile(base, peaks)

    def __call__(self, pixels: Pixels) -> Floats:
        """Compute features.

        Parameters
        ----------
        pixels : ndarray of uint8, shape (n, size, size, 3)
            RGB pictures, 0 to 255; at least one.

        Returns
        -------
        ndarray of float32, shape (n, height, width, channels)
            Row i depends on picture i alone, not on the batch it is in.
        """
        return np.concatenate([outputs[0] for outputs in self._run(pixels)])


def limit_threads(count: int) -> None:
    """Compute in so many threads, in this process, with networks that are loaded from now on."""
    _limits["INFERENCE_NUM_THREADS"] = count


@cache
def _openvino() -> Any:
    """Import OpenVINO without its telemetry, which tells Intel of every import, over the network.

    OpenVINO goes without where that package is not to be had; it has no other switch for a process.
    """
    there = _TELEMETRY in sys.modules
    if not there:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise PipelineError(
            "precision int8 needs the package openvino.",
            fix="pip install 'cached-feature-pipeline[openvino]'",
        ) from error
    finally:
        if not there:
            del sys.modules[_TELEMETRY]
    return openvino


def _compile(base: Base, peaks: Sequence[float] | None) -> Callable[[Pixels], list[list[Floats]]]:
    """Give what runs pictures, a few at a time, and lists the outputs for each few."""
    ov = _openvino()
    settings = {
        # What is not in 8 bits would else be computed in bfloat16 where the CPU has that.
        "INFERENCE_PRECISION_HINT": "f32",
        # Each core has pictures of its own: they never wait for each other.
        "PERFORMANCE_HINT": "THROUGHPUT",
        **_limits,
    }
    queue = ov.AsyncInferQueue(ov.Core().compile_model(_network(base, peaks), "CPU", settings))

    def run(pixels: Pixels) -> list[list[Floats]]:
        starts = range(0, len(pixels), _PICTURES_PER_CALL)
        outputs: list[list[Floats]] = [[] for _ in starts]

        def keep(request: Any, place: int) -> None:
            outputs[place] = [tensor.data.copy() for tensor in request.output_tensors]

        queue.set_callback(keep)
        for place, start in enumerate(starts):
            queue.start_async({0: pixels[start : start + _PICTURES_PER_CALL]}, place)
        queue.wait_all()
        return outputs

    return run


def _network(base: Base, peaks: Sequence[float] | None) -> Any:
    """Build the network: in 8 bits, or in float32 with the peaks as further outputs."""
    ov = _openvino()
    op = ov.opset13
    pixels = op.parameter([-1, base.size, base.size, 3], ov.Type.u8)
    values = op.transpose(op.convert(pixels, "f32"), np.array([0, 3, 1, 2]))
    values = op.subtract(values, np.array(base.mean, np.float32).reshape(1, 3, 1, 1))
    values = op.divide(values, np.float32(base.divisor))
    further = []
    done = 0
    for step in base.steps:
        if step is None:
            pooled = op.max_pool(values, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2])
            values = pooled.output(0)
            continue
        kernel, bias = step
        kernel = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        weights = op.constant(kernel) if peaks is None or done == 0 else _in_8_bits(op, kernel)
        values = op.convolution(values, weights, [1, 1], [1, 1], [1, 1], [1, 1])
        values = op.relu(op.add(values, bias.reshape(1, -1, 1, 1)))
        if done < base.peaks:
            if peaks is None:
                further.append(op.reduce_max(values, np.array([0, 1, 2, 3])))
            else:
                peak = np.float32(peaks[done])
                values = op.fake_quantize(values, np.float32(0), peak, np.float32(0), peak, _LEVELS)
        done += 1
    rows = op.transpose(values, np.array([0, 2, 3, 1]))
    return ov.Model([op.result(output) for output in (rows, *further)], [pixels], "base")


def _in_8_bits(op: Any, kernel: Floats) -> Any:
    """Round a kernel ``(out, in, 3, 3)`` to 8-bit integers with a scale for each output channel."""
    scale = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True) / np.float32(_HIGHEST_WEIGHT)
    integers = np.rint(kernel / scale).astype(np.int8)
    return op.multiply(op.convert(op.constant(integers), "f32"), scale)


def _rounded_up(peak: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(peak)) - 2)
    return float(f"{math.ceil(peak / unit) * unit:.3g}")
