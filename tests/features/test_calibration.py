"""How a recipe of precision int8 rounds: measured once on a data set's training images."""

from dataclasses import replace

import pytest
from conftest import paint_classes

from pipeline.backbones import int8
from pipeline.backbones.registry import make_recipe
from pipeline.data.loading import load_dataset
from pipeline.errors import StoreError
from pipeline.features import calibration
from pipeline.features.calibration import calibrated
from pipeline.features.extractor import extract


@pytest.fixture
def photos(tmp_path):
    return load_dataset(paint_classes(tmp_path / "photos"))


def small_recipe(**changes):
    return replace(make_recipe(size=64, layer="block2_pool", precision="int8"), **changes)


def test_a_calibration_stays_when_images_are_added_and_is_measured_once(
    photos, tmp_path, monkeypatch
):
    measured = []
    measure = int8.measure_peaks
    monkeypatch.setattr(int8, "measure_peaks", lambda *args: measured.append(1) or measure(*args))
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
    read_image = calibration.read_image
    monkeypatch.setattr(
        calibration, "read_image", lambda path, *a: read.append(path) or read_image(path, *a)
    )
    monkeypatch.setattr(calibration, "_CALIBRATION_IMAGES", 8)
    counts = []
    recipe = calibrated(photos, small_recipe(), cache=tmp_path, on_calibration=counts.append)
    training = {photos.paths[place] for place in photos.where("train")}
    assert len(set(read)) == 8
    assert set(read) < training
    assert counts == [8]
    backwards = photos.take(range(len(photos))[::-1])
    assert calibrated(backwards, small_recipe(), cache=tmp_path) == recipe


def test_a_calibration_that_was_changed_on_disk_is_refused(photos, tmp_path):
    store = extract(photos, small_recipe(), cache=tmp_path / "cache").store
    file = store.folder / "recipe.json"
    first, *_ = store.recipe.calibration.split()
    file.write_text(file.read_text().replace(f'"{first} ', f'"{float(first) + 1:g} '))
    with pytest.raises(StoreError, match="fingerprint does not match"):
        extract(photos, small_recipe(), cache=tmp_path / "cache")
