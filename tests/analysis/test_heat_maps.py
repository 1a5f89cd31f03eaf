"""What in one picture counts for a class: the map, where it is strongest, and how it is drawn."""

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
from conftest import CountingBackbone
from PIL import Image

import pipeline
from pipeline.analysis.class_maps import find_class_maps
from pipeline.analysis.heat_maps import middles_of_cells
from pipeline.analysis.lime import lime
from pipeline.backbones.registry import layers_recipe, make_recipe
from pipeline.data.decoding import Decoding
from pipeline.data.images import png, thumbnail
from pipeline.errors import ImageError, PipelineError
from pipeline.features.extractor import Extractor, extract
from pipeline.heads.dense import DenseHead
from pipeline.heads.registry import get_head
from pipeline.models.model import Model

RECIPE = make_recipe(size=128, precision="float32")
WORDS = {
    (down, across): f"{row} {column}"
    for (down, row), (across, column) in itertools.product(
        enumerate(("top", "middle", "bottom")), enumerate(("left", "centre", "right"))
    )
}


def grey(place=None, seed=0, shape=(96, 96)):
    """A noisy grey picture, with a bright patch in one of nine places."""
    pixels = np.random.default_rng(seed).integers(90, 130, shape, np.uint8)
    if place:
        down, across = (
            slice(at * side // 3, (at + 1) * side // 3) for at, side in zip(place, shape)
        )
        pixels[down, across] += 110
    return np.stack([pixels] * 3, axis=-1)


def rows_of(pictures):
    lookup = Extractor(RECIPE, forward=CountingBackbone(RECIPE)).lookup(stored=False)
    return np.concatenate([rows for _, rows in lookup.rows(map(png, pictures), Silent())])


class Silent(pipeline.RunListener):
    pass


def model_of(name, place=(0, 0), classes=2):
    """A model that tells pictures with a patch in a place from those without."""
    labels = np.arange(60) % classes
    rows = rows_of([grey(place if label == 1 else None, seed) for seed, label in enumerate(labels)])
    head = DenseHead(epochs=8, units=8) if name == "dense" else get_head(name).build(0)
    head.fit(rows.reshape(60, -1), labels)
    return Model(RECIPE, name, ("plain", "marked", "other")[:classes], head)


@pytest.fixture(scope="module")
def logistic():
    return model_of("logistic")


@pytest.fixture
def extractor(tmp_path):
    return Extractor(cache=tmp_path / "cache", forward=CountingBackbone(RECIPE))


def opened(content):
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format in ("PNG", "JPEG")
        return np.asarray(picture).astype(int)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_map_of_a_linear_classifier_adds_up_to_its_score_without_the_intercept(
    classes, extractor
):
    model = model_of("logistic", classes=classes)
    picture = grey((0, 0), seed=99)
    flat = rows_of([picture]).reshape(1, -1)
    linear = model.estimator[-1]
    scores = linear.decision_function(model.estimator[:-1].transform(flat)) - linear.intercept_
    scores = np.ravel(scores) if classes > 2 else np.array([-scores[0], scores[0]])
    for label, score in zip(model.classes, scores):
        found = pipeline.heat_map(model, picture, label, extractor=extractor)
        assert (found.label, found.method) == (label, "weights")
        assert (found.values.shape, found.values.dtype) == ((4, 4), np.float64)
        assert found.values.sum() == pytest.approx(score, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "method"),
    [("logistic", "weights"), ("dense", "gradient"), ("rbf-svm", "occlusion")],
)
@pytest.mark.parametrize("place", [(0, 0), (2, 1)])
def test_the_strongest_orange_lies_where_the_map_says_and_where_the_class_shows(
    name, method, place, extractor
):
    model, picture = model_of(name, place), grey(place, seed=99)
    found = pipeline.heat_map(model, picture, extractor=extractor)
    assert (found.label, found.method, found.where) == ("marked", method, WORDS[place])
    expected = find_class_maps(model, rows_of([picture]), np.array([1]))
    np.testing.assert_array_equal(found.values, expected.values[0])
    seen = opened(found.over(picture))
    assert seen.shape == picture.shape
    warmth = (seen - picture) @ [1, 0, -1]
    at = np.unravel_index(warmth.argmax(), warmth.shape)
    assert found.where == WORDS[tuple(3 * here // 96 for here in at)]
    assert warmth.max() > 80


def test_the_map_against_a_class_is_blue_where_the_map_for_it_is_orange(logistic, extractor):
    picture = grey((0, 0), seed=99)
    of, against = (
        pipeline.heat_map(logistic, picture, label, extractor=extractor)
        for label in ("marked", "plain")
    )
    np.testing.assert_allclose(of.values, -against.values)
    warmth = (opened(against.over(picture)) - picture) @ [1, 0, -1]
    assert warmth[:20, :20].mean() < -60


def test_the_class_is_by_default_what_the_model_calls_the_picture(logistic, extractor):
    for place in (None, (0, 0)):
        picture = grey(place, seed=99)
        label = logistic.predict(picture, extractor=extractor).label
        assert label == ("marked" if place else "plain")
        found = pipeline.heat_map(logistic, picture, extractor=extractor)
        assert found.label == label


def test_files_bytes_and_pixels_of_one_picture_have_one_map(logistic, extractor, tmp_path):
    picture, file = grey((0, 0), seed=99), tmp_path / "a.png"
    file.write_bytes(png(picture))
    for image in (file, str(file), file.read_bytes(), picture, picture[..., 0]):
        found = pipeline.heat_map(logistic, image, extractor=extractor)
        expected = pipeline.heat_map(logistic, file, extractor=extractor)
        np.testing.assert_array_equal(found.values, expected.values)
        assert found.over(image) == expected.over(file)


def test_of_several_views_the_map_is_of_the_picture_itself(logistic, extractor):
    views = replace(logistic, views=3, augmentation=pipeline.get_augmentation("textbook").name)
    picture = grey((0, 0), seed=99)
    one, several = (
        pipeline.heat_map(model, picture, extractor=extractor) for model in (logistic, views)
    )
    np.testing.assert_array_equal(one.values, several.values)


def test_a_picture_whose_features_are_in_the_cache_runs_no_network(logistic, tmp_path, networks):
    for number in range(4):
        for label, place in (("plain", None), ("marked", (0, 0))):
            file = tmp_path / "photos" / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(grey(place, seed=number)))
    cached = Extractor(RECIPE, cache=tmp_path / "cache")
    extract(tmp_path / "photos", extractor=cached)
    before = [network.images for network in networks]
    found = pipeline.heat_map(logistic, tmp_path / "photos" / "marked" / "0.png", extractor=cached)
    assert found.where == "top left"
    assert [network.images for network in networks] == before


def test_an_unknown_class_is_refused_with_the_names_of_all(logistic, extractor):
    with pytest.raises(PipelineError, match="no class 'market'") as refused:
        pipeline.heat_map(logistic, grey(), "market", extractor=extractor)
    assert "plain, marked" in str(refused.value)
    assert "did you mean marked?" in str(refused.value)
    assert extractor.forward.images == 0


@pytest.mark.parametrize("image", ["none.png", b"no image", b""])
def test_a_picture_that_cannot_be_read_is_an_error_that_names_it(logistic, extractor, image):
    with pytest.raises(ImageError) as refused:
        pipeline.heat_map(logistic, image, extractor=extractor)
    assert refused.value.found.startswith("none.png: ") == (image == "none.png")


class Brightest(CountingBackbone):
    """Stands for the maxima of every layer: how bright the brightest part of a picture is."""

    def _rows(self, pixels, *shape):
        parts = super()._rows(pixels, 8, 8, 1)
        rows = np.zeros((len(pixels), *shape), np.float32)
        rows[..., 0] = parts.max(axis=(1, 2))[..., None] / 255
        rows[..., 1] = 1 - rows[..., 0]
        return rows


def layers_model(size=128, **more):
    """A model that learned from the maxima of every layer, and the network that gives them."""
    recipe = layers_recipe(make_recipe(size=size, precision="float32"))
    forward = Brightest(recipe)
    pictures = [grey((0, 0) if at % 2 else None, at, (size, size)) for at in range(40)]
    rows = forward(np.stack(pictures))
    head = get_head("rbf-svm").build(0).fit(rows.reshape(40, -1), np.arange(40) % 2)
    return Model(recipe, "rbf-svm", ("plain", "marked"), head, **more), forward


@pytest.mark.parametrize("place", [(0, 0), (2, 1)])
def test_features_without_places_have_the_map_of_what_each_part_adds(place, tmp_path):
    model, forward = layers_model()
    extractor = Extractor(cache=tmp_path, forward=forward)
    before = forward.images
    found = pipeline.heat_map(model, grey(place, 99, (128, 128)), extractor=extractor)
    assert forward.images == before + 1 + 128
    assert (found.label, found.method, found.where) == ("marked", "lime", WORDS[place])
    assert (found.values.shape, found.values.dtype) == ((5, 5), np.float64)
    others = np.sort(found.values.ravel())[:-4]  # the patch lies in four parts at most
    assert np.abs(others).max() < found.values.max() / 3
    again = pipeline.heat_map(model, grey(place, 99, (128, 128)), extractor=extractor)
    np.testing.assert_array_equal(found.values, again.values)


def test_a_part_adds_what_the_log_odds_say_where_they_are_a_sum_over_parts():
    """Against a classifier whose answer is known: the brightness of each part has a weight."""
    weights = np.random.default_rng(1).normal(size=(5, 5))

    def classify(pictures):
        assert pictures.dtype == np.uint8
        parts = pictures.mean(axis=-1).reshape(-1, 5, 30, 5, 30).mean(axis=(2, 4)) / 255
        return 1 / (1 + np.exp(-(parts * weights).sum(axis=(1, 2))))

    bright = np.random.default_rng(2).integers(0, 256, (5, 5), np.uint8)
    picture = np.stack([bright.repeat(30, 0).repeat(30, 1)] * 3, axis=-1)
    found = lime(picture, classify)
    expected = weights * (bright - bright.mean()) / 255
    correlation = np.corrcoef(found.ravel(), expected.ravel())[0, 1]
    assert correlation > 0.9  # parts fade into each other


def test_hidden_parts_lie_evenly_over_the_whole_picture(tmp_path):
    model, forward = layers_model(size=150)
    found = pipeline.heat_map(model, grey(), extractor=Extractor(cache=tmp_path, forward=forward))
    for middles in found.middles:
        np.testing.assert_allclose(middles, (np.arange(5) + 0.5) / 5)


def test_of_several_views_parts_of_the_picture_itself_are_hidden(tmp_path):
    model, forward = layers_model()
    views = replace(model, views=3, augmentation=pipeline.get_augmentation("textbook").name)
    extractor = Extractor(cache=tmp_path, forward=forward)
    one, several = (
        pipeline.heat_map(each, grey((0, 0)), "marked", extractor=extractor)
        for each in (model, views)
    )
    np.testing.assert_array_equal(one.values, several.values)


def test_features_of_one_cell_have_such_a_map_too(logistic, extractor):
    one_cell = make_recipe(size=32, precision="float32")
    forward = CountingBackbone(one_cell)
    rows = forward(np.stack([grey(None, at, (32, 32)) for at in range(20)])).reshape(20, -1)
    head = get_head("logistic").build(0).fit(rows, np.arange(20) % 2)
    model = Model(one_cell, "logistic", ("plain", "marked"), head)
    found = pipeline.heat_map(model, grey(), extractor=replace(extractor, forward=forward))
    assert found.method == "lime"


def test_an_exported_file_has_the_map_of_its_run_or_else_that_of_hidden_parts(logistic, extractor):
    """What it computes stands for the network: probabilities of pixels."""
    picture = grey((0, 0), seed=99)

    class Exported:
        def probabilities(self, pixels):
            rows = extractor.forward(pixels)
            return logistic.probabilities(rows).astype(np.float32)

    alone = replace(logistic, estimator=None, portable=Exported())
    bare = replace(extractor, forward=None)
    found = pipeline.heat_map(alone, picture, extractor=bare)
    assert (found.label, found.method, found.where) == ("marked", "lime", "top left")
    kept = replace(alone, original=lambda: logistic)
    found, expected = (
        pipeline.heat_map(model, picture, extractor=extractor) for model in (kept, logistic)
    )
    np.testing.assert_array_equal(found.values, expected.values)


# --- drawing ------------------------------------------------------------------------------


def map_of(values, size=128, **more):
    values = np.array(values, float)
    middles = middles_of_cells("vgg16", size, values)
    return pipeline.HeatMap("marked", values, "weights", middles, **more)


def test_a_map_is_orange_for_and_blue_against_and_strongest_where_it_is_largest():
    pixels = opened(map_of([[2, 0], [0, -1]], 64).overlay())
    side = len(pixels)
    red, _, blue, opaque = pixels[side // 8, side // 8]
    assert red > blue
    assert opaque == pixels[..., 3].max()
    red, _, blue, other = pixels[-side // 8, -side // 8]
    assert blue > red
    assert other == pytest.approx(opaque / 2, abs=2)


def test_a_map_lies_where_the_networks_cells_are_not_stretched_over_the_picture():
    # Of 150 pixels, block5_pool's four cells take in 0 to 127: the third's middle is at 80.
    found = map_of([[0, 0, 1, 0]] * 4, 150)
    opaque = opened(found.overlay())[0, :, 3]
    assert opaque.argmax() / len(opaque) == pytest.approx(80 / 150, abs=0.02)
    white = np.full((100, 300, 3), 255, np.uint8)
    blue = opened(found.over(white))[50, :, 2]
    assert blue.argmin() / len(blue) == pytest.approx(80 / 150, abs=0.02)


def test_a_map_over_a_picture_is_what_a_page_shows_that_lays_it_over():
    values = np.random.default_rng(0).normal(size=(4, 4))
    white = np.full((400, 400, 3), 255, np.uint8)
    found = map_of(values)
    layer = Image.open(io.BytesIO(found.overlay())).resize((400, 400), Image.Resampling.BILINEAR)
    page = Image.alpha_composite(Image.new("RGBA", (400, 400), "white"), layer.convert("RGBA"))
    difference = np.abs(opened(found.over(white)) - np.asarray(page)[..., :3].astype(int))
    assert difference.mean() < 3


def test_a_map_of_zeros_is_no_picture_and_changes_none():
    found, picture = map_of(np.zeros((4, 4))), grey((1, 1))
    assert (found.overlay(), found.where) == (b"", "")
    assert found.over(picture) == thumbnail(png(picture), 640)


def test_where_nothing_speaks_for_the_class_no_place_does():
    found = map_of([[-2, -1], [-3, -4]], 64)
    assert found.where == ""
    red, _, blue, _ = opened(found.overlay())[-4, -4]
    assert blue > red


@pytest.mark.parametrize(
    ("place", "words"), [((0, 0), "top left"), ((1, 2), "middle centre"), ((3, 3), "bottom right")]
)
def test_where_a_map_is_strongest_is_said_in_words(place, words):
    values = np.zeros((4, 4))
    values[place] = 1
    assert map_of(values).where == words


@pytest.mark.parametrize(
    ("size", "expected"), [((1200, 600), (640, 320)), ((30, 90), (30, 90)), ((4000, 3), (640, 1))]
)
def test_a_picture_with_its_map_is_small_upright_and_of_its_own_shape(size, expected):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", size[::-1]).save(file, "JPEG", exif=exif)
    height, width, _ = opened(map_of(np.ones((4, 4))).over(file.getvalue())).shape
    assert (width, height) == expected
    height, width, _ = opened(map_of(np.ones((4, 4))).over(file.getvalue(), side=10)).shape
    assert max(width, height) == 10


def test_the_page_of_a_tiff_that_the_model_takes_is_the_one_that_is_drawn_over():
    file, pages = io.BytesIO(), [Image.new("RGB", (40, 40), colour) for colour in ("red", "white")]
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    found = map_of(np.zeros((4, 4)), decoding=Decoding(None, 2).name)
    assert opened(found.over(file.getvalue())).min() > 250
