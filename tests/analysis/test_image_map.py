"""All images as points: alike ones side by side, the same for the same images, made once."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import paint_classes

from pipeline import extract, load_dataset
from pipeline.analysis import image_map
from pipeline.analysis.image_map import map_images
from pipeline.errors import PipelineError


@pytest.fixture
def extraction(tmp_path, extractor):
    return extract(load_dataset(paint_classes(tmp_path / "photos", 25)), extractor=extractor)


def kept(extraction):
    return sorted(extraction.store.folder.glob("map-*"))


def agreement(points, labels):
    """Tell how many of the five nearest points have a point's own label."""
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    nearest = distances.argsort(axis=1)[:, 1:6]
    return (labels[nearest] == labels[:, None]).mean()


def test_images_of_one_colour_are_side_by_side(extraction):
    points = map_images(extraction)
    assert points.shape == (50, 2)
    assert np.abs(points).max() == 1
    assert agreement(points, extraction.dataset.targets.labels) > 0.95


def test_a_map_is_made_once_and_kept_beside_the_rows(extraction, monkeypatch):
    points = map_images(extraction)
    [file] = kept(extraction)
    monkeypatch.setattr(image_map, "_tsne", None)
    assert np.array_equal(map_images(extraction), points)
    with pytest.raises(TypeError):
        map_images(extraction, seed=1)
    assert kept(extraction) == [file]


def test_the_same_images_have_the_same_map_whatever_their_order_and_labels(extraction):
    points = map_images(extraction)
    order = np.random.default_rng(0).permutation(50)
    other = replace(extraction, dataset=extraction.dataset.take(order).all_in("test"))
    [file] = kept(extraction)
    assert np.array_equal(map_images(other), points[order])
    assert kept(extraction) == [file]
    file.unlink()
    assert np.array_equal(map_images(other), points[order])


@pytest.mark.parametrize("spoil", ["flip", "cut", "empty", "longer"])
def test_a_damaged_map_is_made_again(extraction, spoil):
    points = map_images(extraction)
    [file] = kept(extraction)
    content = bytearray(file.read_bytes())
    if spoil == "flip":
        content[40] ^= 1
    file.write_bytes(
        {"cut": content[:-8], "empty": b"", "longer": content + bytes(8)}.get(spoil, content)
    )
    assert np.array_equal(map_images(extraction), points)
    assert len(file.read_bytes()) == 32 + 8 * 50


def test_a_map_that_cannot_be_kept_is_made_all_the_same(extraction, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_map, "write_file", full)
    assert map_images(extraction).shape == (50, 2)
    assert kept(extraction) == []


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7])
def test_few_images_have_a_map_too(extraction, count):
    few = replace(extraction, dataset=extraction.dataset.take(np.arange(count)))
    points = map_images(few)
    assert points.shape == (count, 2)
    assert np.isfinite(points).all()


def test_of_many_images_some_are_laid_out_and_the_others_put_beside_them(extraction, monkeypatch):
    monkeypatch.setattr(image_map, "_MOST", 30)
    points = map_images(extraction)
    assert agreement(points, extraction.dataset.targets.labels) > 0.9


def test_without_its_package_there_is_one_error_that_says_what_to_install(extraction, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openTSNE", None)
    with pytest.raises(PipelineError, match=r"needs the package openTSNE\.\nTo do: .*pip install"):
        map_images(extraction)
