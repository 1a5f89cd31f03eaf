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
    divisor : float
        What the difference is divided by.
    reverse : bool
        Whether the network takes blue, green, red.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    divisor: float = 1.0
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


RULES: Mapping[str, ScalingRule] = MappingProxyType(
    {
        "caffe": ScalingRule(mean=(123.68, 116.779, 103.939), reverse=True),  # ImageNet's mean
        "unit": ScalingRule(divisor=255.0),
    }
)
