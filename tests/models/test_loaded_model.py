"""A model that stays loaded: it takes files, bytes and pixels, and opens everything once."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from conftest import CountingBackbone, paint
from PIL import Image

import pipeline
from pipeline.backbones.registry import make_recipe
from pipeline.errors import ModelError, PipelineError
from pipeline.features import computing, extractor
from pipeline.features.extractor import Extractor
from pipeline.heads.registry import HEADS
from pipeline.models.model import Model

RECIPE = make_recipe(size=64, precision="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    rng, labels = np.random.default_rng(0), np.arange(40) % 2
    rows = rng.random((40, 2048), np.float32) * 100
    rows[:, ::3] += 100 * labels[:, None]
    head = HEADS["logistic"].build(0).fit(rows, labels)
    Model(RECIPE, "logistic", ("blue", "red"), head).save(folder)
    return folder


@pytest.fixture
def networks(monkeypatch):
    """The stand-ins that were loaded; each must be called by one thread at a time."""
    loaded = []

    class Alone(CountingBackbone):
        inside = 0

        def __call__(self, pixels):
            self.inside += 1
            assert self.inside == 1
            time.sleep(0.001)
            rows = super().__call__(pixels)
            self.inside -= 1
            return rows

    def load(recipe, weights, **more):
        loaded.append(Alone(recipe, **more))
        return loaded[-1]

    monkeypatch.setattr(computing, "load_backbone", load)
    return loaded


@pytest.fixture
def model(folder, networks):
    return pipeline.load_model(folder)


@pytest.fixture
def picture(tmp_path):
    return paint(tmp_path / "a.png", (180, 70, 70), seed=1, side=300)


def pixels_of(file):
    return np.asarray(Image.open(file).convert("RGB"))


def test_files_bytes_and_pixels_of_one_picture_have_one_answer(model, picture):
    expected = model.predict(picture)
    assert (expected.path, expected.error) == (picture, None)
    assert expected.label in {"blue", "red"}
    for image in (picture.read_bytes(), pixels_of(picture), np.asfortranarray(pixels_of(picture))):
        assert model.predict(image) == replace(expected, path=None)
    assert model.predict(str(picture)) == expected


@pytest.mark.parametrize("shape", [(1, 1, 3), (64, 64, 3), (700, 31, 3), (200, 300), (3, 3)])
def test_pixels_of_any_size_are_scaled_as_those_of_a_file(model, shape):
    pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8, endpoint=True)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert model.predict(pixels) == model.predict(file.getvalue())


def test_several_images_are_answered_in_order_and_a_bad_one_costs_only_itself(model, picture):
    pixels = pixels_of(picture)
    found = list(model.predict([picture, b"no image", pixels, b"", "none.png", 255 - pixels]))
    assert [bool(item.error) for item in found] == [False, True, False, True, True, False]
    assert found[2] == replace(found[0], path=None)
    assert found[5].probabilities != found[0].probabilities
    assert "No such file" in found[4].error
    of_array = model.predict(np.stack([pixels, 255 - pixels]))
    assert [item.label for item in of_array] == [found[2].label, found[5].label]
    assert list(model.predict([])) == []
    assert list(model.predict(np.array([str(picture)]))) == [found[0]]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        [np.zeros(4, np.uint8)],
        [np.zeros((1, 4, 4, 3), np.uint8)],
        [None],
        [7],
    ],
)
def test_what_is_no_image_is_an_error_that_says_what_is_one(model, image):
    with pytest.raises(PipelineError, match=r"is no (picture|image)") as refused:
        list(model.predict(image)) if isinstance(image, list) else model.predict(image)
    assert refused.value.expected


def test_network_and_cache_are_opened_once_for_all_calls(model, networks, picture, monkeypatch):
    opened = []
    store = extractor.FeatureStore
    monkeypatch.setattr(
        extractor, "FeatureStore", lambda *args, **more: opened.append(0) or store(*args, **more)
    )
    for _ in range(3):
        assert not model.predict(picture).error
        assert not next(model.predict([pixels_of(picture)])).error
    assert (len(networks), len(opened)) == (1, 1)
    model.predict(picture, extractor=Extractor(cache="elsewhere"))
    assert len(opened) == 2


def test_several_threads_have_the_answers_that_one_has(model, networks, tmp_path):
    pictures = [paint(tmp_path / f"{at}.png", (9 * at, 70, 70), seed=at) for at in range(24)]
    expected = list(model.predict(pictures))
    start = threading.Barrier(8)

    def predict(share):
        start.wait()
        return [model.predict(picture) for picture in share]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(predict, [pictures[at::8] for at in range(8)]))
    for at in range(24):
        item = found[at % 8][at // 8]
        assert item.path == expected[at].path
        # The last bits depend on how many rows a head gets at once.
        assert item.probabilities == pytest.approx(expected[at].probabilities, abs=1e-6)
    assert len(networks) == 1


def test_a_view_of_pixels_follows_from_the_pixels(folder, networks, picture):
    views = Model.load(folder)
    views = replace(views, views=3, augmentation=pipeline.get_augmentation("textbook").name)
    one, two = views.predict(pixels_of(picture)), views.predict([pixels_of(picture)])
    assert one == next(two)
    assert networks[0].images == 6


def test_what_cannot_be_loaded_is_refused(folder, tmp_path):
    with pytest.raises(ModelError, match="there is no folder"):
        pipeline.load_model(tmp_path / "none")
    with pytest.raises(ModelError, match="is not a run"):
        pipeline.load_model(str(folder), head="logistic")
