"""How a recipe of precision int8 rounds: measured once on a data set's training images."""

import pytest
from conftest import no_network, paint_classes

from pipeline.backbones import int8
from pipeline.backbones.registry import make_recipe
from pipeline.data.loading import load_dataset
from pipeline.errors import StoreError
from pipeline.features import calibration
from pipeline.features.extractor import Extractor
from pipeline.features.listener import Listener
from pipeline.features.store import FeatureStore


@pytest.fixture
def photos(tmp_path):
    return load_dataset(paint_classes(tmp_path / "photos"), cache=tmp_path / "cache")


@pytest.fixture
def extractor(tmp_path):
    recipe = make_recipe(size=64, layer="block2_pool", precision="int8")
    return Extractor(recipe, cache=tmp_path / "cache")


def make(extractor, dataset):
    settled = extractor.settle(dataset)
    return settled.make(settled.plan(dataset))


def test_a_calibration_stays_when_images_are_added_and_is_measured_once(
    extractor, photos, tmp_path, monkeypatch
):
    measured = []
    measure = int8.measure_peaks
    monkeypatch.setattr(int8, "measure_peaks", lambda *args: measured.append(1) or measure(*args))
    first = make(extractor, photos)
    paint_classes(tmp_path / "photos", count=30)
    second = make(extractor, load_dataset(tmp_path / "photos", cache=tmp_path / "cache"))
    assert first.recipe == second.recipe
    assert (first.made, second.made, len(measured)) == (40, 20, 1)


def test_other_images_get_a_calibration_of_their_own(extractor, photos, tmp_path):
    first = make(extractor, photos)
    folder = paint_classes(tmp_path / "others", classes=("green", "blue"))
    others = load_dataset(folder, cache=tmp_path / "cache")
    second = make(extractor, others)
    assert first.recipe != second.recipe
    assert extractor.settle(photos).recipe == first.recipe
    assert extractor.settle(others).recipe == second.recipe


def test_the_sample_is_of_training_images_and_does_not_depend_on_order(
    extractor, photos, monkeypatch
):
    read = []
    read_image = calibration.read_image
    monkeypatch.setattr(
        calibration, "read_image", lambda path, *a: read.append(path) or read_image(path, *a)
    )
    monkeypatch.setattr(calibration, "_CALIBRATION_IMAGES", 8)
    counts = []
    listener = Listener()
    listener.calibrating = counts.append
    recipe = extractor.settle(photos, listener).recipe
    training = {photos.paths[place] for place in photos.where("train")}
    assert len(set(read)) == 8
    assert set(read) < training
    assert counts == [8]
    backwards = photos.take(range(len(photos))[::-1])
    assert extractor.settle(backwards).recipe == recipe


def test_it_looks_at_few_images_so_that_int8_pays_from_300_on(extractor, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        int8, "measure_peaks", lambda chain, pixels: seen.append(len(pixels)) or [1.0] * 3
    )
    folder = paint_classes(tmp_path / "photos", count=150)
    extractor.settle(load_dataset(folder, cache=tmp_path / "cache"))
    assert seen == [48]  # in float32 each costs as much as three in int8


def test_a_calibration_that_was_changed_on_disk_is_refused(extractor, photos):
    store = make(extractor, photos).store
    file = store.folder / "recipe.json"
    first, *_ = store.recipe.calibration.split()
    file.write_text(file.read_text().replace(f'"{first} ', f'"{float(first) + 1:g} '))
    with pytest.raises(StoreError, match="fingerprint does not match"):
        make(extractor, photos)


def test_only_stores_that_may_hold_the_calibration_are_opened(
    extractor, photos, tmp_path, monkeypatch
):
    make(extractor, photos)
    others = Extractor(make_recipe(size=32), cache=tmp_path / "cache", forward=no_network)
    others.plan(photos).store.prepare()
    opened = []
    at = FeatureStore.at
    monkeypatch.setattr(
        FeatureStore, "at", lambda folder, hold: opened.append(folder) or at(folder, hold=hold)
    )
    settled = extractor.settle(photos)
    assert opened == [settled.plan(photos).store.folder]
