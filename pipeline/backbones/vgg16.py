"""VGG16's convolutional base."""

from __future__ import annotations

import itertools

IMAGENET_WEIGHTS = "d9a27cc1fc7f975ef8cff49180e794ccd7c4bc868ebb49740803b3bbaa8dbefd"
"""`weights_digest` of the ImageNet weights that Keras publishes for VGG16."""

CONVOLUTIONS = {
    "block1_conv1": 64,
    "block1_conv2": 64,
    "block2_conv1": 128,
    "block2_conv2": 128,
    "block3_conv1": 256,
    "block3_conv2": 256,
    "block3_conv3": 256,
    "block4_conv1": 512,
    "block4_conv2": 512,
    "block4_conv3": 512,
    "block5_conv1": 512,
    "block5_conv2": 512,
    "block5_conv3": 512,
}
"""The layers that have weights, from the input up, and how many channels each puts out."""


def _block(layer: str) -> int:
    return int(layer[len("block")])


LAYERS = tuple(
    layer
    for block, convolutions in itertools.groupby(CONVOLUTIONS, key=_block)
    for layer in (*convolutions, f"block{block}_pool")
)
"""Names of the layers that the base can be cut at, from the input up."""
IMAGENET_MEAN = (123.68, 116.779, 103.939)  # red, green, blue; Keras has them in its code only


def feature_shape(layer: str, size: int) -> tuple[int, int, int]:
    """Return the shape of one row, ``(height, width, channels)``.

    VGG16's convolutions keep height and width; each block's pooling halves them.
    """
    block = _block(layer)
    side = size >> (block if layer.endswith("pool") else block - 1)
    return side, side, CONVOLUTIONS[f"block{block}_conv1"]


def layers_up_to(layer: str) -> tuple[str, ...]:
    return LAYERS[: LAYERS.index(layer) + 1]
