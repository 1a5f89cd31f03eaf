"""`pipeline status` and `pipeline cache`, and handing features on."""

import dataclasses
import json
import os
import re
import stat
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import CountingBackbone, paint
from damaged import damage
from typer.testing import CliRunner

from pipeline.backbones.registry import make_recipe
from pipeline.classification.experiment import classify
from pipeline.cli.main import app
from pipeline.data.loading import load_dataset
from pipeline.data.urls import Url
from pipeline.errors import PipelineError
from pipeline.evaluation.protocol import Protocol
from pipeline.features import shard
from pipeline.features.exchange import export_features, import_features
from pipeline.features.extractor import Extractor, extract
from pipeline.features.keys import keys
from pipeline.features.pruning import losses, prune
from pipeline.features.store import FeatureStore, open_stores
from pipeline.features.transformer import FeatureExtractor
from pipeline.system.files import open_regular

TORTURE = os.environ.get("TORTURE", "") not in ("", "0")
SETTINGS = ["--size", "64", "--precision", "float32", "--cache", "cache"]


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "pipeline.features.computing.load_backbone",
        lambda recipe, weights, **more: CountingBackbone(recipe, **more),
    )


def pipeline(*arguments):
    if arguments[0] == "features":
        arguments = (*arguments, "--no-layers")  # one store is easier to follow
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def status(data, *options):
    result = pipeline("status", data, *SETTINGS, "--json", *options)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    return {
        kind: files if kind == "reused" else [os.path.basename(name) for name in files]  # noqa: PTH119
        for kind, files in found.items()
    }


@pytest.fixture
def stored(photos):
    assert pipeline("features", photos, *SETTINGS).exit_code == 0
    return photos


def the_store():
    (store,) = open_stores("cache")
    return store


def test_status_sorts_every_file_and_changes_nothing(photos):
    assert status(photos)["reused"] == 0
    assert len(status(photos)["new"]) == 40
    assert not os.path.exists("cache")  # noqa: PTH110
    pipeline("features", photos, *SETTINGS)
    assert status(photos) == {
        "reused": 40,
        "new": [],
        "changed": [],
        "removed": [],
        "unreadable": [],
    }
    paint(photos / "red" / "000.png", (1, 2, 3), seed=77)
    paint(photos / "red" / "new.png", (1, 2, 3), seed=78)
    (photos / "blue" / "005.png").unlink()
    (photos / "blue" / "006.png").rename(photos / "red" / "moved.png")
    (photos / "blue" / "empty.png").touch()
    for _ in range(2):
        assert status(photos) == {
            "reused": 38,
            "new": ["new.png"],
            "changed": ["000.png"],
            "removed": ["005.png", "006.png"],
            "unreadable": ["empty.png"],
        }
    pipeline("features", photos, *SETTINGS)
    assert status(photos)["reused"] == 40
    assert status(photos)["removed"] == []


def test_status_in_words_gives_examples(stored):
    paint(stored / "red" / "new.png", (1, 2, 3), seed=78)
    result = pipeline("status", stored, *SETTINGS)
    assert "40 reused" in result.stdout
    assert f"1 new: {stored}" in result.stdout.replace("\n", "")


def test_list_names_every_store_with_its_rows(stored):
    pipeline("features", stored, *SETTINGS, "--scaling", "unit")
    result = pipeline("cache", "list", "--cache", "cache")
    lines = [line.strip() for line in result.stdout.splitlines()]
    names = {line.split()[0]: at for at, line in enumerate(lines) if "vgg16" in line}
    stores = list(open_stores("cache"))
    assert names.keys() == {store.recipe.name for store in stores}
    for store in stores:
        at = names[store.recipe.name]
        assert lines[at].split()[1:3] == ["40", "1"]
        assert lines[at + 1] == f"float32, {store.recipe.scaling}, bilinear"


def test_the_list_is_whole_in_80_columns_with_a_long_name_too(photos):
    pipeline("features", photos, *SETTINGS, "--backbone", "efficientnet-lite0")
    [store] = open_stores("cache")
    lines = pipeline("cache", "list", "--cache", "cache").stdout.splitlines()
    at = next(at for at, line in enumerate(lines) if store.recipe.name in line)
    assert len(store.recipe.name) > 45
    assert lines[at + 1].strip() == f"float32, {store.recipe.scaling}, bilinear"
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("start", [0, 1000])
def test_a_damaged_recipe_hides_no_other_store(stored, start):
    pipeline("features", stored, *SETTINGS, "--scaling", "unit")
    bad, good = open_stores("cache")
    file = bad.folder / "recipe.json"
    whole = file.read_bytes()
    for seed in range(start, start + (500 if TORTURE else 15)):
        file.write_bytes(damage(whole, seed))
        for command in (["list"], ["verify"], ["prune", stored, "--yes"]):
            result = pipeline("cache", *command, "--cache", "cache")
            assert good.recipe.name in result.stdout
            if result.exit_code:
                assert result.exit_code == 1
                assert str(file) in result.stderr or "was renamed" in result.stderr
                assert result.stderr.count("Error: ") == 1
            else:
                assert bad.recipe.name in result.stdout


def test_list_tells_stores_of_views_apart(photos):
    for text in ("mild", "rotation=5,horizontal_flip=yes"):
        pipeline("features", photos, *SETTINGS, "--views", "2", "--augmentation", text)
    words = " ".join(pipeline("cache", "list", "--cache", "cache").stdout.split())
    assert words.count("float32, caffe,") == 3
    assert words.count("views:") == 2
    assert "views: mild" in words
    assert "rotation=5,horizontal_flip=yes" in words.replace(" ", "")


def test_prune_keeps_all_views_of_the_images_that_are_listed_and_drops_those_of_others(photos):
    options = [*SETTINGS, "--views", "3", "--augmentation", "mild"]
    pipeline("features", photos, *options)
    before = load_dataset(photos)
    gone = before.where("train")[:4]
    for place in gone:
        before.paths[place].unlink()
    rows = {store.folder.name: len(store) for store in the_stores()}
    train = len(before.where("train"))
    assert sorted(rows.values()) == sorted([40, 2 * train])
    result = pipeline("cache", "prune", photos, "--cache", "cache", "--yes")
    assert "4 rows dropped, 36 stay" in " ".join(result.stdout.split())
    assert f"8 rows dropped, {2 * train - 8} stay" in " ".join(result.stdout.split())
    again = pipeline("features", photos, *options)
    assert again.stdout.startswith("0 rows computed; 36 images")


def test_status_and_export_are_about_the_images_themselves(photos):
    pipeline("features", photos, *SETTINGS, "--views", "2", "--augmentation", "mild")
    assert status(photos)["reused"] == 40
    assert pipeline("cache", "export", photos, "features.h5", *SETTINGS).exit_code == 0
    _, recipe, rows = import_features(Path("features.h5"))
    assert recipe == make_recipe(size=64, precision="float32")
    assert len(rows) == 40


def test_verify_names_what_is_damaged_and_the_next_run_makes_it_again(stored):
    assert pipeline("cache", "verify", "--cache", "cache").exit_code == 0
    before = the_store().read(keys(load_dataset(stored)))
    (shard,) = the_store().folder.glob("*.h5")
    image = bytearray(shard.read_bytes())
    image[len(image) // 3] ^= 4
    shard.write_bytes(image)
    result = pipeline("cache", "verify", "--cache", "cache")
    assert result.exit_code == 1
    assert shard.name in result.stderr
    assert "1 shards or stores are damaged" in result.stderr
    assert len(status(stored)["new"]) == 40
    assert pipeline("features", stored, *SETTINGS).exit_code == 0
    assert pipeline("cache", "verify", "--cache", "cache").exit_code == 0
    assert np.array_equal(the_store().read(keys(load_dataset(stored))), before)


def test_prune_drops_what_nobody_lists_and_keeps_the_rest_bit_for_bit(stored):
    for number in range(3):
        paint(stored / "red" / f"later {number}.png", (180, 70, 70), seed=300 + number)
        pipeline("features", stored, *SETTINGS)
    assert len(the_store().shards) == 4
    for name in ("000", "001", "002"):
        (stored / "blue" / f"{name}.png").unlink()
    left = load_dataset(stored)
    before = the_store().read(keys(left))
    result = pipeline("cache", "prune", stored, "--cache", "cache", "--yes")
    assert "3 rows dropped, 40 stay; 3 shards fewer" in " ".join(result.stdout.split())
    assert (len(the_store()), len(the_store().shards)) == (40, 1)
    assert np.array_equal(the_store().read(keys(left)), before)
    again = pipeline("cache", "prune", stored, "--cache", "cache", "--yes")
    assert "0 rows dropped, 40 stay; 0 shards fewer" in " ".join(again.stdout.split())


def test_prune_shows_what_would_go_and_wants_a_yes(stored, monkeypatch):
    paint(stored / "red" / "later.png", (180, 70, 70), seed=300)
    pipeline("features", stored, *SETTINGS)
    (stored / "red" / "003.png").unlink()
    arguments = ("cache", "prune", stored, "--cache", "cache")
    before = {path: path.read_bytes() for path in Path("cache").rglob("*.h5")}

    refused = pipeline(*arguments)
    assert refused.exit_code == 1
    shown = " ".join(refused.stdout.split())
    assert f"{the_store().recipe.name}: 1 of 41 rows are of images in none of these" in shown
    assert "MB" in shown
    assert "1 rows would be dropped; nothing was" in refused.stderr
    assert "--yes" in refused.stderr

    for answer, done in (("n\n", False), ("", False), ("y\n", True)):
        assert {path: path.read_bytes() for path in Path("cache").rglob("*.h5")} == before
        monkeypatch.setattr("typer.confirm", lambda *_, a=answer, **__: a == "y\n")
        with monkeypatch.context() as terminal:
            terminal.setattr("pipeline.cli.cache.sys", Terminal())
            result = pipeline(*arguments)
        assert (result.exit_code == 0) == done
    assert len(the_store()) == 40
    assert pipeline(*arguments).exit_code == 0  # there is nothing to be asked any more


@pytest.mark.parametrize(
    ("times", "about"),
    [
        ((0, 60), ""),  # two commands, one minute apart: how long the second took is not known
        ((0, 300, 301, 302), ", about 1 s to compute"),
        ((0, 1, 2, 400), ", about 1 s to compute"),
    ],
)
def test_prune_counts_no_pause_between_commands_as_time_to_compute(stored, times, about):
    for number in range(1, len(times)):
        paint(stored / "red" / f"later {number}.png", (180, 70, 70), seed=300 + number)
        pipeline("features", stored, *SETTINGS)
    whole, *later = sorted(the_store().shards, key=lambda name: -the_store().shards[name])
    for time, name in zip(times, [whole, *later]):
        os.utime(the_store().folder / name, (0, time))
    (stored / "red" / "003.png").unlink()
    shown = " ".join(pipeline("cache", "prune", stored, "--cache", "cache").stdout.split())
    assert re.search(r"MB(, about .* to compute)?\)", shown)[1] == (about or None)


class Terminal:
    """In place of `sys`: CliRunner has a standard input of its own."""

    class stdin:  # noqa: N801
        @staticmethod
        def isatty():
            return True


def test_prune_names_a_bad_store_and_passes_over_it(stored):
    bad = Path("cache/aaa")
    bad.mkdir()
    (bad / "recipe.json").write_text("{")
    (stored / "red" / "003.png").unlink()
    result = pipeline("cache", "prune", stored, "--cache", "cache", "--yes")
    assert result.exit_code == 1
    assert "aaa/recipe.json" in result.stderr.replace("\n", "")
    assert [len(store) for store in the_stores()] == [39]


def test_prune_drops_only_what_it_has_shown(stored):
    (stored / "red" / "003.png").unlink()
    (loss,) = losses([stored], "cache")
    key, row = (bytes(32), 0), np.ones((1, *loss.store.recipe.shape), np.float32)
    the_store().write([key], row)  # by another process, meanwhile
    assert loss.accept().rows == 1
    assert np.array_equal(the_store().read([key]), row)


def test_prune_interrupted_before_old_shards_are_gone_loses_no_row(stored, monkeypatch):
    (stored / "red" / "003.png").unlink()
    left = load_dataset(stored)
    store = the_store()
    before = store.read(keys(left))

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr("pathlib.Path.unlink", stop)
        with pytest.raises(KeyboardInterrupt):
            prune(store, set(left.digests))
    assert np.array_equal(the_store().read(keys(left)), before)
    assert prune(the_store(), set(left.digests)).rows == 1


def test_an_exported_file_is_classified_as_the_images_were_without_them(stored):
    extractor = Extractor(the_store().recipe, cache="cache")
    splits = Protocol(splits=True)  # a file of features does not tell that they were drawn
    from_images = classify(
        load_dataset(stored), "logistic", protocol=splits, extractor=extractor, name="a"
    )
    file = "features.h5"
    assert pipeline("cache", "export", stored, file, *SETTINGS).exit_code == 0
    for path in stored.rglob("*.png"):
        path.unlink()
    from_file = classify(file, "logistic", name="b")
    assert np.array_equal(from_file.best.probabilities, from_images.best.probabilities)
    assert from_file.best.model.recipe == from_images.best.model.recipe
    assert pipeline("classify", file, "--head", "knn", "--name", "c").exit_code == 0


def test_nothing_is_fetched_for_a_file_of_features(stored, monkeypatch):
    dataset = load_dataset(stored)
    paths = tuple(Url(f"http://127.0.0.1/{place}.png") for place in range(len(dataset)))
    requests = []
    monkeypatch.setattr("pipeline.data.urls.open_url", requests.append)
    rows = the_store().read(keys(dataset))
    rows[:] = np.random.default_rng(1).random(rows.shape, np.float32)  # there will be mistakes
    file = Path("stranger.h5")
    export_features(dataclasses.replace(dataset, paths=paths), the_store().recipe, rows, file)
    for arguments in (("classify", file, "--head", "ridge"), ("problems", file)):
        pipeline(*arguments)
    assert list(Path("runs").glob("*/report.html"))
    assert requests == []


def test_a_data_set_that_came_in_a_file_opens_none_of_its_paths(stored, monkeypatch):
    """They lead to pictures of this machine, and to servers, as a stranger may have written."""
    dataset = load_dataset(stored)
    paths = [
        path if n % 2 else Url(f"http://127.0.0.1/{n}.png") for n, path in enumerate(dataset.paths)
    ]
    recipe, rows = the_store().recipe, the_store().read(keys(dataset))
    export_features(dataclasses.replace(dataset, paths=paths), recipe, rows, Path("stranger.h5"))
    given, _, _ = import_features(Path("stranger.h5"))
    assert list(map(str, given.paths)) == list(map(str, paths))
    assert given.take(range(40)).paths == given.paths
    opened = []
    for place in ("digests.open_regular", "urls.open_url"):
        monkeypatch.setattr(f"pipeline.data.{place}", lambda path, **_: opened.append(path))
    run = classify(given, "ridge", extractor=Extractor(recipe, cache="cache"), name="cached")
    assert json.loads((run.folder / "pictures.json").read_text())["images"] == {}
    for way in (
        lambda: extract(given, extractor=Extractor(make_recipe(size=96), cache="cache")),
        lambda: FeatureExtractor(size=64, cache="cache").transform(given.paths),
    ):
        with pytest.raises(PipelineError, match="came in a file of features, and is not opened"):
            way()
    assert opened == []


def test_an_exported_file_can_be_read_without_this_project(stored):
    pipeline("cache", "export", stored, "features.h5", *SETTINGS)
    dataset = load_dataset(stored)
    with h5py.File("features.h5") as file:
        assert np.array_equal(file["features"][:], the_store().read(keys(dataset)))
        assert file["labels"][:].tolist() == dataset.targets.labels.tolist()
        assert file["classes"].asstr()[:].tolist() == ["blue", "red"]
        assert file["paths"].asstr()[0] == str(dataset.paths[0])
        assert file["splits"].asstr()[:].tolist() == dataset.splits.tolist()


def test_names_that_are_not_text_are_exported_as_text(stored):
    os.rename(os.fsencode(stored / "red"), os.fsencode(stored) + b"/r\xff")  # noqa: PTH104
    pipeline("features", stored, *SETTINGS)
    result = pipeline("cache", "export", stored, "features.h5", *SETTINGS)
    assert result.exit_code == 0, result.output
    dataset, _, _ = import_features(Path("features.h5"))
    assert dataset.classes == ("blue", r"r\xff")


def test_export_does_not_write_over_a_file_nor_without_rows(stored):
    (stored.parent / "features.h5").write_text("mine")
    result = pipeline("cache", "export", stored, "features.h5", *SETTINGS)
    assert result.exit_code == 1
    assert "already exists" in result.stderr
    paint(stored / "red" / "new.png", (1, 2, 3), seed=78)
    result = pipeline("cache", "export", stored, "other.h5", *SETTINGS)
    assert "1 of 41 images have no features" in result.stderr
    for name in ("other.csv", "other.npz"):
        result = pipeline("cache", "export", stored, name, *SETTINGS)
        assert result.exit_code == 1
        assert "a name that ends in .h5" in result.stderr
        assert not (stored.parent / name).exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.h5", "cannot be used as features"),
        ("old.npz", "old.npz is a NumPy archive, which is not read any more."),
        ("absent.h5", "there is no file"),
    ],
)
def test_a_features_file_that_is_none_is_one_clear_error(tmp_path, name, message):
    for file in ("text.h5", "old.npz"):
        (tmp_path / file).write_text("not features")
    result = pipeline("classify", name)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_renamed_store_is_refused_by_name(stored, tmp_path):
    folder = the_store().folder
    folder.rename(folder.with_name("other"))
    result = pipeline("cache", "verify", "--cache", "cache")
    assert result.exit_code == 1
    assert "was renamed" in result.stderr
    assert FeatureStore(tmp_path / "cache", the_recipe(folder.with_name("other"))).shards == {}


def the_recipe(folder):
    from pipeline.backbones.recipe import Recipe

    return Recipe.from_json((folder / "recipe.json").read_text(), source="here")


def test_status_and_export_find_rows_in_int8(photos):
    data = load_dataset(photos)
    settled = make_recipe(size=64, precision="int8", calibration=" ".join(["3"] * 12))
    extractor = Extractor(settled, cache="cache", forward=CountingBackbone(settled))
    extract(data, extractor=extractor)
    options = ["--size", "64", "--precision", "int8", "--cache", "cache"]
    assert json.loads(pipeline("status", photos, *options, "--json").stdout)["reused"] == 40
    assert pipeline("cache", "export", photos, "f.h5", *options).exit_code == 0
    assert import_features(Path("f.h5"))[1] == settled


def test_status_knows_files_by_whatever_way_leads_to_them(stored, monkeypatch):
    (stored.parent / "elsewhere").mkdir()
    monkeypatch.chdir(stored.parent / "elsewhere")
    cache = ["--cache", str(stored.parent / "cache")]
    result = pipeline("status", f"../{stored.name}", *SETTINGS[:-2], *cache, "--json")
    found = json.loads(result.stdout)
    assert (found["reused"], found["removed"]) == (40, [])


def test_status_and_prune_take_data_that_nobody_could_learn_from(stored):
    for path in [*(stored / "red").glob("*.png")][1:]:
        path.unlink()
    assert status(stored)["reused"] == 21
    result = pipeline("cache", "prune", stored, "--cache", "cache", "--yes")
    assert "19 rows dropped, 21 stay" in " ".join(result.stdout.split())


def test_prune_drops_nothing_while_a_file_cannot_be_read(stored, monkeypatch):
    sick = stored / "red" / "004.png"

    def open_if_sound(path, **options):
        if path == sick:
            raise OSError(116, "Stale file handle")
        return open_regular(path, **options)

    monkeypatch.setattr("pipeline.data.digests.open_regular", open_if_sound)
    result = pipeline("cache", "prune", stored, "--cache", "cache", "--yes")
    assert result.exit_code == 1
    assert "004.png cannot be read: Stale file handle" in result.stderr
    assert len(the_store()) == 40


def test_prune_drops_nothing_while_a_folder_cannot_be_read(stored, monkeypatch):
    paint(stored / "red" / "more" / "new.png", (1, 2, 3), seed=78)
    pipeline("features", stored, *SETTINGS)
    scandir = os.scandir

    def locked(path):  # tests may run as root, whom no permission stops
        if Path(path).name == "more":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    result = pipeline("cache", "prune", stored, "--cache", "cache", "--yes")
    assert result.exit_code == 1
    assert "more cannot be read, so its rows cannot be told" in result.stderr
    assert len(the_store()) == 41


def test_one_bad_store_does_not_hide_the_others(stored):
    bad = Path("cache/aaa")
    bad.mkdir()
    (bad / "recipe.json").write_text("{")
    nameless = Path("cache/bbb")
    nameless.mkdir()
    (nameless / "0.h5").touch()
    result = pipeline("cache", "verify", "--cache", "cache")
    assert result.exit_code == 1
    assert "aaa/recipe.json is damaged" in result.stderr.replace("\n", "")
    assert "bbb" in result.stderr
    assert "1 shards whole, 40 rows" in result.stdout
    assert "40" in pipeline("cache", "list", "--cache", "cache").stdout
    assert len(the_stores()) == 1


def the_stores():
    return [store for store in open_stores("cache") if isinstance(store, FeatureStore)]


def test_a_features_file_that_was_damaged_is_one_clear_error(stored):
    file = Path("features.h5")
    pipeline("cache", "export", stored, file, *SETTINGS)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", whole[:100] + bytes(len(whole) - 100)):
        file.write_bytes(content)
        result = pipeline("classify", file)
        assert result.exit_code == 1
        assert "cannot be used as features" in result.stderr
        assert result.exception is None or isinstance(result.exception, SystemExit)


def test_export_leaves_out_what_cannot_be_decoded_and_lists_it(stored):
    good = stored / "red" / "000.png"
    (stored / "red" / "broken.png").write_bytes(good.read_bytes()[:-300])
    result = pipeline("cache", "export", stored, "features.h5", *SETTINGS)
    assert result.exit_code == 3
    assert "broken.png: truncated" in result.stderr
    assert len(import_features(Path("features.h5"))[0]) == 40


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002])
def test_the_umask_holds_for_everything_that_is_written(photos, umask):
    before = os.umask(umask)
    try:
        for arguments in (
            ("features", photos, *SETTINGS),
            ("classify", photos, "--head", "ridge", "--name", "run", *SETTINGS),
            ("report", "runs/run"),
            ("problems", photos, "--no-learning-curve", "--run", "runs/run", *SETTINGS),
            ("cache", "export", photos, "features.h5", *SETTINGS),
            ("cache", "prune", photos, "--cache", "cache"),
        ):
            result = pipeline(*arguments)
            assert result.exit_code == 0, result.output
    finally:
        os.umask(before)
    written = [*Path("cache").rglob("*"), *Path("runs").rglob("*"), Path("features.h5")]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in written}
    assert {path.name for path in written} >= {"digests.sqlite", ".prune", "report.html"}
    assert {
        path: oct(mode)
        for path, mode in modes.items()
        if mode != (0o777 if path.is_dir() else 0o666) & ~umask
    } == {
        path: oct(0o644 & ~umask)  # SQLite's
        for path in written
        if path.name == "digests.sqlite" and umask == 0o002
    }


@pytest.fixture
def files_read(monkeypatch):
    """Names of the files that were read whole, in order."""
    names = []

    def open_and_note(path, **options):
        names.append(path.name)
        return open_regular(path, **options)

    def read_shard(path, *arguments):
        names.append(path.name)
        return shard.read_shard(path, *arguments)

    monkeypatch.setattr("pipeline.data.digests.open_regular", open_and_note)
    monkeypatch.setattr("pipeline.features.store.read_shard", read_shard)
    return names


def test_no_command_reads_images_again_that_have_not_changed(stored, files_read, monkeypatch):
    monkeypatch.setattr("pipeline.data.digests._RESOLUTION_NS", 0)  # they were changed just now
    # It looks at no more than 32 of them, whether they have 16 bits.
    monkeypatch.setattr("pipeline.features.plan.remarks_on_decoding", lambda *_: ())
    load_dataset(stored)
    files_read.clear()
    load_dataset(stored)
    assert pipeline("cache", "prune", stored, "--cache", "cache", "--yes").exit_code == 0
    assert pipeline("cache", "export", stored, "features.h5", *SETTINGS).exit_code == 0
    assert status(stored)["reused"] == 40
    assert not [name for name in files_read if name.endswith(".png")]
    paint(stored / "red" / "001.png", (1, 1, 1), seed=9)
    load_dataset(stored)
    assert [name for name in files_read if name.endswith(".png")] == ["001.png"]


@pytest.mark.parametrize("views", [[], ["--views", "3", "--augmentation", "mild"]])
def test_a_run_on_cached_rows_reads_each_shard_once(photos, files_read, monkeypatch, views):
    monkeypatch.setattr("pipeline.features.shard.ROWS_PER_SHARD", 10)
    assert pipeline("features", photos, *SETTINGS, *views).exit_code == 0
    shards = sorted(path.name for path in Path("cache").glob("*/*.h5"))
    files_read.clear()
    result = pipeline("classify", photos, "--head", "logistic", *SETTINGS, *views)
    assert result.exit_code == 0, result.output
    assert sorted(name for name in files_read if name.endswith(".h5")) == shards
