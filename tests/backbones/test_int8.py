"""The base in 8-bit integers: near float32, the same bits everywhere, and calibrated once."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from solar import real_pixels

from pipeline.backbones import int8
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import get_backbone, make_recipe
from pipeline.backbones.running import calibrate, load_backbone
from pipeline.errors import PipelineError
from pipeline.system import tensorflow


@pytest.fixture(scope="module")
def settled():
    return calibrate(make_recipe(precision="int8"), real_pixels(24, 150))


@pytest.fixture(scope="module")
def run(settled):
    return load_backbone(settled)


def small_recipe(**changes):
    return replace(make_recipe(size=64, layer="block2_pool", precision="int8"), **changes)


@pytest.mark.parametrize("scaling", ["caffe", "unit"])
def test_features_are_near_those_in_float32(scaling):
    short = calibrate(make_recipe(precision="int8", scaling=scaling), real_pixels(24, 150))
    pixels = real_pixels(12, 150, start=1)
    exact = load_backbone(make_recipe(precision="float32", scaling=scaling))(pixels).reshape(12, -1)
    rounded = load_backbone(short)(pixels).reshape(12, -1)
    assert 0 < np.linalg.norm(exact - rounded) / np.linalg.norm(exact) < 0.08
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1)
    assert ((exact * rounded).sum(axis=1) / lengths).mean() > 0.995


@pytest.mark.parametrize("scaling", ["caffe", "unit"])
def test_before_rounding_the_network_is_tensorflows(scaling):
    """The peaks are the highest values of TensorFlow's layers, so all below them agrees."""
    _, keras = tensorflow.load()
    pixels = real_pixels(3, 64)
    vgg16 = get_backbone("vgg16")
    network = vgg16.build(64, "float32", vgg16.load_weights())
    convolutions = [layer.output for layer in network.layers if "conv" in layer.name]
    theirs = keras.Model(network.input, convolutions)(vgg16.preprocess(pixels, scaling))
    highest = [float(np.max(layer)) for layer in theirs[:-1]]
    recipe = make_recipe(size=64, scaling=scaling, precision="int8")
    ours = [float(peak) for peak in calibrate(recipe, pixels).calibration.split()]
    assert (np.array(ours) >= np.array(highest) * (1 - 1e-5)).all()
    np.testing.assert_allclose(ours, highest, rtol=0.0101)


@pytest.mark.parametrize("layer", ["block1_conv1", "block1_pool", "block4_pool", "block5_conv3"])
def test_the_network_can_be_cut_anywhere(layer):
    pixels = real_pixels(2, 64)
    recipe = calibrate(make_recipe(size=64, layer=layer, precision="int8"), pixels)
    exact = load_backbone(make_recipe(size=64, layer=layer, precision="float32"))(pixels)
    rounded = load_backbone(recipe)(pixels)
    assert rounded.shape == exact.shape == (2, *recipe.shape)
    assert np.linalg.norm(exact - rounded) / np.linalg.norm(exact) < 0.08


def test_a_row_does_not_depend_on_its_batch_or_its_place_in_it(run):
    pixels = real_pixels(21, 150)
    together = run(pixels)
    alone = np.concatenate([run(pixels[i : i + 1]) for i in range(21)])
    assert together.any()
    assert np.array_equal(together, alone)
    assert np.array_equal(together, run(pixels[::-1])[::-1])


_SAVE_ROWS = """
import sys
sent = ("socket.connect", "socket.getaddrinfo", "os.fork", "subprocess.Popen")
events = []
sys.addaudithook(lambda event, _: events.append(event) if event in sent else None)
import numpy as np
from pipeline.backbones.registry import make_recipe
from pipeline.backbones.running import load_backbone
pixels, rows, calibration = sys.argv[1:]
run = load_backbone(make_recipe(precision="int8", calibration=calibration))
np.save(rows, run(np.load(pixels)))
assert "openvino" in sys.modules
assert "tensorflow" not in sys.modules
assert events == []
"""


def test_a_row_does_not_depend_on_threads_and_nothing_is_printed_or_sent(run, settled, tmp_path):
    np.save(tmp_path / "pixels.npy", real_pixels(9, 150))
    command = [sys.executable, "-c", _SAVE_ROWS, tmp_path / "pixels.npy", tmp_path / "rows.npy"]
    if hasattr(os, "sched_setaffinity"):
        command = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0))), *command]
    done = subprocess.run([*command, settled.calibration], check=True, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert np.array_equal(np.load(tmp_path / "rows.npy"), run(real_pixels(9, 150)))


def test_calibration_does_not_depend_on_the_samples_order(settled):
    pixels = real_pixels(24, 150)
    assert calibrate(make_recipe(precision="int8"), pixels[::-1]) == settled
    assert len(settled.calibration.split()) == 12


def test_another_calibration_is_another_store(settled):
    other = calibrate(make_recipe(precision="int8"), real_pixels(4, 150))
    assert other.calibration != settled.calibration
    assert other.name != settled.name


@pytest.mark.parametrize(
    "calibration", ["1 2", "1 2 three", "1 2 -3", "1 2 nan", "1 2 inf", "1 2 0", ""]
)
def test_a_calibration_of_another_network_is_refused(calibration):
    with pytest.raises(PipelineError, match="3 positive numbers"):
        make_recipe(layer="block2_pool", precision="int8", calibration=calibration)


def test_a_calibration_fits_int8_only():
    with pytest.raises(PipelineError, match="for precision int8 only"):
        make_recipe(layer="block2_pool", precision="float32", calibration="1 2 3")


def test_a_recipe_that_is_not_calibrated_computes_nothing():
    with pytest.raises(PipelineError, match="let `classify`"):
        load_backbone(small_recipe())


def test_a_calibrated_recipe_is_read_back(settled):
    assert Recipe.from_json(settled.to_json(), source="here") == settled


def test_a_cpu_without_8_bit_instructions_is_refused(monkeypatch):
    monkeypatch.setattr(int8, "cpu_flags", lambda: ["avx2", "avx512f"])
    with pytest.raises(PipelineError, match=r"(?s)avx512_vnni.*--precision auto"):
        calibrate(small_recipe(), real_pixels(1, 64))
