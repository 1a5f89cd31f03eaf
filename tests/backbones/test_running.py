"""Rows of the real network: equal to another engine's, whatever the batch and the threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
from solar import real_pixels

from pipeline.backbones.registry import make_recipe
from pipeline.backbones.running import load_backbone
from pipeline.backbones.vgg16 import VGG16

PRECISIONS = ("float32", "bfloat16")


@pytest.fixture(scope="module")
def packaged():
    return VGG16.published.packaged()


@pytest.fixture(scope="module")
def forward(packaged):
    """The network at the size that is usual, in each precision."""
    return {
        precision: load_backbone(make_recipe(precision=precision), packaged)
        for precision in PRECISIONS
    }


@pytest.fixture(scope="module")
def pixels():
    return real_pixels(6, 150)


@pytest.fixture(scope="module")
def rows(forward, pixels):
    return {precision: forward[precision](pixels) for precision in PRECISIONS}


def test_features_equal_those_of_another_engine_on_the_same_graph(packaged):
    """ONNX Runtime runs the packaged graph, cut at the last pooling, at its own 240 pixels."""
    import onnx
    import onnxruntime

    graph = onnx.load(packaged)
    last_pooling = [node for node in graph.graph.node if node.op_type == "MaxPool"][-1]
    graph.graph.output.extend([onnx.ValueInfoProto(name=last_pooling.output[0])])
    session = onnxruntime.InferenceSession(graph.SerializeToString())

    pixels = real_pixels(2, 240)
    scaled = np.asarray(VGG16().preprocess(pixels, "caffe"))
    [theirs] = session.run(list(last_pooling.output), {"input": scaled})
    recipe = make_recipe(size=240, precision="float32")
    ours = load_backbone(recipe, packaged)(pixels)

    assert ours.shape == (2, *recipe.shape) == (2, 7, 7, 512)
    assert theirs.max() > 50
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_does_not_depend_on_its_batch(forward, pixels, rows, precision):
    run, together = forward[precision], rows[precision]
    assert together.any()
    alone = np.concatenate([run(pixels[i : i + 1]) for i in range(len(pixels))])
    backwards = np.concatenate([run(pixels[i - 2 : i + 1][::-1]) for i in (5, 2)])[::-1]
    assert np.array_equal(together, alone)
    assert np.array_equal(together, backwards)


_SAVE_ROWS = """
import sys
from pathlib import Path
import numpy as np
from pipeline.backbones.registry import make_recipe
from pipeline.backbones.running import limit_threads, load_backbone
threads, weights, folder = int(sys.argv[1]), *map(Path, sys.argv[2:])
limit_threads(threads)
pixels = np.load(folder / "pixels.npy")
for precision in ("float32", "bfloat16"):
    np.save(folder / precision, load_backbone(make_recipe(precision=precision), weights)(pixels))
"""


def test_a_row_does_not_depend_on_threads_and_nothing_is_printed(packaged, pixels, rows, tmp_path):
    np.save(tmp_path / "pixels.npy", pixels[:3])
    others = 1 if (os.cpu_count() or 1) > 1 else 3
    command = [sys.executable, "-c", _SAVE_ROWS, str(others), packaged, tmp_path]
    done = subprocess.run(command, check=True, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    for precision in PRECISIONS:
        assert np.array_equal(np.load(tmp_path / f"{precision}.npy"), rows[precision][:3])


def test_bfloat16_is_near_float32(rows):
    exact, short = (rows[precision] for precision in PRECISIONS)
    assert 0 < np.linalg.norm(exact - short) / np.linalg.norm(exact) < 0.015
