"""Rows of the maxima of every layer: one pass gives them beside the last layer's output."""

from dataclasses import replace

import numpy as np
import pytest
from solar import real_pixels

from pipeline.backbones.registry import get_backbone, layers_recipe, make_recipe
from pipeline.backbones.running import calibrate, load_backbone
from pipeline.errors import PipelineError
from pipeline.system import tensorflow

CASES = [
    ("vgg16", 64, "float32"),
    ("vgg16", 64, "bfloat16"),
    ("vgg16", 64, "int8"),
    ("efficientnet-lite0", 96, "float32"),
    ("efficientnet-lite0", 96, "bfloat16"),
]


def recipes(name, size, precision):
    recipe = make_recipe(name, size=size, precision=precision)
    if precision == "int8":
        recipe = calibrate(recipe, real_pixels(8, size))
    return recipe, layers_recipe(recipe)


@pytest.mark.parametrize(("name", "size", "precision"), CASES)
def test_a_row_is_the_same_alone_and_beside_others(name, size, precision):
    recipe, layers = recipes(name, size, precision)
    pixels = real_pixels(5, size)
    last, every = load_backbone(recipe)(pixels), load_backbone(layers)(pixels)
    both = load_backbone(recipe, beside=[layers])(pixels)
    assert last.shape[1:] == recipe.shape
    assert every.shape[1:] == layers.shape
    assert np.array_equal(both, np.concatenate([last.reshape(5, -1), every.reshape(5, -1)], axis=1))
    assert np.array_equal(load_backbone(layers)(pixels[3:4]), every[3:4])


@pytest.mark.parametrize(("layer", "bits"), [("layers", 8), ("layers-fine", 12)])
@pytest.mark.parametrize(("name", "size"), [("vgg16", 64), ("efficientnet-lite0", 96)])
def test_its_values_are_the_roots_of_the_maxima_that_the_keras_model_gives(name, size, layer, bits):
    """Of each layer scaled to the same length, all together to 1, and rounded."""
    _, keras = tensorflow.load()
    backbone, pixels = get_backbone(name), real_pixels(3, size)
    recipe, layers = recipes(name, size, "float32")
    assert layers.layer == "layers-fine"
    model = backbone.build(size, "float32", backbone.load_weights())
    cut = keras.Model(model.input, [backbone.output(model, tap) for tap in backbone.taps])
    outputs = cut(backbone.preprocess(pixels, recipe.scaling), training=False)
    maxima = [np.asarray(output).max(axis=(1, 2)).astype(np.float64) for output in outputs]
    assert [values.shape[1] for values in maxima] == list(backbone.tap_channels)
    maxima = [np.sign(values) * np.abs(values) ** 0.5 for values in maxima]
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in maxima]
    expected = np.concatenate(unit, axis=1) / np.sqrt(len(unit))
    ours = load_backbone(replace(layers, layer=layer))(pixels)[:, 0, 0]
    np.testing.assert_allclose(ours, expected, rtol=1.01 * 2**-bits, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, rtol=1e-3)
    dropped = ours.view(np.uint32) & (2 ** (24 - bits) - 1)
    kept = ours.view(np.uint32) & 2 ** (24 - bits)
    assert not dropped.any()
    assert kept.any()


def test_a_layer_that_gives_nothing_but_zeros_makes_no_nan():
    black = np.zeros((1, 64, 64, 3), np.uint8)
    assert np.isfinite(load_backbone(recipes("vgg16", 64, "float32")[1])(black)).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_finer_rounding_is_not_a_choice(precision):
    with pytest.raises(PipelineError, match="unknown layer 'layers-fine'"):
        make_recipe(layer="layers-fine", precision=precision)


def test_a_network_that_is_cut_below_its_last_layer_has_no_such_rows():
    assert layers_recipe(make_recipe(layer="block4_pool")) is None
    for precision, layer in {"float32": "layers-fine", "bfloat16": "layers"}.items():
        recipe = make_recipe(precision=precision)
        every = layers_recipe(recipe)
        assert every.name.startswith(f"vgg16-{layer}-150-")
        assert make_recipe(layer="layers", precision=precision) == every
