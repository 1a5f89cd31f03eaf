import os
import pickle
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import CountingBackbone, paint
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.validation import check_is_fitted

from pipeline.backbones.registry import make_recipe
from pipeline.backbones.vgg16 import VGG16
from pipeline.data.images import decode
from pipeline.data.loading import list_files
from pipeline.errors import DataError, ImageError, PipelineError
from pipeline.features.extractor import Extractor
from pipeline.features.transformer import FeatureExtractor
from pipeline.heads.dense import DenseHead
from pipeline.heads.gram import NearestNeighbours


@pytest.fixture
def extractor(tmp_path):
    return FeatureExtractor(size=64, precision="float32", cache=str(tmp_path / "cache"))


@pytest.fixture
def paths(photos):
    return sorted(photos.glob("*/*.png"))


def colours(paths):
    return [path.parent.name for path in paths]


@pytest.mark.parametrize(
    "given",
    [
        lambda paths: [str(path) for path in paths],
        lambda paths: [os.fsencode(path) for path in paths],
        lambda paths: np.array([str(path) for path in paths]),
        lambda paths: np.array([[str(path)] for path in paths], object),
        lambda paths: (path for path in paths),
        tuple,
    ],
    ids=["texts", "bytes", "array", "column", "generator", "tuple"],
)
def test_paths_may_come_in_any_form(extractor, paths, networks, given):
    rows = extractor.transform(paths[:3])
    assert np.array_equal(extractor.transform(given(paths[:3])), rows)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda path: [path, None], "X has None at 1"),
        (lambda path: [path, float("nan")], "X has nan at 1"),
        (lambda path: [1, 2], "X has 1 at 0"),
        (lambda path: np.array([[path, "x"]], object), r"X has the shape \(1, 2\)"),
        (lambda path: np.zeros((3, 8, 8, 3), np.uint8), r"X has the shape \(3, 8, 8, 3\)"),
    ],
)
def test_what_is_no_path_is_one_clear_error(extractor, paths, wrong, message):
    with pytest.raises(DataError, match=message):
        extractor.transform(wrong(str(paths[0])))


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan")])
@pytest.mark.parametrize("head", [None, NearestNeighbours(3), DenseHead()])
def test_labels_that_are_missing_are_one_clear_error(extractor, paths, missing, head):
    labels = [*colours(paths)[:-1], missing]
    rows = np.zeros((len(paths), 4), np.float32)
    with pytest.raises(DataError, match="label 39 is missing"):
        head.fit(rows, labels) if head else extractor.fit(paths, labels)


def test_columns_have_names_and_the_output_can_be_chosen(extractor, paths, networks):
    names = extractor.get_feature_names_out()
    assert (len(names), names[0]) == (2 * 2 * 512, "featureextractor0")
    extractor.set_output(transform="default")
    assert isinstance(extractor.transform(paths[:2]), np.ndarray)
    pandas = pytest.importorskip("pandas")
    extractor.set_output(transform="pandas")
    assert isinstance(extractor.transform(paths[:2]), pandas.DataFrame)


def test_each_image_becomes_the_flattened_row_that_stage_one_makes(
    extractor, paths, networks, recipe
):
    rows = extractor.fit_transform(paths[:5])
    assert rows.shape == (5, 2 * 2 * 512)
    assert rows.dtype == np.float32
    forward = CountingBackbone(recipe)
    pictures = np.stack([decode(path.read_bytes(), recipe.size) for path in paths[:5]])
    assert np.array_equal(rows, forward(pictures).reshape(5, -1))


def test_the_network_sees_each_image_once_whatever_is_done_afterwards(extractor, paths, networks):
    first = extractor.transform(paths)
    assert [network.images for network in networks] == [len(paths)]
    again = clone(extractor).transform(paths[::-1])
    assert np.array_equal(again, first[::-1])
    assert len(networks) == 1


def test_int8_rounds_new_images_as_those_that_are_stored(extractor, paths, networks):
    calibration = " ".join(f"{peak}.5" for peak in range(1, 13))
    recipe = make_recipe(size=64, precision="int8", calibration=calibration)
    one = Extractor(recipe, cache=extractor.cache)
    one.make(one.plan(list_files(paths[:4])))
    extractor.set_params(precision="int8").transform(paths[2:6])
    assert [network.recipe for network in networks] == [recipe, recipe]
    assert [network.images for network in networks] == [4, 2]


def test_no_image_is_read_for_what_nobody_is_told(extractor, paths, networks, monkeypatch):
    read = Mock()
    monkeypatch.setattr("pipeline.features.plan.remarks_on_decoding", read)
    assert len(extractor.transform(paths[:3])) == 3
    read.assert_not_called()


def test_only_images_that_are_new_are_shown_to_the_network(extractor, paths, networks):
    extractor.transform(paths[:10])
    extractor.transform(paths[5:14])
    assert [network.images for network in networks] == [10, 4]


def test_cross_validation_of_a_pipeline_shows_every_image_once(extractor, paths, networks):
    classifier = make_pipeline(extractor, Normalizer(), LogisticRegression())
    scores = cross_val_score(classifier, paths, colours(paths), cv=4, error_score="raise")
    assert scores.tolist() == [1.0] * 4
    assert sum(network.images for network in networks) == len(paths)


def test_a_grid_search_can_choose_among_recipes(extractor, paths, networks):
    search = GridSearchCV(
        make_pipeline(extractor, Normalizer(), LogisticRegression()),
        {"featureextractor__scaling": ["caffe", "unit"]},
        cv=2,
        error_score="raise",
    ).fit(paths, colours(paths))
    assert search.best_score_ == 1.0
    assert len(list(Path(extractor.cache).glob("*-block5_pool-*"))) == 2  # one for each recipe


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        lambda paths: [str(path) for path in paths],
        lambda paths: np.array([str(path) for path in paths]),
        lambda paths: np.array(paths, dtype=object),
        lambda paths: np.array([[str(path)] for path in paths]),
    ],
    ids=["list", "tuple", "strings", "array", "object array", "column"],
)
def test_paths_may_come_in_any_usual_form(extractor, paths, networks, form):
    expected = extractor.transform(paths[:6])
    assert np.array_equal(extractor.transform(form(paths[:6])), expected)


def test_no_images_give_no_rows(extractor, networks):
    assert extractor.transform([]).shape == (0, 2048)
    assert networks == []


def test_the_same_image_twice_gives_the_same_row_twice(extractor, paths, networks):
    rows = extractor.transform([paths[0], paths[1], paths[0]])
    assert np.array_equal(rows[0], rows[2])
    assert not np.array_equal(rows[0], rows[1])
    assert networks[0].images == 2


@pytest.mark.parametrize("content", [None, b"", b"no image"], ids=["missing", "empty", "text"])
def test_an_unreadable_image_is_an_error_that_names_it(
    extractor, paths, networks, tmp_path, content
):
    bad = tmp_path / "bad picture.png"
    if content is not None:
        bad.write_bytes(content)
    with pytest.raises(ImageError, match=r"(?s)1 of 4 images.*bad picture\.png.*leave them out"):
        extractor.transform([*paths[:2], bad, paths[2]])


def test_an_unknown_setting_is_an_error_when_it_is_used_not_before(paths):
    extractor = FeatureExtractor(layer="block9_pool")
    with pytest.raises(PipelineError, match="block9_pool"):
        extractor.transform(paths)


def test_its_settings_are_those_of_a_recipe_and_its_defaults_too():
    settings = FeatureExtractor().get_params()
    assert settings.pop("cache") == str(Extractor().cache)
    assert settings.pop("weights") is None
    assert make_recipe(**settings) == make_recipe()


def test_cloning_keeps_every_setting(tmp_path):
    settings = {
        "backbone": "vgg16",
        "layer": "block4_pool",
        "size": 96,
        "scaling": "unit",
        "precision": "bfloat16",
        "resize": "nearest",
        "white": 4095,
        "page": 2,
        "cache": "elsewhere",
        "weights": "vgg16.onnx",
    }
    copy = clone(FeatureExtractor(**settings))
    assert copy.get_params() == settings
    assert copy.set_params(size=64).size == 64
    assert pickle.loads(pickle.dumps(copy)).get_params() == {**settings, "size": 64}


def test_every_setting_reaches_the_recipe_or_the_network(tmp_path, paths, networks):
    settings = {
        "layer": "block4_pool",
        "size": 64,
        "scaling": "unit",
        "precision": "bfloat16",
        "resize": "nearest",
    }
    weights = tmp_path / "w.onnx"
    weights.symlink_to(VGG16.published.packaged())
    extractor = FeatureExtractor(**settings, cache=str(tmp_path / "cache"), weights=str(weights))
    rows = extractor.transform(paths[:1])
    recipe = make_recipe(**settings)
    assert rows.shape == (1, 4 * 4 * 512)
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [recipe.name]
    assert networks[0].weights == weights


def test_it_needs_no_fitting(extractor):
    check_is_fitted(extractor)
    assert extractor.fit(["never opened.png"]) is extractor


def test_a_changed_image_gets_a_new_row(extractor, networks, tmp_path):
    picture = paint(tmp_path / "a.png", (200, 50, 50), seed=1)
    before = extractor.transform([picture])
    paint(picture, (50, 50, 200), seed=2)
    assert not np.array_equal(extractor.transform([picture]), before)
    assert sum(network.images for network in networks) == 2
