"""There is one way from image to row: looked up once, read once, computed at most once."""

import hashlib
from dataclasses import replace

import pytest
from conftest import CountingBackbone, no_network, paint_classes
from typer.testing import CliRunner

from pipeline.backbones.registry import layers_recipe
from pipeline.classification.experiment import classify
from pipeline.cli.main import app
from pipeline.data.augmentation import get_augmentation
from pipeline.evaluation.protocol import Protocol
from pipeline.features import computing, shard
from pipeline.features.extractor import Extractor, extract
from pipeline.features.transformer import FeatureExtractor
from pipeline.features.views import Views
from pipeline.system.files import read_regular

MILD, STRONG = (
    Views(count=3, augmentation=get_augmentation(text)) for text in ("mild", "rotation=20")
)
SETTINGS = ["--size", "64", "--precision", "float32"]


@pytest.fixture
def extractor(tmp_path, recipe, backbone, monkeypatch):
    monkeypatch.setattr(shard, "ROWS_PER_SHARD", 10)
    return Extractor(recipe, cache=tmp_path / "cache", forward=backbone, stream=False)


@pytest.fixture
def shards_used(monkeypatch):
    """The shards that were read, and the bytes of those that were hashed, each time."""
    read, hashed = [], []
    sha256 = hashlib.sha256

    def note_reading(path, *most, **options):
        read.append(path)
        return read_regular(path, *most, **options)

    def note_hashing(content=b"", **options):
        if content.startswith(b"\x89HDF"):
            hashed.append(content)
        return sha256(content, **options)

    monkeypatch.setattr("pipeline.features.shard.read_regular", note_reading)
    monkeypatch.setattr(hashlib, "sha256", note_hashing)
    return read, hashed


@pytest.mark.parametrize("views", [[Views()], [MILD], [MILD, STRONG]], ids=["0", "1", "2"])
def test_one_classify_reads_and_hashes_each_shard_once(
    photos, extractor, shards_used, tmp_path, views
):
    others = paint_classes(tmp_path / "others", classes=("green", "blue"))
    for folder in (photos, others):  # two data sets share the stores
        extract(folder, views=views, extractor=extractor)
    read, hashed = shards_used
    read.clear()
    hashed.clear()
    classify(
        photos,
        ["ridge", "knn"],
        views=views,
        extractor=replace(extractor, forward=no_network),
        protocol=Protocol(splits=True),
        runs=tmp_path / "runs",
    )
    assert sorted(read) == sorted((tmp_path / "cache").glob("*/*.h5"))
    assert len(hashed) == len(set(hashed)) == len(read)


def test_in_int8_the_store_that_holds_the_calibration_is_read_once_too(
    photos, extractor, shards_used, tmp_path
):
    calibrated = replace(extractor.recipe, precision="int8", calibration=" ".join(["3"] * 12))
    for folder in (photos, paint_classes(tmp_path / "others", classes=("green", "blue"))):
        extract(folder, extractor=replace(extractor, recipe=calibrated))
    read, hashed = shards_used
    read.clear()
    hashed.clear()
    unsettled = replace(calibrated, calibration="none")
    extractor = replace(extractor, recipe=unsettled, forward=no_network)
    run = classify(photos, ["ridge"], extractor=extractor, runs=tmp_path / "runs")
    assert run.recipe == calibrated
    assert sorted(read) == sorted((tmp_path / "cache").glob("*/*.h5"))
    assert len(hashed) == len(set(hashed)) == len(read)


def test_every_command_and_the_transformer_look_up_rows_by_one_plan(
    photos, tmp_path, recipe, monkeypatch
):
    plans = []
    plan = Extractor.plan

    def planned(self, *args, **settings):
        plans.append(plan(self, *args, **settings))
        return plans[-1]

    monkeypatch.setattr(Extractor, "plan", planned)
    backbone = CountingBackbone(recipe, [layers_recipe(recipe)])
    monkeypatch.setattr(computing, "load_backbone", lambda *_, **__: backbone)
    cache = tmp_path / "cache"

    def command(name, *arguments):
        where = [str(photos), *map(str, arguments), "--cache", str(cache), *SETTINGS]
        done = CliRunner().invoke(
            app, [name, *where] if name != "export" else ["cache", name, *where]
        )
        assert done.exit_code == 0, done.output

    transformer = FeatureExtractor(size=64, precision="float32", cache=str(cache))
    steps = {
        "status": lambda: command("status"),
        "features": lambda: command("features"),
        "classify": lambda: command("classify", "--head", "ridge", "--runs", tmp_path / "runs"),
        "problems": lambda: command("problems", "--no-learning-curve"),
        "export": lambda: command("export", tmp_path / "features.h5"),
        "transformer": lambda: transformer.transform(sorted(photos.glob("*/*.png"))),
    }
    for step in steps.values():
        step()
    assert [(plan.stored, plan.missing) for plan in plans] == [
        (0, 40),
        (0, 40),
        *[(40, 0)] * (len(steps) - 2),
    ]
    assert backbone.images == 40
