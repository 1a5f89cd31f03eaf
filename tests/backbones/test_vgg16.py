"""VGG16 as published: its counts, its shapes and where its cells lie."""

import numpy as np
import pytest

from pipeline.backbones.vgg16 import VGG16
from pipeline.heads.dense import build_dense
from pipeline.system import tensorflow


@pytest.fixture(scope="module")
def network():
    return VGG16().build(150, "float32", None)


def test_parameters_number_what_the_textbook_prints(network):
    _, keras = tensorflow.load()
    assert network.count_params() == 14_714_688
    head = build_dense(4 * 4 * 512, 2)
    whole = keras.Sequential([network, keras.layers.Flatten(), head])
    assert whole.count_params() == 16_812_353
    try:
        for layer in network.layers:
            layer.trainable = layer.name.startswith("block5")
        trainable = sum(int(np.prod(w.shape)) for w in whole.trainable_weights)
        frozen = sum(int(np.prod(w.shape)) for w in whole.non_trainable_weights)
    finally:
        network.trainable = True
    # The head's dropout holds two numbers of its random state, which are no parameters.
    assert (trainable, frozen) == (9_177_089, 7_635_264)


def test_the_shape_of_a_row_is_what_the_network_gives(network):
    assert [layer.name for layer in network.layers[1:]] == list(VGG16.layers)
    for layer in VGG16.layers:
        assert VGG16().shape(layer, 150) == tuple(network.get_layer(layer).output.shape[1:])


@pytest.mark.parametrize(
    ("cells", "size", "centres"),
    [(4, 150, [16, 48, 80, 112]), (4, 128, [16, 48, 80, 112]), (2, 64, [16, 48]), (1, 32, [16])],
)
def test_cells_leave_out_the_pixels_that_poolings_drop(cells, size, centres):
    assert VGG16().cell_centres(cells, size).tolist() == centres
