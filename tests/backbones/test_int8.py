"""The base in 8-bit integers: near float32, the same bits everywhere, and calibrated once."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import paint_classes

from pipeline.backbones import int8 as quantised
from pipeline.backbones import running as backbone
from pipeline.backbones.int8 import calibrate
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import make_recipe
from pipeline.backbones.running import Backbone
from pipeline.backbones.weights import load_weights
from pipeline.data.demo import demo_images
from pipeline.data.images import decode
from pipeline.data.loading import load_dataset
from pipeline.errors import PipelineError, StoreError
from pipeline.features import extractor as extraction
from pipeline.features.calibration import calibrated
from pipeline.features.extractor import extract
from pipeline.system import tensorflow


def real_pixels(count, size=150, start=0):
    paths = [path for path, _ in demo_images()[start :: 2624 // count][:count]]
    return np.stack([decode(path.read_bytes(), size) for path in paths])


@pytest.fixture(scope="module")
def settled():
    return calibrate(make_recipe(precision="int8"), real_pixels(24))


@pytest.fixture(scope="module")
def run(settled):
    return Backbone(settled)


@pytest.fixture
def photos(tmp_path):
    return load_dataset(paint_classes(tmp_path / "photos"))


def small_recipe(**changes):
    return replace(make_recipe(size=64, layer="block2_pool", precision="int8"), **changes)


@pytest.mark.parametrize("scaling", ["caffe", "unit"])
def test_features_are_near_those_in_float32(scaling):
    short = calibrate(make_recipe(precision="int8", scaling=scaling), real_pixels(64))
    pixels = real_pixels(32, start=1)
    exact = Backbone(make_recipe(precision="float32", scaling=scaling))(pixels).reshape(32, -1)
    rounded = Backbone(short)(pixels).reshape(32, -1)
    assert 0 < np.linalg.norm(exact - rounded) / np.linalg.norm(exact) < 0.08
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1)
    assert ((exact * rounded).sum(axis=1) / lengths).mean() > 0.995


@pytest.mark.parametrize("scaling", ["caffe", "unit"])
def test_before_rounding_the_network_is_tensorflows(scaling):
    """The peaks are the highest values of TensorFlow's layers, so all below them agrees."""
    _, keras = tensorflow.load()
    pixels = real_pixels(3, 64)
    base = backbone.build_base(load_weights(), 64)
    convolutions = [layer.output for layer in base.layers if "conv" in layer.name]
    theirs = keras.Model(base.input, convolutions)(backbone.preprocess(pixels, scaling))
    highest = [float(np.max(layer)) for layer in theirs[:-1]]
    recipe = make_recipe(size=64, scaling=scaling, precision="int8")
    ours = [float(peak) for peak in calibrate(recipe, pixels).calibration.split()]
    assert (np.array(ours) >= np.array(highest) * (1 - 1e-5)).all()
    np.testing.assert_allclose(ours, highest, rtol=0.0101)


@pytest.mark.parametrize("layer", ["block1_conv1", "block1_pool", "block4_pool", "block5_conv3"])
def test_the_network_can_be_cut_anywhere(layer):
    pixels = real_pixels(2, 64)
    recipe = calibrate(make_recipe(size=64, layer=layer, precision="int8"), pixels)
    exact = Backbone(replace(make_recipe(size=64, layer=layer, precision="float32")))(pixels)
    rounded = Backbone(recipe)(pixels)
    assert rounded.shape == exact.shape == (2, *recipe.shape)
    assert np.linalg.norm(exact - rounded) / np.linalg.norm(exact) < 0.08


def test_a_row_does_not_depend_on_its_batch_or_its_place_in_it(run):
    pixels = real_pixels(21)
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
from pipeline.backbone import Backbone, make_recipe
pixels, rows, calibration = sys.argv[1:]
run = Backbone(make_recipe(precision="int8", calibration=calibration))
np.save(rows, run(np.load(pixels)))
assert "openvino" in sys.modules
assert "tensorflow" not in sys.modules
assert events == []
"""


def test_a_row_does_not_depend_on_threads_and_nothing_is_printed_or_sent(run, settled, tmp_path):
    np.save(tmp_path / "pixels.npy", real_pixels(9))
    command = [sys.executable, "-c", _SAVE_ROWS, tmp_path / "pixels.npy", tmp_path / "rows.npy"]
    if hasattr(os, "sched_setaffinity"):
        command = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0))), *command]
    done = subprocess.run([*command, settled.calibration], check=True, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert np.array_equal(np.load(tmp_path / "rows.npy"), run(real_pixels(9)))


def test_calibration_does_not_depend_on_the_samples_order(settled):
    pixels = real_pixels(24)
    assert calibrate(make_recipe(precision="int8"), pixels[::-1]) == settled
    assert len(settled.calibration.split()) == 12


def test_another_calibration_is_another_store(settled):
    other = calibrate(make_recipe(precision="int8"), real_pixels(4))
    assert other.calibration != settled.calibration
    assert other.name != settled.name


def test_a_calibration_stays_when_images_are_added_and_is_measured_once(
    photos, tmp_path, monkeypatch
):
    measured = []
    measure = quantised.measure_peaks
    monkeypatch.setattr(
        quantised, "measure_peaks", lambda *args: measured.append(1) or measure(*args)
    )
    first = extract(photos, small_recipe(), cache=tmp_path / "cache")
    paint_classes(tmp_path / "photos", count=30)
    more = load_dataset(tmp_path / "photos")
    second = extract(more, small_recipe(), cache=tmp_path / "cache")
    assert first.store.recipe == second.store.recipe
    assert (first.made, second.made, len(measured)) == (40, 20, 1)


def test_other_images_get_a_calibration_of_their_own(photos, tmp_path):
    first = extract(photos, small_recipe(), cache=tmp_path / "cache")
    others = load_dataset(paint_classes(tmp_path / "others", classes=("green", "blue")))
    second = extract(others, small_recipe(), cache=tmp_path / "cache")
    assert first.store.recipe != second.store.recipe
    assert calibrated(photos, small_recipe(), cache=tmp_path / "cache") == first.store.recipe
    assert calibrated(others, small_recipe(), cache=tmp_path / "cache") == second.store.recipe


def test_the_sample_is_of_training_images_and_does_not_depend_on_order(
    photos, tmp_path, monkeypatch
):
    read = []
    read_image = extraction.read_image
    monkeypatch.setattr(
        extraction, "read_image", lambda path, *a: read.append(path) or read_image(path, *a)
    )
    monkeypatch.setattr(extraction, "_CALIBRATION_IMAGES", 8)
    counts = []
    one = calibrated(photos, small_recipe(), cache=tmp_path, on_calibration=counts.append)
    training = {photos.paths[place] for place in photos.where("train")}
    assert len(set(read)) == 8
    assert set(read) < training
    assert counts == [8]
    backwards = photos.take(range(len(photos))[::-1])
    assert calibrated(backwards, small_recipe(), cache=tmp_path) == one


def test_a_calibration_that_was_changed_on_disk_is_refused(photos, tmp_path):
    store = extract(photos, small_recipe(), cache=tmp_path / "cache").store
    file = store.folder / "recipe.json"
    first, *_ = store.recipe.calibration.split()
    file.write_text(file.read_text().replace(f'"{first} ', f'"{float(first) + 1:g} '))
    with pytest.raises(StoreError, match="fingerprint does not match"):
        extract(photos, small_recipe(), cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "calibration", ["1 2", "1 2 three", "1 2 -3", "1 2 nan", "1 2 inf", "1 2 0", ""]
)
def test_a_calibration_of_another_network_is_refused(calibration):
    with pytest.raises(PipelineError, match="3 positive numbers"):
        make_recipe(layer="block2_pool", precision="int8", calibration=calibration)


def test_a_calibration_fits_int8_only():
    with pytest.raises(PipelineError, match="int8 only"):
        make_recipe(layer="block2_pool", precision="float32", calibration="1 2 3")


def test_a_recipe_that_is_not_calibrated_computes_nothing():
    with pytest.raises(PipelineError, match="let `extract`"):
        Backbone(small_recipe())


def test_a_calibrated_recipe_is_read_back(settled):
    assert Recipe.from_json(settled.to_json(), source="here") == settled


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    quantised._openvino.cache_clear()
    with pytest.raises(PipelineError, match=r"cached-feature-pipeline\[openvino\]"):
        calibrate(small_recipe(), real_pixels(1, 64))


def test_a_cpu_without_8_bit_instructions_is_refused(monkeypatch):
    monkeypatch.setattr(backbone, "_cpu_flags", lambda: ["avx2", "avx512f"])
    with pytest.raises(PipelineError, match=r"(?s)avx512_vnni.*--precision auto"):
        calibrate(small_recipe(), real_pixels(1, 64))
