"""Memory grows with the number of images by some hundred bytes for each, whatever they are."""

import dataclasses
import hashlib
import tracemalloc

import numpy as np
import pytest
from conftest import CountingBackbone, paint

from pipeline.data import digests
from pipeline.data.loading import load_dataset
from pipeline.features import computing
from pipeline.features.extractor import Extractor, extract
from pipeline.features.store import FeatureStore

FEW, MANY = 400, 2400


@pytest.fixture
def small_steps(monkeypatch):
    """So that a few hundred images are as much at once as there ever is."""
    monkeypatch.setattr(digests, "_FILES_AT_ONCE", 50)
    monkeypatch.setattr(computing, "_IMAGES_PER_BATCH", 16)


@pytest.fixture
def traced():
    tracemalloc.start()
    yield tracemalloc
    tracemalloc.stop()


def peaks(traced, photos, cache, recipe):
    """Most bytes that listing images takes, and then extracting them."""
    before, _ = traced.get_traced_memory()
    traced.reset_peak()
    dataset = load_dataset(photos, cache=cache)
    _, listing = traced.get_traced_memory()
    traced.reset_peak()
    extractor = Extractor(recipe, cache=cache, forward=CountingBackbone(recipe))
    extract(dataset, extractor=extractor)
    _, extracting = traced.get_traced_memory()
    return np.array([listing - before, extracting - before])


@pytest.mark.usefixtures("small_steps")
def test_stage_one_keeps_little_of_each_image(tmp_path, recipe, traced):
    recipe = dataclasses.replace(recipe, shape=(1, 1, 3))
    for folder, count in (("first", 20), ("few", FEW), ("many", MANY)):
        for number in range(count):
            paint(tmp_path / folder / "ab"[number % 2] / f"{number}.png", (99, 99, 99), number, 4)
    peaks(traced, tmp_path / "first", tmp_path / "cache", recipe)
    # Twice, and the lower: a thread that an earlier test left may take memory of its own meanwhile.
    few, many = (
        np.min(
            [
                peaks(traced, tmp_path / folder, tmp_path / f"{folder} cache {attempt}", recipe)
                for attempt in range(2)
            ],
            axis=0,
        )
        for folder in ("few", "many")
    )
    listing, extracting = (many - few) / (MANY - FEW)
    assert listing < 1300
    assert extracting < 900


def test_an_open_store_takes_little_of_each_row(tmp_path, recipe, traced):
    small = dataclasses.replace(recipe, shape=(1, 1, 1))
    store = FeatureStore(tmp_path, small)
    for shard in range(10):
        keys = [(hashlib.sha256(b"%d %d" % (shard, row)).digest(), 0) for row in range(500)]
        store.write(keys, np.zeros((500, 1, 1, 1), np.float32))
    before, _ = traced.get_traced_memory()
    opened = FeatureStore(tmp_path, small)
    assert traced.get_traced_memory()[0] - before < 150 * len(opened) == 150 * 5000
