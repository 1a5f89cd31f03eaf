"""A chain of convolutions and poolings in 8-bit integers, run by OpenVINO.

Weights become 8-bit numbers with a scale for each output channel. What a convolution gives becomes
8-bit numbers from 0 to its peak: the highest value that it gave on a sample of images. So weights
and a dozen peaks decide the network. The first convolution and the last one's output stay float32:
rounding there costs most, and computing them in float32 next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.backbones import openvino_engine
from pipeline.backbones.backbone import Step
from pipeline.backbones.openvino_engine import Floats, Pixels, Run, compile_graph
from pipeline.backbones.scaling import ScalingRule
from pipeline.errors import PipelineError
from pipeline.system.machine import CPU_HAS_INT8, cpu_flags

_LEVELS = 256
_HIGHEST_WEIGHT = 127


@dataclass(frozen=True)
class Chain:
    """Convolutions, each followed by a ReLU, and poolings, one after the other, in float32.

    Attributes
    ----------
    size : int
        Side of the square input in pixels.
    scaling : ScalingRule
        What is done to pixels first.
    steps : sequence of Step
        What is done then: a pooling halves height and width.
    weights : sequence of ndarray
        Kernel ``(3, 3, in, out)`` and bias ``(out,)`` of each convolution.
    """

    size: int
    scaling: ScalingRule
    steps: Sequence[Step]
    weights: Sequence[Floats]


def count_peaks(steps: Sequence[Step]) -> int:
    """Return how many peaks a chain has: one for each convolution but the last."""
    return steps.count("convolution") - 1


def write_peaks(peaks: Sequence[float]) -> str:
    """Write peaks as a recipe holds them."""
    return " ".join(f"{peak:g}" for peak in peaks)


def read_peaks(calibration: str, steps: Sequence[Step]) -> list[float]:
    """Read what `write_peaks` wrote."""
    try:
        peaks = [float(peak) for peak in calibration.split()]
    except ValueError:
        peaks = []
    wanted = count_peaks(steps)
    if len(peaks) != wanted or not all(0 < peak < math.inf for peak in peaks):
        raise PipelineError(
            f"the calibration {calibration!r} does not fit the network and its layer.",
            expected=f"{wanted} positive numbers",
            fix="let `classify` or `pipeline features` calibrate on a data set",
        )
    return peaks


def measure_peaks(chain: Chain, pixels: Pixels) -> list[float]:
    """Measure the highest value that each convolution but the last gives on a sample.

    The order of the pictures does not matter. Values are rounded up to three digits, so that
    machines which differ in the last bits agree.
    """
    _require_int8()
    run = compile_graph(network_graph(chain, None), "int8")
    highest = np.max([outputs[1:] for outputs in run(pixels)], axis=0)
    return [_rounded_up(peak) for peak in highest.tolist()]


def load_chain(chain: Chain, peaks: Sequence[float], *, maxima: bool) -> Run:
    """Compile a chain in 8 bits; its outputs are the rows and, if asked for, each step's maxima."""
    _require_int8()
    return compile_graph(network_graph(chain, peaks, maxima=maxima), "int8")


def _require_int8() -> None:
    """Refuse CPUs that add 8-bit products up in 16 bits: they are slow, and the sums overflow."""
    flags = cpu_flags()
    if flags and CPU_HAS_INT8.isdisjoint(flags):
        raise PipelineError(
            "this CPU has no instructions for precision int8.",
            expected=f"one of {', '.join(sorted(CPU_HAS_INT8))} in /proc/cpuinfo",
            fix="use --precision auto",
        )


def network_graph(chain: Chain, peaks: Sequence[float] | None, *, maxima: bool = False) -> Any:
    """Build OpenVINO's graph: in 8 bits, or in float32 with the peaks as further outputs.

    With `maxima`, those of each channel after each step are further outputs.
    """
    ov = openvino_engine.load()
    op = ov.opset13
    pixels = op.parameter([-1, chain.size, chain.size, 3], ov.Type.u8)
    values = chain.scaling.in_openvino(op, pixels)
    further = []
    done = 0
    for step in chain.steps:
        if step == "pooling":
            pooled = op.max_pool(values, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2])
            values = pooled.output(0)
            if maxima:
                further.append(op.reduce_max(values, np.array([2, 3])))
            continue
        kernel, bias = chain.weights[2 * done : 2 * done + 2]
        if chain.scaling.reverse and done == 0:  # turning the kernel spares turning the picture
            kernel = kernel[:, :, ::-1]
        kernel = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        weights = op.constant(kernel) if peaks is None or done == 0 else _in_8_bits(op, kernel)
        values = op.convolution(values, weights, [1, 1], [1, 1], [1, 1], [1, 1])
        values = op.relu(op.add(values, bias.reshape(1, -1, 1, 1)))
        if done < count_peaks(chain.steps):
            if peaks is None:
                further.append(op.reduce_max(values, np.array([0, 1, 2, 3])))
            else:
                peak = np.float32(peaks[done])
                values = op.fake_quantize(values, np.float32(0), peak, np.float32(0), peak, _LEVELS)
        if maxima:
            further.append(op.reduce_max(values, np.array([2, 3])))
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
