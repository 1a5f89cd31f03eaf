"""The images most like a given one: exact, of labelled and unlabelled images, from the cache."""

import json
import re
import shutil

import numpy as np
import pytest
from commands import run_command
from conftest import paint, paint_classes
from stores import some_keys, some_rows

from pipeline import Gallery, PipelineError
from pipeline.data.loading import list_partly_labelled
from pipeline.features.extractor import Extractor, extract
from pipeline.features.store import FeatureStore


@pytest.fixture
def partly(tmp_path):
    """Two classes, one image beside them, and a copy of it in a folder named unlabelled."""
    folder = paint_classes(tmp_path / "photos", 6)
    loose = paint(folder / "loose.png", (180, 70, 70), 5000)
    (folder / "unlabelled").mkdir()
    shutil.copy(loose, folder / "unlabelled" / "copy.png")
    return folder


def test_the_images_most_like_a_file_are_its_copy_and_those_of_its_colour(partly, extractor):
    found = Gallery(partly, extractor=extractor).most_like(partly / "loose.png", 7)
    assert (found[0].path.name, found[0].label, found[0].split) == ("copy.png", "", "")
    assert found[0].distance == pytest.approx(0, abs=1e-6)
    assert {near.label for near in found[1:]} == {"red"}
    assert all(near.split in ("train", "validation", "test") for near in found[1:])
    assert [near.distance for near in found] == sorted(near.distance for near in found)


def test_they_are_those_of_sorting_all_similarities(partly, extractor):
    gallery = Gallery(partly, extractor=extractor)
    rows = FeatureStore(extractor.cache, extractor.recipe).read(
        [(digest, 0) for digest in gallery.dataset.digests]
    )
    tops = rows.max(axis=(1, 2)).astype(np.float64)
    tops /= np.linalg.norm(tops, axis=1, keepdims=True)
    for place in range(len(tops)):
        found = gallery.most_like(place, 99)
        assert sorted([*(near.place for near in found), place]) == list(range(len(tops)))
        expected = np.sort(1 - np.delete(tops @ tops[place], place))
        assert [near.distance for near in found] == pytest.approx(expected, abs=2e-5)


def test_features_that_are_at_hand_are_searched_without_opening_the_cache_again(
    partly, extractor, monkeypatch
):
    dataset = list_partly_labelled(partly)
    expected = Gallery(dataset, extractor=extractor).most_like(0)
    at_hand = extract(dataset, extractor=extractor, learnable=False)
    monkeypatch.delattr(Extractor, "plan")
    assert Gallery(at_hand, extractor=extractor).most_like(0) == expected


def test_images_that_no_classifier_could_be_trained_on_are_searched_too(tmp_path, extractor):
    folder = tmp_path / "photos"
    for name in ("red", "blue"):
        paint(folder / name / "only.png", (180, 70, 70), len(name))
    [found] = Gallery(folder, extractor=extractor).most_like(folder / "red" / "only.png")
    assert found.label == "blue"


def test_only_rows_that_are_missing_are_computed(partly, extractor, backbone):
    Gallery(partly, extractor=extractor)
    assert backbone.images == 13  # a copy has the row of its original
    gallery = Gallery(partly, extractor=extractor)
    gallery.most_like(partly / "loose.png")
    assert backbone.images == 13
    gallery.most_like(paint(partly.parent / "new.png", (0, 0, 0), 9))
    assert backbone.images == 14


def test_rows_are_read_block_by_block_in_whatever_shards_they_are(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr("pipeline.features.store._ROWS_AT_ONCE", 7)
    keys, rows = some_keys(50), some_rows(recipe, 50)
    store = FeatureStore(tmp_path, recipe)
    for part in np.array_split(np.random.default_rng(0).permutation(50), 4):
        store.write([keys[place] for place in part], rows[part])
    found = np.zeros_like(rows)
    for block, places in FeatureStore(tmp_path, recipe).blocks([*keys]):
        assert len(block) <= 7
        found[places] = block
    assert np.array_equal(found, rows)


def test_a_file_that_is_no_image_is_one_error(partly, extractor, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    with pytest.raises(PipelineError, match=r"bad\.png"):
        Gallery(partly, extractor=extractor).most_like(bad)


def test_the_command_lists_them_with_distance_class_and_split(partly, extractor, monkeypatch):
    Gallery(partly, extractor=extractor)
    given = ("similar", partly / "loose.png", partly, "--cache", extractor.cache, "--size", 64)
    given = [*map(str, (*given, "--precision", "float32"))]
    done = run_command(*given, "--json", "--count", "3")
    assert done.exit_code == 0, done.output
    first, *others = json.loads(done.stdout)
    assert first["path"] == str(partly / "unlabelled" / "copy.png")
    assert (first["label"], first["split"]) == ("", "")
    assert [other["label"] for other in others] == ["red", "red"]
    run = run_command(*given)
    shown = run.stdout
    assert re.search(r"^without a label +2", run.stderr, re.MULTILINE)
    assert "0.000" in shown
    assert "red" in shown


def test_only_the_images_named_are_chosen_from(partly, extractor):
    gallery = Gallery(partly, extractor=extractor)
    rows = FeatureStore(extractor.cache, extractor.recipe).read([(gallery.dataset.digests[0], 0)])
    among = np.array([1, 4, 9])
    found = gallery.nearest(rows, 99, among=among)
    everything = gallery.nearest(rows, 99)
    assert [near.place for near in found] == [
        near.place for near in everything if near.place in among
    ]
    assert gallery.nearest(rows, 99, among=among[:0]) == []
