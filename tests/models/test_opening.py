"""A model from a run, from its own folder, from an exported file, or with one kept beside it."""

import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import CountingBackbone, no_network, paint, paint_classes
from portables import CLASSES, SIDE, described

import pipeline
from pipeline.backbones.registry import make_recipe
from pipeline.errors import ModelError, PipelineError
from pipeline.features import computing
from pipeline.features.extractor import Extractor, extract
from pipeline.heads.registry import HEADS
from pipeline.models.files import read_manifest
from pipeline.models.model import Model
from pipeline.models.opening import KEPT
from pipeline.models.parity import Parity
from pipeline.models.portable import Portable
from pipeline.runs import exporting

RECIPE = make_recipe(size=SIDE, precision="float32")
FIELDS = dataclasses.asdict(RECIPE)


def save(folder, recipe=RECIPE, **settings):
    rng = np.random.default_rng(0)
    rows = rng.random((40, *recipe.shape), np.float32)
    head = HEADS["logistic"].build(0).fit(rows.reshape(40, -1), np.arange(40) % 2)
    Model(recipe, "logistic", CLASSES, head, **settings).save(folder)
    return folder


def store(place):
    """Keep the features of some pictures in a cache; return one of them."""
    photos = paint_classes(place / "photos", count=2)
    extractor = Extractor(RECIPE, cache=place / "cache", forward=CountingBackbone(RECIPE))
    extract(photos, extractor=extractor)
    return photos / "blue" / "000.png"


def keep(folder, **changes):
    """Keep an exported file beside a model, as `pipeline export` does."""
    manifest = read_manifest(folder)
    settings = {
        "recipe": manifest.recipe,
        "model": manifest.digest,
        "views": manifest.views,
        "augmentation": manifest.augmentation,
    }
    (folder / KEPT).write_bytes(described(**{**settings, **changes}))
    return folder


@pytest.fixture
def exported(tmp_path):
    (tmp_path / "red.onnx").write_bytes(described(recipe=FIELDS))
    return tmp_path / "red.onnx"


@pytest.fixture
def picture(tmp_path):
    return paint(tmp_path / "a.png", (180, 70, 70), seed=1)


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setattr(computing, "load_backbone", lambda recipe, *_, **__: no_network)


def test_an_exported_file_is_a_model_like_any_other(exported, picture, network):
    model = pipeline.load_model(exported)
    label, p = Portable.load(exported).predict(picture.read_bytes())
    for image in (picture, picture.read_bytes()):
        answer = model.predict(image)
        assert (answer.label, answer.probabilities) == (label, p)
    first, bad = model.predict([picture, b"none"])
    assert first.label == "red"
    assert bad.error
    assert model.remark == ""


@pytest.mark.parametrize("views", [1, 3])
def test_views_are_averaged_as_the_file_itself_does(tmp_path, picture, views, network):
    name = pipeline.get_augmentation("textbook").name if views > 1 else "none"
    content = described(recipe=FIELDS, views=views, augmentation=name)
    (tmp_path / "a.onnx").write_bytes(content)
    label, p = Portable.load(tmp_path / "a.onnx").predict(picture.read_bytes())
    answer = pipeline.load_model(tmp_path / "a.onnx").predict(picture)
    assert answer.label == label
    assert answer.probabilities == pytest.approx(p, abs=1e-6)


def test_features_of_an_exported_model_cannot_be_had(exported, tmp_path):
    model = pipeline.load_model(exported)
    with pytest.raises(ModelError, match="takes images"):
        model.probabilities(np.zeros((1, *RECIPE.shape), np.float32))
    with pytest.raises(ModelError, match="takes images"):
        model.save(tmp_path / "copy")
    with pytest.raises(ModelError, match="no head to choose"):
        pipeline.load_model(exported, head="knn")


def test_a_file_kept_beside_a_model_classifies_what_is_not_in_the_cache(tmp_path, picture, network):
    folder = keep(save(tmp_path / "model"))
    stored = store(tmp_path)
    own, cache = Model.load(folder), Extractor(cache=tmp_path / "cache")
    model = pipeline.load_model(folder)
    new, old, again = model.predict([picture, stored, picture], extractor=cache)
    label, p = Portable.load(folder / KEPT).predict(picture.read_bytes())
    assert (new.label, new.probabilities) == (label, p) == (again.label, again.probabilities)
    assert old == own.predict(stored, extractor=cache)
    model.save(tmp_path / "copy")
    assert (tmp_path / "copy" / "head.skops").exists()


def test_which_of_two_ways_is_taken_is_said_where_they_differ(tmp_path):
    same = save(tmp_path / "same")
    other = save(tmp_path / "other", dataclasses.replace(RECIPE, precision="bfloat16"))
    assert [pipeline.load_model(folder).remark for folder in (same, other)] == ["", ""]
    assert pipeline.load_model(keep(same)).remark == ""
    assert "float32" in pipeline.load_model(keep(other)).remark


@pytest.mark.parametrize(
    ("change", "piece"),
    [
        ({"model": "0" * 64}, "was not made from the model that it lies beside"),
        ({"model": ""}, "was not made from the model that it lies beside"),
        ({"digest": "0" * 64}, "was changed since it was exported"),
        ({"format": 99}, "is of format 99"),
        ({"recipe": {**FIELDS, "colour": "red"}}, "its recipe cannot be read"),
        ({"recipe": {**FIELDS, "backbone": "none"}}, "cannot make"),
    ],
)
def test_a_kept_file_that_is_not_the_models_is_an_error_and_the_model_goes_on_without(
    tmp_path, picture, change, piece
):
    folder = keep(save(tmp_path / "model"), **change)
    with pytest.raises(ModelError, match=re.escape(piece)):
        pipeline.load_model(folder)
    assert Model.load(folder).classes == CLASSES
    (folder / KEPT).unlink()
    assert pipeline.load_model(folder).portable is None


HEAVY = ("tensorflow", "keras", "sklearn", "skops", "scipy", "openvino", "pandas", "fsspec")
PREDICT = """
import sys
from pipeline.cli.main import main
sys.argv = ["pipeline", "predict", *sys.argv[1:]]
try:
    main()
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def packages(*arguments):
    """Predict in a process of its own; return what was printed, and the packages imported."""
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.splitlines()[-1].split()


def test_an_exported_or_kept_model_imports_nothing_heavy(tmp_path, exported, picture):
    kept = keep(save(tmp_path / "model"))
    for model in (exported, kept):
        said, imported = packages(model, picture, "--json")
        assert json.loads(said)[0]["label"] == "red"
        assert not set(HEAVY) & set(imported)
        assert {"onnxruntime", "numpy"} <= set(imported)


def test_stored_features_are_classified_without_tensorflow(tmp_path):
    folder = save(tmp_path / "model")
    picture = store(tmp_path)
    _, imported = packages(folder, picture, "--cache", tmp_path / "cache", "--csv")
    assert "sklearn" in imported
    assert not {"tensorflow", "keras", "openvino", "onnxruntime"} & set(imported)


def test_an_export_without_a_target_is_kept_beside_the_model(tmp_path, picture, monkeypatch):
    folder = save(tmp_path / "model")

    def write(model, kind, out, pictures, *, about, weights):
        assert out == folder / KEPT
        keep(folder, model=about["model"])
        return Parity(len(pictures), 0.0, 0.0, 0, 0, 0.0)

    monkeypatch.setattr(exporting, "export_model", write)
    made = exporting.export_run(folder, "onnx")
    assert "from now on predict answers with it" in made.sentences()[-1]
    _, p = Portable.load(folder / KEPT).predict(picture.read_bytes())
    assert pipeline.load_model(folder).predict(picture).probabilities == p
    with pytest.raises(PipelineError, match="exists already"):
        exporting.export_run(folder, "onnx")
    with pytest.raises(PipelineError, match="no place was named"):
        exporting.export_run(folder, "keras")
