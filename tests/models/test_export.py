import contextlib
import dataclasses
import json
import zipfile

import numpy as np
import pytest
from conftest import CountingBackbone

from pipeline.backbones import openvino_engine
from pipeline.backbones.registry import make_recipe
from pipeline.errors import ModelError, PipelineError
from pipeline.evaluation.threshold import Threshold
from pipeline.heads.registry import get_head
from pipeline.models import export, parity
from pipeline.models.export import export_model
from pipeline.models.formats import FORMATS
from pipeline.models.model import Model
from pipeline.models.parity import Parity, require_parity
from pipeline.models.portable import Portable
from pipeline.system import tensorflow

RECIPE = make_recipe(size=64, precision="float32")
ABOUT = {"model": "0" * 64, "test": {"accuracy": 0.9}}


def pixels_of(count, seed=0):
    """Draw pictures of two classes: one is redder."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 200, (count, 64, 64, 3), dtype=np.uint8)
    pixels[::2, :, :, 0] += 30
    return pixels


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    """Take means of colours for a network, in the model and in the graph."""

    def graph(recipe, pixels, weights=None):
        _, keras = tensorflow.load()
        height, _, channels = recipe.shape
        values = keras.ops.cast(pixels, "float32")
        values = keras.layers.AveragePooling2D(recipe.size // height)(values)
        repeated = keras.layers.Dense(channels, use_bias=False)
        values = keras.layers.Flatten()(repeated(values))
        repeated.set_weights([np.resize(np.eye(3), (channels, 3)).T])
        return values

    monkeypatch.setattr(export, "rows_graph", graph)
    monkeypatch.setattr(parity, "load_backbone", lambda recipe, weights: CountingBackbone(recipe))


def fitted(head="logistic", **settings):
    rows = CountingBackbone(RECIPE)(pixels_of(40)).reshape(40, -1)
    estimator = get_head(head).build(0).fit(rows, np.arange(40) % 2)
    return Model(RECIPE, head, ("red", "blue"), estimator, trained_on="x", **settings)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_of_each_format_gives_the_models_probabilities_in_its_own_runtime(tmp_path, kind):
    model, target = fitted("rbf-svm"), FORMATS[kind]
    out = tmp_path / f"model{target.suffix}"
    found = export_model(model, kind, out, pixels_of(8), about=ABOUT)
    assert (found.pictures, found.changed, found.own_changed) == (8, 0, 0)
    assert found.difference <= target.tolerance
    unseen = pixels_of(5, seed=1)
    p = target.load(out)(unseen)
    expected = model.probabilities(CountingBackbone(RECIPE)(unseen))
    assert np.abs(p - expected).max() <= target.tolerance
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_each_file_says_what_it_is(tmp_path):
    threshold = Threshold(1, 0.4, "recall=0.95", True, 20, 10)
    model = fitted(threshold=threshold, positive=1)
    said = {}
    for kind, target in FORMATS.items():
        out = tmp_path / kind / f"model{target.suffix}"
        out.parent.mkdir()
        export_model(model, kind, out, pixels_of(4), about=ABOUT)
        if kind in ("keras", "litert"):
            with zipfile.ZipFile(out) as archive:
                said[kind] = archive.read("cached-feature-pipeline.json")
        elif kind == "openvino":
            graph = openvino_engine.read_graph(out)
            said[kind] = graph.get_rt_info("cached-feature-pipeline").value
        elif kind == "saved-model":
            said[kind] = (out / "assets.extra" / "cached-feature-pipeline.json").read_bytes()
        else:
            portable = Portable.load(out)
            assert (portable.classes, portable.threshold) == (model.classes, threshold)
    for kind, text in said.items():
        description = json.loads(text)
        assert description["recipe"]["size"] == 64, kind
        assert description["fingerprint"] == RECIPE.fingerprint
        assert Threshold(**description["threshold"]) == threshold
        assert description["test"] == {"accuracy": 0.9}


def test_a_keras_file_can_be_loaded_where_this_package_is_not(tmp_path):
    export_model(fitted("knn"), "keras", tmp_path / "m.keras", pixels_of(4), about=ABOUT)
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        config = archive.read("config.json").decode()
    assert "pipeline" not in config
    assert "Lambda" not in config


def test_a_file_that_disagrees_is_not_kept_and_the_figure_is_given(tmp_path, monkeypatch):
    def blind(recipe, pixels, weights=None):
        _, keras = tensorflow.load()
        return keras.layers.Flatten()(keras.ops.cast(pixels, "float32"))[:, :2048]

    monkeypatch.setattr(export, "rows_graph", blind)
    with pytest.raises(ModelError, match=r"probabilities are up to 0\.\d+ away.*on 8 images"):
        export_model(fitted(), "keras", tmp_path / "m.keras", pixels_of(8), about=ABOUT)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def write(self, graph, file, description):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(FORMATS["onnx"]), "write", write)
    with pytest.raises(OSError, match="No space left"):
        export_model(fitted(), "onnx", tmp_path / "m.onnx", pixels_of(4), about=ABOUT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "name", "found"),
    [
        ("onnx", "there.onnx", "there.onnx exists already"),
        ("onnx", "link.onnx", "link.onnx exists already"),
        ("onnx", "new.bin", "not the name of a file in the format onnx"),
        ("onnx", "none/new.onnx", "there is no folder"),
        ("openvino", "half.xml", "half.bin exists already"),
        ("docx", "new.docx", "unknown format 'docx'"),
    ],
)
def test_a_target_that_cannot_be_written_is_one_error(tmp_path, kind, name, found):
    (tmp_path / "there.onnx").touch()
    (tmp_path / "half.bin").touch()
    (tmp_path / "link.onnx").symlink_to("nowhere")
    with pytest.raises(PipelineError, match=found):
        export_model(fitted(), kind, tmp_path / name, pixels_of(4), about=ABOUT)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "half.bin",
        "link.onnx",
        "there.onnx",
    ]


@pytest.mark.parametrize(
    ("kind", "appears", "shape"),
    [
        ("onnx", "m.onnx", "file"),
        ("onnx", "m.onnx", "link"),
        ("openvino", "m.xml", "file"),
        ("openvino", "m.bin", "file"),
        ("saved-model", "m", "folder"),
        ("saved-model", "m", "file"),
    ],
)
def test_what_takes_the_targets_name_during_the_work_stays(
    tmp_path, monkeypatch, kind, appears, shape
):
    target, there = type(FORMATS[kind]), tmp_path / appears
    write = target.write

    def slow(self, graph, file, description):
        write(self, graph, file, description)
        if shape == "folder":
            there.mkdir()
        elif shape == "link":
            there.symlink_to("nowhere")
        else:
            there.write_text("mine")

    monkeypatch.setattr(target, "write", slow)
    out = tmp_path / f"m{target.suffix}"
    with pytest.raises(PipelineError, match=f"{appears} exists already; nothing is ever overw"):
        export_model(fitted(), kind, out, pixels_of(4), about=ABOUT)
    assert list(tmp_path.iterdir()) == [there]
    assert there.is_dir() == (shape == "folder")
    assert there.is_symlink() == (shape == "link")
    assert shape != "file" or there.read_text() == "mine"


@pytest.mark.parametrize(
    ("difference", "usual", "changed", "steps", "kept"),
    [
        (9e-5, 9e-5, 0, False, True),
        (9e-5, 9e-5, 1, False, False),
        (9e-5, 9e-5, 1, True, True),
        (9e-5, 9e-5, 3, True, True),
        (9e-5, 9e-5, 4, True, False),
        (2e-4, 1e-6, 0, False, False),
        (2e-4, 1e-6, 0, True, True),
        (0.01, 1e-6, 0, True, True),
        (0.01, 2e-4, 0, True, False),
        (0.03, 1e-6, 0, True, False),
        (np.nan, np.nan, 0, False, False),
        (np.nan, np.nan, 0, True, False),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_single_pictures_may_differ_only_where_last_bits_decide(
    difference, usual, changed, steps, kept, precision
):
    model = dataclasses.replace(fitted(), recipe=dataclasses.replace(RECIPE, precision=precision))
    found = Parity(32, difference, difference, changed, changed, usual)
    said = rf"up to .* on 32 images, and {changed} of them are called otherwise"
    refusal = contextlib.nullcontext() if kept else pytest.raises(ModelError, match=said)
    with refusal:
        require_parity(model, found, FORMATS["onnx"], steps=steps)


def test_a_file_that_calls_images_otherwise_than_a_model_in_bfloat16_is_not_kept():
    model = dataclasses.replace(fitted(), recipe=make_recipe(size=64, precision="bfloat16"))
    require_parity(model, Parity(32, 0.0, 0.2, 0, 3, 0.0), FORMATS["onnx"])
    with pytest.raises(ModelError, match="4 of 32 images would be called otherwise"):
        require_parity(model, Parity(32, 0.0, 0.2, 0, 4, 0.0), FORMATS["onnx"])


class Coarse(CountingBackbone):
    """In bfloat16, rows are rounded."""

    def __init__(self, recipe):
        super().__init__(recipe)
        self.recipe = recipe

    def __call__(self, pixels):
        rows = super().__call__(pixels)
        return np.round(rows / 8) * 8 if self.recipe.precision == "bfloat16" else rows


def test_a_file_says_how_far_its_precision_takes_it_from_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "load_backbone", lambda recipe, _: Coarse(recipe))
    recipe = dataclasses.replace(RECIPE, precision="bfloat16")
    model = dataclasses.replace(fitted(), recipe=recipe)
    found = export_model(model, "keras", tmp_path / "m.keras", pixels_of(20), about=ABOUT)
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        said = json.loads(archive.read("cached-feature-pipeline.json"))
    told = said["float32_instead_of_bfloat16"]
    assert (told["pictures"], told["called_otherwise"]) == (20, found.own_changed)
    assert abs(told["largest_difference"] - found.own_difference) < 1e-6
    assert found.own_difference > found.difference


def test_pictures_are_compared_a_few_at_a_time(tmp_path, monkeypatch):
    backbones, given = [], []

    def load_backbone(recipe, _):
        backbones.append(CountingBackbone(recipe))
        return backbones[-1]

    load = type(FORMATS["keras"]).load

    def counted(self, file):
        run = load(self, file)
        return lambda pixels: given.append(len(pixels)) or run(pixels)

    monkeypatch.setattr(parity, "load_backbone", load_backbone)
    monkeypatch.setattr(type(FORMATS["keras"]), "load", counted)
    export_model(fitted(), "keras", tmp_path / "m.keras", pixels_of(20), about=ABOUT)
    assert given == [8, 8, 4]
    assert [list(own.batches) for own in backbones] == [[8, 8, 4]]
