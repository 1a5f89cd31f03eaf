"""What version 0.1.0 (commit e4e668e) stored is read, reused and answers as it did then."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import no_network

from pipeline import Extractor, Views, extract, get_augmentation, load_dataset, make_recipe
from pipeline.features.exchange import import_features
from pipeline.features.pruning import losses
from pipeline.features.status import status
from pipeline.features.store import open_stores
from pipeline.models.graphs import HeadGraph
from pipeline.models.model import Model
from pipeline.report.page import write_comparison, write_report
from pipeline.runs.reading import read_run
from pipeline.system import tensorflow

STORED = Path(__file__).parent / "stored" / "version-0.1.0"
EXPECTED = json.loads((STORED / "expected.json").read_text())
RUNS = ("all", "cv", "threshold")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A copy, in which the runs' relative paths lead to the photos."""
    folder = shutil.copytree(STORED, tmp_path / "home")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def extractor():
    return Extractor(make_recipe(size=32, precision="float32"), forward=no_network)


def digest_of_rows(store):
    keys = sorted(store)
    return hashlib.sha256(store.read(keys).tobytes()).hexdigest()


def test_every_row_is_reused_and_no_network_is_run(home, extractor):
    views = Views(count=2, augmentation=get_augmentation("mild"))
    extraction = extract("photos", views=views, extractor=extractor)
    assert extraction.made == 0
    assert len(extraction.dataset) == 42
    assert {store.recipe.name for store in extraction.plan.stores.values()} == set(
        EXPECTED["stores"]
    )
    assert status("photos", extractor).reused == 42


def test_stores_are_listed_and_verified_with_the_rows_that_they_had(home):
    stores = list(open_stores(Path("cache")))
    assert {store.recipe.name for store in stores} == set(EXPECTED["stores"])
    for store in stores:
        store.verify()
        assert store.damaged == []
        expected = EXPECTED["stores"][store.recipe.name]
        assert store.recipe.fingerprint == expected["fingerprint"]
        assert len(store) == expected["rows"]
        assert digest_of_rows(store) == expected["sha256"]


def test_pruning_by_the_same_photos_drops_no_row(home):
    before = {store.recipe.name: len(store) for store in open_stores(Path("cache"))}
    for loss in losses(["photos"]):
        loss.accept()
    after = {store.recipe.name: len(store) for store in open_stores(Path("cache"))}
    assert after == before


@pytest.mark.parametrize("name", EXPECTED["models"])
def test_a_model_predicts_what_it_predicted(home, extractor, name):
    expected = EXPECTED["models"][name]
    model = Model.load(Path("runs") / name)
    assert list(model.classes) == expected["classes"]
    assert model.recipe.fingerprint == expected["fingerprint"]
    photos = list(expected["labels"])
    predictions = list(model.predict(photos, extractor=extractor))
    assert [prediction.label for prediction in predictions] == list(expected["labels"].values())
    for prediction, photo in zip(predictions, photos, strict=True):
        probabilities = list(prediction.probabilities.values())
        assert probabilities == pytest.approx(expected["probabilities"][photo], abs=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_a_runs_page_is_written_again(home, name):
    page = write_report(Path("runs") / name).read_text()
    assert "the run keeps none" in page  # of the photos: who wrote the run may be a stranger
    page = write_report(Path("runs") / name, dataset=load_dataset("photos")).read_text()
    run = read_run(Path("runs") / name)
    with Path("runs", name, "predictions.csv").open(newline="") as file:
        heads = {row["head"] for row in csv.DictReader(file)}
    assert {head.name for head in run.heads} == heads
    assert all(head in page for head in heads)
    assert "data:image/jpeg;base64," in page  # the photos are found


def test_runs_are_put_side_by_side(home):
    page = write_comparison([Path("runs") / name for name in RUNS[:2]], Path("compare.html"))
    assert "rbf-svm" in page.read_text()


def test_an_exported_file_is_read(home):
    dataset, recipe, rows = import_features(Path("features.h5"))
    assert recipe == make_recipe(size=32, precision="float32")
    assert rows.shape == (42, 1, 1, 512)
    assert np.isfinite(rows).all()
    assert dataset.digest == load_dataset("photos").digest


def test_graphs_of_its_heads_give_their_probabilities():
    _, keras = tensorflow.load()
    rows = np.random.default_rng(0).exponential(size=(20, 512)).astype(np.float32)
    folders = sorted(STORED.glob("runs/*/models/*"))
    assert len(folders) == 11
    for folder in folders:
        model = Model.load(folder)
        inputs = keras.Input((512,))
        graph = keras.Model(inputs, HeadGraph().probabilities(model.estimator, inputs))
        expected = model.probabilities(rows.reshape(20, *model.recipe.shape))
        assert np.abs(np.asarray(graph(rows)) - expected).max() < 1e-6, folder
