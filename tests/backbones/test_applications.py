"""The networks of `keras.applications`: their facts are Keras's, and their rows are Keras's."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from solar import real_pixels

from pipeline.backbones.applications import APPLICATIONS
from pipeline.backbones.cuts import clean_cuts
from pipeline.backbones.findings import remember_shapes
from pipeline.backbones.registry import (
    BACKBONES,
    get_backbone,
    layers_recipe,
    make_recipe,
    remake_recipe,
)
from pipeline.backbones.running import load_backbone
from pipeline.backbones.scaling import RULES
from pipeline.backbones.weights import weights_digest
from pipeline.errors import WeightsError
from pipeline.system import tensorflow

SMALL = ("mobilenetv2", "mobilenetv3small", "efficientnetb0", "efficientnetv2b0")
"""Quick to build; they preprocess outside, inside where it can be left out, and inside for good."""


pytestmark = pytest.mark.usefixtures("keras_home")


@pytest.fixture
def get_file(monkeypatch):
    """Put a function in the place of Keras's download."""
    tensorflow.load()
    module = sys.modules["keras.src.utils.file_utils"]
    return lambda function: monkeypatch.setattr(module, "get_file", function)


def downloaded(network, keras_home):
    """Put weights where Keras would put those that it downloads, in the format that it has them."""
    from keras.src.legacy.saving import legacy_h5_format

    file = keras_home / "models" / network.published.keras_file
    file.parent.mkdir(parents=True)
    model, generator = network.architecture(), np.random.default_rng(0)
    model.set_weights(
        [
            np.asarray(array * generator.uniform(0.9, 1.2, array.shape), array.dtype)
            for array in model.get_weights()
        ]
    )
    with h5py.File(file, "w") as h5:
        legacy_h5_format.save_weights_to_hdf5_group(h5, model)
    return file, model.get_weights()


def test_every_image_network_of_keras_is_there():
    _, keras = tensorflow.load()
    of_keras = {name for name in dir(keras.applications) if name[0].isupper()}
    assert {network.title for network in BACKBONES.values()} == {*of_keras, "EfficientNet-Lite0"}
    assert len(of_keras) == 40


def test_each_file_is_the_one_that_keras_downloads(get_file):
    class Asked(Exception):  # noqa: N818
        pass

    def ask(fname=None, *args, **options):
        raise Asked(fname)

    get_file(ask)
    for network in APPLICATIONS:
        if network.parameters > 25e6:
            continue  # its name is made as that of a smaller one is
        with pytest.raises(Asked, match=rf"^{network.published.keras_file}$"):
            network.architecture(network.default_size, weights="imagenet")


@pytest.mark.parametrize("scaling", ["tf", "torch", "caffe"])
def test_scaling_rules_are_those_of_keras(scaling):
    from keras.applications import imagenet_utils

    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.uint8)
    theirs = imagenet_utils.preprocess_input(pixels.astype(np.float32), mode=scaling)
    np.testing.assert_allclose(np.asarray(RULES[scaling].apply(pixels)), theirs, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*input_shape")
@pytest.mark.parametrize("name", SMALL)
def test_rows_are_those_of_keras_own_model_with_its_own_preprocessing(name, keras_home, get_file):
    _, keras = tensorflow.load()
    network = get_backbone(name)
    file, _ = downloaded(network, keras_home)
    get_file(lambda *args, **options: str(file))
    build = getattr(keras.applications, network.title)
    theirs = build(weights="imagenet", include_top=False, input_shape=(96, 96, 3))
    pixels = real_pixels(2, 96)
    scaled = pixels.astype(np.float32)
    if network.scalings[0] == "tf" and "v3" not in name:
        scaled = scaled / 127.5 - 1
    recipe = make_recipe(name, size=96, precision="float32")
    ours = load_backbone(recipe)(pixels)
    expected = np.asarray(theirs(scaled, training=False))
    assert ours.shape == expected.shape == (2, *recipe.shape)
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("name", [*SMALL, "convnexttiny"])
def test_a_network_can_be_cut_at_each_of_its_layers(name):
    """What follows a layer, applied to that layer's output, gives what the whole network gives."""
    _, keras = tensorflow.load()
    network = get_backbone(name)
    model = network.build(96, "float32", None)
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 96, 96, 3)).astype(np.float32)
    whole = np.asarray(model(pixels, training=False))
    layers = network.layers
    assert len(set(layers)) == len(layers) > 5
    for layer in (layers[0], layers[len(layers) // 2], network.below(network.default_cut)):
        output = network.output(model, layer)
        assert network.shape(layer, 96) == tuple(output.shape[1:])
        rows = keras.Model(model.input, output)(pixels, training=False)
        again = keras.Model(output, model.output)(rows, training=False)
        np.testing.assert_allclose(again, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenetv3small"])
def test_layers_have_the_same_names_however_many_networks_were_built(name):
    _, keras = tensorflow.load()
    network = get_backbone(name)
    before = network.layers
    keras.layers.Add()([keras.Input((1,)), keras.Input((1,))])
    assert tuple(clean_cuts(network.architecture(network.default_size))) == before


def test_parameters_are_what_keras_counts():
    for name in SMALL:
        network = get_backbone(name)
        assert network.architecture(96).count_params() == network.parameters


def test_weights_that_keras_downloaded_are_named_by_their_digest(keras_home):
    network = get_backbone("mobilenetv3small")
    assert not network.is_here
    _, weights = downloaded(network, keras_home)
    assert network.is_here
    assert make_recipe("mobilenetv3small", size=64).weights == weights_digest(weights)


LATER = """
import sys
from pathlib import Path
from pipeline.backbones.registry import layers_recipe, make_recipe
recipe = make_recipe(
    "mobilenetv3small", size=64, weights=Path(sys.argv[1]) if sys.argv[1:] else None
)
print(recipe.fingerprint, layers_recipe(recipe).fingerprint, "keras" in sys.modules)
"""


@pytest.mark.parametrize("own", [False, True])
def test_a_later_process_makes_the_recipe_without_building_the_network(keras_home, own, tmp_path):
    """So `status`, and `features` with nothing to do, take no longer than for VGG16."""
    network = get_backbone("mobilenetv3small")
    file, _ = downloaded(network, keras_home)
    file = file.rename(tmp_path / "own.h5") if own else None
    recipe = make_recipe("mobilenetv3small", size=64, weights=file)
    command = [sys.executable, "-c", LATER, *([str(file)] if own else [])]
    later = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert later == [recipe.fingerprint, layers_recipe(recipe).fingerprint, "False"]


def test_weights_that_changed_are_not_taken_for_those_before(keras_home):
    network = get_backbone("mobilenetv3small")
    file, weights = downloaded(network, keras_home)
    before, stat = network.weights_digest(), file.stat()
    with h5py.File(file, "r+") as h5:
        kernels = []
        h5.visititems(lambda _, part: kernels.append(part) if hasattr(part, "shape") else None)
        kernels[0][...] = kernels[0][...] * 2
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert network.weights_digest() != before == weights_digest(weights)


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"schema": 1, "shapes": {"": 1}}'])
def test_a_damaged_memory_of_networks_costs_time_only(monkeypatch, tmp_path, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "cached-feature-pipeline" / "networks.json"
    file.parent.mkdir()
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    calls = []

    def find(size):
        calls.append(size)
        return {"top": (2, 2, 8)}

    assert remember_shapes("small", 64, find) == remember_shapes("small", 64, find)
    assert len(calls) == (2 if content is None else 1)


def test_a_recipe_with_weights_of_ones_own_is_made_again_without_published_ones(tmp_path):
    """As when a model is loaded: nothing is downloaded for that."""
    file = tmp_path / "tuned.weights.h5"
    get_backbone("mobilenetv3small").architecture(32).save_weights(file)
    recipe = make_recipe("mobilenetv3small", size=32, weights=file)
    assert remake_recipe(recipe) == recipe


def test_weights_of_another_network_are_refused(tmp_path):
    other = tmp_path / "other.weights.h5"
    get_backbone("mobilenetv3small").architecture(32).save_weights(other)
    with pytest.raises(WeightsError, match=r"(?s)MobileNetV2's weights from .*other\.weights\.h5"):
        make_recipe("mobilenetv2", weights=other)
    with h5py.File(tmp_path / "empty.weights.h5", "w"):
        pass
    with pytest.raises(WeightsError, match=r"empty\.weights\.h5"):
        make_recipe("mobilenetv2", weights=tmp_path / "empty.weights.h5")


def test_without_a_download_the_message_says_both_ways_to_get_them(get_file):
    def fail(*args, **options):
        raise OSError("no network")

    get_file(fail)
    with pytest.raises(WeightsError, match=r"(?s)MobileNetV2.*internet.*--weights"):
        make_recipe("mobilenetv2")
