"""Recipes by the name of a network."""

import numpy as np
import pytest

from pipeline.backbones import registry
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.registry import BACKBONES, get_backbone, make_recipe, remake_recipe
from pipeline.backbones.running import load_backbone
from pipeline.backbones.weights import Published, weights_digest
from pipeline.errors import PipelineError
from pipeline.system import tensorflow

RECIPES = {
    "vgg16-block5_pool-150-0ddaf0a2e099": {"precision": "float32"},
    "vgg16-block5_pool-150-8ab6aef9ab08": {"precision": "bfloat16"},
    "vgg16-block4_pool-96-304c6f098d6d": {
        "size": 96,
        "layer": "block4_pool",
        "scaling": "unit",
        "resize": "nearest",
    },
    "vgg16-block2_pool-150-00c170486e1a": {
        "precision": "int8",
        "layer": "block2_pool",
        "calibration": "1 2 3",
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_stores_of_version_0_1_0_are_found_again(name):
    assert make_recipe(**{"precision": "float32", **RECIPES[name]}).name == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet-50"}, r"(?s)did you mean resnet50 or"),
        ({"backbone": "vgg-16"}, r"(?s)unknown backbone 'vgg-16'.*did you mean vgg16 or vgg19\?"),
        ({"layer": "block6_pool"}, r"(?s)block1_conv1, block1_conv2.*did you mean block5_pool or"),
        ({"size": 31}, "at least 32"),
        ({"scaling": "zscore"}, "caffe, unit"),
        ({"backbone": "efficientnet-lite0", "size": 20}, "at least 32"),
        ({"backbone": "efficientnet-lite0", "scaling": "caffe"}, "one of lite"),
        ({"precision": "int4"}, "auto, float32, bfloat16, int8"),
        ({"resize": "seam"}, "bilinear"),
        ({"calibration": "1 2 3"}, "for precision int8 only"),
    ],
)
def test_a_recipe_of_unknown_parts_is_refused_with_what_is_known(options, message):
    with pytest.raises(PipelineError, match=message):
        make_recipe(**options)


def test_automatic_precision_is_settled_when_the_recipe_is_made():
    assert make_recipe().precision in ("float32", "bfloat16")
    assert make_recipe(precision=make_recipe().precision) == make_recipe()


def test_a_recipe_made_again_is_the_same_and_with_another_layer_loses_its_calibration():
    recipe = make_recipe(precision="int8", layer="block2_pool", calibration="1 2 3", size=96)
    assert remake_recipe(recipe) == recipe
    other = make_recipe(precision="int8", layer="block1_pool", size=96)
    assert remake_recipe(recipe, layer="block1_pool") == other


CUTS = {
    "vgg16": ("block5_conv1", "block4_pool", "block5_conv9"),
    "efficientnet-lite0": ("block6a_project_bn", "block5c_add", "block5c_project_bn"),
    "mobilenetv2": ("block_13_expand_relu", "block_12_add", "block_12_project_BN"),
    "resnet50": ("conv5_block1_out", "conv4_block6_out", "conv5_block1_0_bn"),
}
"""The last block, what is kept below it, and a layer that others are added to."""


@pytest.mark.parametrize("name", CUTS)
def test_training_can_begin_at_each_cut_and_nowhere_else(name):
    backbone, (cut, kept, within) = get_backbone(name), CUTS[name]
    assert backbone.default_cut == cut
    assert backbone.below(cut) == kept
    with pytest.raises(PipelineError, match=rf"(?s){within}.*one of .*did you mean .*{cut[:5]}"):
        backbone.below(within)
    for cut in backbone.cuts:
        assert backbone.layers.index(backbone.below(cut)) < backbone.layers.index(cut)
    with pytest.raises(PipelineError, match=f"one of {', '.join(backbone.cuts)}"):
        backbone.below("nope")


class Small(Backbone):
    """All that adding a network takes, beside its line in the registry."""

    name = "small"
    title = "Small"
    layers = ("first", "second")
    cuts = ("second",)
    default_layer = default_cut = "second"
    default_size = least_size = 8
    scalings = ("unit",)
    published = Published(digest="", keras_file="small.h5")

    def shape(self, layer, size):
        return (size, size, 4)

    def architecture(self, size=None, weights=None):
        _, keras = tensorflow.load()
        pixels = keras.Input((size, size, 3))
        first = keras.layers.Conv2D(4, 3, padding="same", name="first")(pixels)
        second = keras.layers.Conv2D(4, 1, name="second")(first)
        return keras.Model(pixels, keras.layers.add([first, second], name="sum"))


def test_another_network_is_a_class_and_a_line_in_the_registry(monkeypatch, tmp_path):
    small = Small()
    network = small.architecture(8)
    network.save_weights(tmp_path / "small.weights.h5")
    digest = weights_digest(network.get_weights())
    monkeypatch.setattr(Small, "published", Published(digest, "small.h5"))
    monkeypatch.setattr(registry, "BACKBONES", {**BACKBONES, "small": small})
    recipe = make_recipe("small", layer="first", precision="float32")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    rows = load_backbone(recipe, tmp_path / "small.weights.h5")(pixels)
    np.testing.assert_allclose(rows, network.layers[1](pixels / 255), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet50"])
def test_a_network_other_than_vgg16_is_refused_in_int8_with_what_to_do(name):
    refusal = "(?s)cannot be computed in precision int8.*--precision auto, or --backbone vgg16"
    with pytest.raises(PipelineError, match=refusal):
        make_recipe(name, precision="int8")
