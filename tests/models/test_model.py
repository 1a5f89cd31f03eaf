# ruff: noqa: N803 -- X is what scikit-learn calls a matrix of rows
import csv
import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skops.io
from conftest import Hears, no_network, paint
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from pipeline.backbones.registry import make_recipe
from pipeline.classification.experiment import classify
from pipeline.data.augmentation import PRESETS
from pipeline.data.images import decode
from pipeline.data.views import apply, draw
from pipeline.errors import ModelError
from pipeline.evaluation.protocol import Protocol
from pipeline.features import computing
from pipeline.features.extractor import extract
from pipeline.features.store import FeatureStore
from pipeline.features.views import Views
from pipeline.heads.registry import HEADS, TRUSTED_TYPES, get_head
from pipeline.models.files import find_model
from pipeline.models.model import Model

SKLEARN = [name for name in HEADS if name != "dense"]
RECIPE = make_recipe(size=64, precision="float32")
QUICK = {"dense": {"epochs": 2, "units": 8}}


def some_rows(count, classes, seed=0):
    """Make rows as cached, mostly zeros, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    rows = rng.exponential(size=(count, *RECIPE.shape)) * (rng.random((count, *RECIPE.shape)) < 0.1)
    rows[np.arange(count), 0, 0, labels] += 5
    return rows.astype(np.float32), labels


def fitted(name, classes=2):
    rows, labels = some_rows(40, classes)
    estimator = HEADS[name].build(0, **QUICK.get(name, {})).fit(rows.reshape(40, -1), labels)
    return Model(RECIPE, name, tuple(f"class {c}" for c in range(classes)), estimator)


def saved(folder, name="logistic"):
    fitted(name).save(folder)
    return folder


def change_manifest(folder, change, sign=True):
    """Change a manifest; signed, as somebody who means it would."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    if sign:
        del manifest["digest"]
        canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
        manifest["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", HEADS)
def test_a_loaded_model_gives_the_very_probabilities_of_the_saved_one(tmp_path, name, classes):
    model = fitted(name, classes)
    model.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model")
    unseen, _ = some_rows(30, classes, seed=1)
    probabilities = loaded.probabilities(unseen)
    assert np.array_equal(probabilities, model.probabilities(unseen))
    assert probabilities.shape == (30, classes)
    assert probabilities.std() > 0
    assert (loaded.recipe, loaded.head, loaded.classes) == (RECIPE, name, model.classes)
    expected = model.estimator.predict(unseen.reshape(30, -1))
    assert np.array_equal(loaded.estimator.predict(unseen.reshape(30, -1)), expected)


def test_a_model_that_was_loaded_can_be_saved_again(tmp_path):
    model = fitted("dense")
    model.save(tmp_path / "one")
    Model.load(tmp_path / "one").save(tmp_path / "two")
    unseen, _ = some_rows(5, 2, seed=1)
    assert np.array_equal(
        Model.load(tmp_path / "two").probabilities(unseen), model.probabilities(unseen)
    )


@pytest.mark.parametrize("layer", ["layers", "layers-fine"])
def test_a_model_on_every_layer_in_float32_is_loaded_however_its_rows_were_rounded(tmp_path, layer):
    recipe = replace(make_recipe(layer="layers", precision="float32"), layer=layer)
    model = replace(fitted("logistic"), recipe=recipe)
    _, labels = some_rows(40, 2)
    short = np.random.default_rng(0).normal(size=(40, *recipe.shape)).astype(np.float32)
    estimator = get_head("logistic").build(0).fit(short.reshape(40, -1), labels)
    replace(model, estimator=estimator).save(tmp_path / "model")
    assert Model.load(tmp_path / "model").recipe == recipe


def test_saving_never_overwrites(tmp_path):
    folder = saved(tmp_path / "model")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(FileExistsError):
        fitted("knn").save(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["logistic", "dense"])
def test_a_model_works_wherever_its_folder_is_moved(tmp_path, name, monkeypatch):
    folder = saved(tmp_path / "model", name)
    unseen, _ = some_rows(5, 2, seed=1)
    expected = Model.load(folder).probabilities(unseen)
    shutil.move(folder, tmp_path / "at another place")
    monkeypatch.chdir(tmp_path / "at another place")
    assert np.array_equal(Model.load(Path()).probabilities(unseen), expected)


@pytest.mark.parametrize("name", HEADS)
def test_no_pickle_is_in_a_models_folder(tmp_path, name):
    folder = saved(tmp_path / "model", name)
    kinds = {file.name: file.read_bytes()[:4] for file in folder.iterdir()}
    if name == "dense":
        assert kinds == {"manifest.json": b"{\n  ", "head.weights.h5": b"\x89HDF"}
    else:
        assert kinds == {"manifest.json": b"{\n  ", "head.skops": b"PK\x03\x04"}
        types = skops.io.get_untrusted_types(file=folder / "head.skops")
        assert set(types) <= set(TRUSTED_TYPES)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: saved(folder / name, name) for name in ("logistic", "dense")}


@pytest.mark.parametrize(
    "where", [("logistic", "head.skops"), ("dense", "head.weights.h5")], ids=lambda pair: pair[0]
)
def test_a_changed_byte_in_a_heads_file_is_found(intact, tmp_path, where):
    name, file = where
    folder = shutil.copytree(intact[name], tmp_path / "model")
    content = (folder / file).read_bytes()
    for place in np.linspace(0, len(content) - 1, 9).astype(int):
        changed = bytearray(content)
        changed[place] ^= 1
        (folder / file).write_bytes(changed)
        with pytest.raises(ModelError, match=r"damaged.*was changed since"):
            Model.load(folder)
    (folder / file).write_bytes(content[:-1])
    with pytest.raises(ModelError, match=r"damaged.*was changed since"):
        Model.load(folder)


def test_a_changed_byte_anywhere_in_a_manifest_is_found(intact, tmp_path):
    folder = shutil.copytree(intact["logistic"], tmp_path / "model")
    content = (folder / "manifest.json").read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        (folder / "manifest.json").write_bytes(changed)
        with pytest.raises(ModelError):
            Model.load(folder)


@pytest.mark.parametrize("file", ["head.skops", "manifest.json"])
def test_a_missing_file_is_an_error_that_names_it(intact, tmp_path, file):
    folder = shutil.copytree(intact["logistic"], tmp_path / "model")
    (folder / file).unlink()
    with pytest.raises(ModelError, match=f"{re.escape(file)} cannot be read"):
        Model.load(folder)


def test_a_folder_that_is_not_there_is_an_error_that_says_what_a_model_is(tmp_path):
    with pytest.raises(ModelError, match=r"(?s)no model in.*nowhere.*pipeline classify"):
        Model.load(tmp_path / "nowhere")


def test_a_model_of_a_newer_schema_is_refused_with_advice(intact, tmp_path):
    folder = shutil.copytree(intact["logistic"], tmp_path / "model")
    change_manifest(folder, lambda manifest: manifest.update(schema=2))
    with pytest.raises(ModelError, match=r"(?s)schema version 2.*version 1 or older.*update"):
        Model.load(folder)


def test_a_manifest_that_was_edited_is_refused(intact, tmp_path):
    folder = shutil.copytree(intact["logistic"], tmp_path / "model")
    change_manifest(folder, lambda manifest: manifest["classes"].reverse(), sign=False)
    with pytest.raises(ModelError, match=r"manifest\.json was changed"):
        Model.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("recipe"),
        lambda manifest: manifest["recipe"].pop("size"),
        lambda manifest: manifest["recipe"].update(shape=[1]),
        lambda manifest: manifest["recipe"].update(size="64"),
        lambda manifest: manifest.update(files=["head.skops"]),
        lambda manifest: manifest.update(classes=3),
        lambda manifest: manifest.update(parameters=3),
        lambda manifest: manifest.update(views="many"),
        lambda manifest: manifest.update(views=None),
        lambda manifest: manifest.update(schema="one"),
        lambda manifest: manifest.update(schema=None),
    ],
)
def test_a_manifest_without_sense_is_a_damaged_model(intact, tmp_path, change):
    folder = shutil.copytree(intact["logistic"], tmp_path / "model")
    change_manifest(folder, change)
    with pytest.raises(ModelError, match=r"damaged: manifest\.json is not a manifest"):
        Model.load(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"1", b"{", b"\xff\xfe", b"null"])
def test_a_manifest_that_is_no_object_is_a_damaged_model(intact, tmp_path, content):
    folder = shutil.copytree(intact["logistic"], tmp_path / "model")
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        Model.load(folder)


@pytest.mark.parametrize("way", ["relative", "absolute"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(intact, tmp_path, way):
    folder = shutil.copytree(intact["logistic"], tmp_path / "model")
    outside = shutil.move(folder / "head.skops", tmp_path / "head.skops")
    name = "../head.skops" if way == "relative" else str(outside)
    change_manifest(
        folder,
        lambda manifest: manifest.update(files={name: manifest["files"].pop("head.skops")}),
    )
    with pytest.raises(ModelError, match=r"names .*head\.skops, which is not what a head consists"):
        Model.load(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda files: files.clear(), "no file"),
        (lambda files: files.update({"head.weights.h5": "0" * 64}), "head.skops and head.weights"),
        (lambda files: files.update({"model.keras": "0" * 64}), "head.skops and model.keras"),
    ],
)
def test_a_manifest_that_names_other_files_than_a_head_has_is_refused(
    intact, tmp_path, change, named
):
    folder = shutil.copytree(intact["logistic"], tmp_path / "model")
    change_manifest(folder, lambda manifest: change(manifest["files"]))
    with pytest.raises(ModelError, match=rf"names {named}.*, which is not what a head consists of"):
        Model.load(folder)


def put_head(folder, estimator):
    """Put another head into a model's folder, with digests that fit."""
    skops.io.dump(estimator, folder / "head.skops")
    digest = hashlib.sha256((folder / "head.skops").read_bytes()).hexdigest()
    change_manifest(folder, lambda manifest: manifest["files"].update({"head.skops": digest}))


class Foreign(ClassifierMixin, BaseEstimator):
    """An estimator whose code came from somewhere."""

    woken = 0

    def __setstate__(self, state):
        Foreign.woken += 1


@pytest.mark.parametrize(
    "build",
    [
        Foreign,
        lambda: make_pipeline(FunctionTransformer(), Foreign()),
        lambda: FunctionTransformer(os.system),
        lambda: FunctionTransformer(kw_args={"held": Foreign()}),
    ],
    ids=["estimator", "step", "function", "held object"],
)
def test_a_head_with_a_type_that_is_not_on_the_list_is_refused_and_not_run(intact, tmp_path, build):
    folder = shutil.copytree(intact["logistic"], tmp_path / "model")
    put_head(folder, build())
    with pytest.raises(ModelError, match=r"(?s)cannot be loaded.*[Uu]ntrusted.*its own types only"):
        Model.load(folder)
    assert Foreign.woken == 0


class Majority(ClassifierMixin, BaseEstimator):
    """A classifier from elsewhere, as ``module:factory`` gives one."""

    def fit(self, X, y):
        self.classes_, counts = np.unique(y, return_counts=True)
        self.shares_ = counts / counts.sum()
        return self

    def predict_proba(self, X):
        return np.tile(self.shares_, (len(X), 1))


def test_a_head_from_elsewhere_is_loaded_once_its_type_is_trusted(tmp_path):
    rows, labels = some_rows(40, 2)
    head = get_head(f"{Majority.__module__}:Majority")
    estimator = head.build(0).fit(rows.reshape(40, -1), labels)
    model = Model(RECIPE, head.name, ("a", "b"), estimator)
    model.save(tmp_path / "model")
    told = rf"(?s)--trust {__name__}\.Majority to.*Model.load\(folder, trusted"
    with pytest.raises(ModelError, match=told):
        Model.load(tmp_path / "model")
    again = Model.load(tmp_path / "model", trusted=[f"{Majority.__module__}.Majority"])
    np.testing.assert_array_equal(again.probabilities(rows), model.probabilities(rows))


@pytest.mark.parametrize("name", ["ridge", "dense"])
def test_a_head_on_pooled_rows_comes_back_with_its_pooling(tmp_path, name):
    rows, labels = some_rows(40, 2)
    head = HEADS[name].with_pools(["max"], RECIPE.shape)
    estimator = head.build(0, pool="max", **QUICK.get(name, {}))
    model = Model(RECIPE, name, ("a", "b"), estimator.fit(rows.reshape(40, -1), labels))
    model.save(tmp_path / "model")
    again = Model.load(tmp_path / "model").probabilities(rows)
    np.testing.assert_array_equal(again, model.probabilities(rows))
    changed = rows.copy()
    changed[:, 0, 0] = changed[:, -1, -1] = np.maximum(rows[:, 0, 0], rows[:, -1, -1])
    np.testing.assert_allclose(Model.load(tmp_path / "model").probabilities(changed), again)


def test_a_head_file_that_is_no_skops_file_is_refused(intact, tmp_path):
    folder = shutil.copytree(intact["logistic"], tmp_path / "model")
    (folder / "head.skops").write_bytes(b"\x80\x04K\x01.")  # a pickle
    digest = hashlib.sha256(b"\x80\x04K\x01.").hexdigest()
    change_manifest(folder, lambda manifest: manifest["files"].update({"head.skops": digest}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        Model.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["classes"].append("a third"),
        lambda manifest: manifest["parameters"].update(units=9),
        lambda manifest: manifest["parameters"].update(colour="red"),
    ],
)
def test_weights_that_do_not_fit_the_manifest_are_refused(intact, tmp_path, change):
    folder = shutil.copytree(intact["dense"], tmp_path / "model")
    change_manifest(folder, change)
    with pytest.raises(ModelError, match="cannot be loaded"):
        Model.load(folder)


@pytest.mark.parametrize(
    "other",
    [
        {"decoding": "0"},
        {"engine": "other"},
        {"layer": "block6_pool"},
        {"augmentation": "flip"},
        {"size": 96},
        {"calibration": "1 2 3"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_model_for_features_that_would_be_made_differently_now_is_refused(
    intact, tmp_path, other
):
    folder = shutil.copytree(intact["logistic"], tmp_path / "model")
    change_manifest(folder, lambda manifest: manifest["recipe"].update(other))
    with pytest.raises(ModelError, match="features that this installation cannot make"):
        Model.load(folder)


def test_a_model_keeps_the_calibration_that_its_features_were_made_with(tmp_path):
    calibration = " ".join(f"{peak}.5" for peak in range(1, 13))
    recipe = make_recipe(size=64, precision="int8", calibration=calibration)
    replace(fitted("logistic"), recipe=recipe).save(tmp_path / "model")
    assert Model.load(tmp_path / "model").recipe == recipe


# --- views --------------------------------------------------------------------------------


def with_views(count, text="textbook"):
    return replace(fitted("logistic"), views=count, augmentation=PRESETS[text].name)


def test_a_model_of_before_there_were_views_can_be_loaded(intact, tmp_path, photos, extractor):
    folder = shutil.copytree(intact["logistic"], tmp_path / "model")

    def as_it_was(manifest):
        assert (manifest.pop("views"), manifest.pop("augmentation")) == (1, "none")

    change_manifest(folder, as_it_was)
    old, new = Model.load(folder), Model.load(intact["logistic"])
    assert (old.views, old.augmentation) == (1, "none")
    files = sorted(photos.glob("*/*.png"))[:3]
    assert list(old.predict(files, extractor=extractor)) == list(
        new.predict(files, extractor=extractor)
    )


def test_a_model_says_the_mean_over_its_views_before_and_after_it_was_saved(
    photos, backbone, extractor, tmp_path
):
    model = with_views(4)
    files = sorted(photos.glob("*/*.png"))[::9]
    told = []
    heard = Hears(rows_made=lambda *how: told.append(how))
    found = list(model.predict(files, extractor=extractor, listener=heard))
    assert backbone.images == 4 * len(files)
    assert (told[0], told[-1]) == ((0, len(files)), (len(files), len(files)))
    for item in found:
        content = item.path.read_bytes()
        digest = hashlib.sha256(content).digest()
        picture = decode(content, 64)
        drawn = [draw(PRESETS["textbook"], digest, view) for view in (1, 2, 3)]
        pictures = np.stack([picture, *(apply(picture, view) for view in drawn)])
        by_view = model.probabilities(backbone(pictures))
        assert by_view.std(axis=0).max() > 0
        assert list(item.probabilities.values()) == pytest.approx(by_view.mean(axis=0).tolist())
        assert item.label == max(item.probabilities, key=item.probabilities.get)
    model.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model")
    assert (loaded.views, loaded.augmentation) == (4, PRESETS["textbook"].name)
    assert list(loaded.predict(files, extractor=extractor)) == found


def test_an_unreadable_image_takes_no_view_of_another(photos, extractor, tmp_path):
    (tmp_path / "empty.png").touch()
    good = sorted(photos.glob("*/*.png"))[::13]
    files = [tmp_path / "none.png", good[0], tmp_path / "empty.png", *good[1:]]
    found = list(with_views(3).predict(files, extractor=extractor))
    assert [item.path for item in found] == files
    assert [bool(item.error) for item in found] == [True, False, True, *([False] * len(good[1:]))]
    alone = [
        next(with_views(3).predict([file], extractor=extractor)).probabilities for file in good
    ]
    assert [item.probabilities for item in found if not item.error] == [
        pytest.approx(probabilities) for probabilities in alone
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"views": 0},
        {"views": -1},
        {"views": 70_000},
        {"views": 3, "augmentation": "none"},
        {"augmentation": "mild"},
        {"augmentation": "2 rotation=3"},
        {"augmentation": ""},
    ],
    ids=str,
)
def test_a_model_whose_views_cannot_be_made_here_is_refused(tmp_path, change):
    with_views(3).save(tmp_path / "model")
    change_manifest(tmp_path / "model", lambda manifest: manifest.update(change))
    with pytest.raises(ModelError, match="features that this installation cannot make"):
        Model.load(tmp_path / "model")


# --- what it says of images ---------------------------------------------------------------


def test_the_class_named_is_the_one_with_the_highest_probability(photos, extractor):
    model = fitted("logistic", classes=3)
    files = sorted(photos.glob("*/*.png"))[::7]
    predictions = list(model.predict(files, extractor=extractor))
    assert [item.path for item in predictions] == files
    for item in predictions:
        assert tuple(item.probabilities) == model.classes
        assert item.label == max(item.probabilities, key=item.probabilities.get)
        assert sum(item.probabilities.values()) == pytest.approx(1)
        assert item.error is None


@pytest.mark.parametrize("head", ["rbf-svm", "logistic"])
def test_an_image_of_the_data_set_gets_the_probabilities_that_stage_two_gave_it(
    photos, extractor, tmp_path, head
):
    protocol = Protocol(splits=True)  # else they are those of fits without the image
    run = classify(photos, head, protocol=protocol, extractor=extractor, runs=tmp_path / "runs")
    with (run.folder / "predictions.csv").open(newline="") as file:
        said = {row["path"]: row for row in csv.DictReader(file)}
    model = Model.load(find_model(run.folder))
    assert model.head == head
    files = sorted(photos.glob("*/*.png"))
    assert len(said) == len(files)
    without_network = replace(extractor, forward=no_network)  # their rows are cached
    for item in model.predict(files, extractor=without_network):
        row = said[str(item.path)]
        assert item.label == row["predicted"]
        for name, probability in item.probabilities.items():
            assert probability == pytest.approx(float(row[f"probability of {name}"]), abs=1e-5)


def test_a_cache_that_cannot_be_read_costs_no_prediction(photos, extractor, tmp_path):
    files = sorted(photos.glob("*/*.png"))[:3]
    model = fitted("logistic")
    expected = list(model.predict(files, extractor=extractor))
    store = FeatureStore(extractor.cache, model.recipe)
    store.prepare()
    (store.folder / "recipe.json").write_text("{")
    assert list(model.predict(files, extractor=extractor)) == expected


def test_an_unreadable_image_keeps_its_place_and_says_why(photos, extractor, tmp_path):
    (tmp_path / "empty.png").touch()
    good = photos / "red" / "000.png"
    files = [tmp_path / "none.png", str(good), tmp_path / "empty.png", good]
    first, second, third, fourth = fitted("logistic").predict(files, extractor=extractor)
    assert (first.label, first.probabilities) == (None, {})
    assert "No such file" in first.error
    assert third.error == "0 bytes"
    assert second == fourth
    assert second.label in ("class 0", "class 1")


def test_nothing_but_unreadable_images_is_no_reason_to_fail(extractor, backbone, tmp_path):
    [only] = fitted("logistic").predict([tmp_path / "none.png"], extractor=extractor)
    assert only.error
    assert backbone.images == 0


def test_images_of_many_batches_keep_their_order_and_their_answers(
    photos, extractor, backbone, tmp_path, monkeypatch
):
    files = [*sorted(photos.glob("*/*.png")), *sorted(photos.glob("*/*.png"))]
    files[3:3] = [tmp_path / "none.png"]
    model = fitted("logistic")
    at_once = list(model.predict(files, extractor=extractor))
    monkeypatch.setattr(computing, "PIXELS_PER_BATCH", 3 * 64 * 64)
    backbone.batches.clear()
    told = []
    heard = Hears(rows_made=lambda *how: told.append(how))
    in_parts = list(model.predict(files, extractor=extractor, listener=heard))
    assert (max(backbone.batches), backbone.images) == (3, 80)
    assert [item.path for item in in_parts] == files
    for item, other in zip(in_parts, at_once, strict=True):
        assert item.label == other.label
        assert item.probabilities == pytest.approx(other.probabilities)
    assert told == [(0, 81), (64, 81), (81, 81)]


def test_the_network_sees_only_images_whose_rows_are_not_cached(
    photos, extractor, backbone, tmp_path
):
    extract(photos, extractor=extractor)
    files = sorted(photos.glob("*/*.png"))
    new = paint(tmp_path / "new.png", (180, 70, 70), seed=99)
    files[5:5] = [new]
    backbone.batches.clear()
    model = fitted("logistic")
    cached = {item.path: item for item in model.predict(files, extractor=extractor)}
    assert backbone.images == 1
    elsewhere = replace(extractor, cache=tmp_path / "empty")
    assert [cached[item.path] for item in model.predict(files, extractor=elsewhere)] == [
        *cached.values()
    ]
    assert list(cached) == files


def test_views_that_are_cached_are_not_computed_again(photos, extractor, backbone):
    views = Views(count=3, augmentation=PRESETS["textbook"], everywhere=True)
    extract(photos, views=views, extractor=extractor)
    backbone.batches.clear()
    files = sorted(photos.glob("*/*.png"))
    found = list(with_views(3).predict(files, extractor=extractor))
    assert backbone.images == 0
    assert not [item for item in found if item.error]
