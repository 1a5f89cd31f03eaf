"""VGG16 as published: its counts, and its features against an independent engine."""

import os
import subprocess
import sys

import numpy as np
import pytest

from pipeline.backbones import running as backbone
from pipeline.backbones.registry import make_recipe
from pipeline.backbones.running import Backbone
from pipeline.backbones.vgg16 import LAYERS
from pipeline.backbones.weights import load_weights, packaged_weights
from pipeline.data.demo import demo_images
from pipeline.data.images import decode
from pipeline.errors import PipelineError
from pipeline.heads.dense import build_dense
from pipeline.system import tensorflow


@pytest.fixture(scope="module")
def packaged():
    return packaged_weights()


@pytest.fixture(scope="module")
def weights(packaged):
    return load_weights(packaged)


@pytest.fixture(scope="module")
def base(weights):
    return backbone.build_base(weights, 150)


def real_pixels(count, size):
    paths = [path for path, _ in demo_images()[:: 2624 // count][:count]]
    return np.stack([decode(path.read_bytes(), size) for path in paths])


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
    recipe = make_recipe(size=240, precision="float32")
    ours = Backbone(recipe, packaged)(pixels)

    assert ours.shape == (6, *recipe.shape) == (6, 7, 7, 512)
    assert theirs.max() > 50
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_row_does_not_depend_on_its_batch(packaged, precision):
    run = Backbone(make_recipe(precision=precision), packaged)
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
from pipeline.backbone import Backbone, make_recipe
weights, pixels, folder = map(Path, sys.argv[1:])
for precision in ("float32", "bfloat16"):
    run = Backbone(make_recipe(precision=precision), weights)
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
        Backbone(make_recipe(precision=precision), packaged)(pixels)
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
        make_recipe(**options)


def test_automatic_precision_is_settled_when_the_recipe_is_made():
    assert make_recipe().precision == backbone.native_precision() in ("float32", "bfloat16")
