"""What is done to pixels before a network's first layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from pipeline.system import tensorflow


@dataclass(frozen=True)
class ScalingRule:
    """``(pixels - mean) / divisor``, the channels in the order that the network was trained with.

    Attributes
    ----------
    mean : tuple of float
        Subtracted from red, green and blue.
    divisor : float, or tuple of float
        What the difference is divided by, or one number for red, green and blue each.
    reverse : bool
        Whether the network takes blue, green, red.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    divisor: float | tuple[float, float, float] = 1.0
    reverse: bool = False

    def apply(self, pixels: Any) -> Any:
        """Scale RGB pixels, 0 to 255: an array, a tensor, or a model's input; it is not changed."""
        _, keras = tensorflow.load()
        values, mean = keras.ops.cast(pixels, "float32"), np.array(self.mean, np.float32)
        if self.reverse:
            values, mean = keras.ops.flip(values, -1), mean[::-1]
        if mean.any():
            values = keras.ops.subtract(values, mean)
        return values if self.divisor == 1 else keras.ops.divide(values, self.divisor)

    def in_openvino(self, op: Any, pixels: Any) -> Any:
        """Scale pixels in an OpenVINO graph: then the channels are first, and still RGB."""
        values = op.transpose(op.convert(pixels, "f32"), np.array([0, 3, 1, 2]))
        values = op.subtract(values, np.array(self.mean, np.float32).reshape(1, 3, 1, 1))
        divisor = np.broadcast_to(np.array(self.divisor, np.float32), 3).reshape(1, 3, 1, 1)
        return op.divide(values, np.ascontiguousarray(divisor))


RULES: Mapping[str, ScalingRule] = MappingProxyType(
    {
        "caffe": ScalingRule(mean=(123.68, 116.779, 103.939), reverse=True),  # ImageNet's mean
        "unit": ScalingRule(divisor=255.0),
        "tf": ScalingRule(mean=(127.5, 127.5, 127.5), divisor=127.5),
        "torch": ScalingRule(  # ImageNet's mean and deviation
            mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
            divisor=(0.229 * 255, 0.224 * 255, 0.225 * 255),
        ),
        "signed": ScalingRule(mean=(128.0, 128.0, 128.0), divisor=128.0),
        "lite": ScalingRule(mean=(127.0, 127.0, 127.0), divisor=128.0),
        "none": ScalingRule(),  # the network scales by itself
    }
)
