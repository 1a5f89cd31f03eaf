"""`pipeline predict`: answers as they come, in little memory, kept where it is stopped."""

import csv
import dataclasses
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import CountingBackbone, classify, paint
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from pipeline import heat_map
from pipeline.analysis import heat_maps
from pipeline.backbones.registry import make_recipe
from pipeline.cli.listening import TerminalListener
from pipeline.cli.main import app
from pipeline.errors import ImageError
from pipeline.features import computing
from pipeline.features.extractor import Extractor
from pipeline.heads.registry import HEADS
from pipeline.models import model as models
from pipeline.models.model import Model, Prediction
from pipeline.report import map_files

TESTS = str(Path(__file__).parent.parent)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of rows that the stand-in computes."""
    folder = tmp_path_factory.mktemp("models") / "model"
    recipe = make_recipe(size=64, precision="float32")
    rows = np.random.default_rng(0).random((40, 2048), np.float32)
    head = HEADS["logistic"].build(0).fit(rows, np.arange(40) % 2)
    Model(recipe, "logistic", ("blue", "red"), head).save(folder)
    return folder


@pytest.fixture
def many(tmp_path):
    """A folder of many names for one picture."""

    def link(count):
        picture = paint(tmp_path / "picture.png", (180, 70, 70), seed=0)
        folder = tmp_path / f"{count} pictures"
        folder.mkdir()
        for number in range(count):
            os.link(picture, folder / f"{number:05}.png")
        return folder

    return link


@pytest.fixture
def run(monkeypatch):
    """Run the command in this process, with a stand-in for the network."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(
        computing, "load_backbone", lambda recipe, *_, **__: CountingBackbone(recipe)
    )

    def invoke(*arguments):
        result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


STOPPED = f"""
import signal, sys
sys.path.insert(0, {TESTS!r})
from conftest import CountingBackbone
import pipeline.cli.main
from pipeline.features import computing
from pipeline.heads.registry import HEADS
from pipeline.models.model import Model, Prediction

stop = getattr(signal, sys.argv.pop())
computing.PIXELS_PER_BATCH = 64 * 64 ** 2

class Stopping(CountingBackbone):
    def __call__(self, pixels):
        if len(self.batches) == 2:
            signal.raise_signal(stop)
        return super().__call__(pixels)

# Whoever started the tests may ignore Ctrl-C, and that would be inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
computing.load_backbone = lambda recipe, *_, **__: Stopping(recipe)
pipeline.cli.main.main()
"""


def items_of(form, text):
    return (
        json.loads(text) if form == "--json" else [*csv.DictReader(io.StringIO(text, newline=""))]
    )


def rows_of(form, text):
    """Read what was printed; a table has a heading and a line for each picture."""
    if form == "--json":
        return [item["path"] for item in items_of(form, text)]
    if form == "--csv":
        return [row["path"] for row in items_of(form, text)]
    return [line for line in text.splitlines() if ".png" in line]


@pytest.mark.parametrize(
    ("form", "stop", "code"),
    [
        ("--csv", "SIGINT", 130),
        ("--csv", "SIGKILL", -9),  # each line has left the process when the next batch begins
        ("--json", "SIGTERM", 143),
        (None, "SIGINT", 130),
    ],
)
def test_what_was_predicted_before_a_stop_is_printed(model, many, form, stop, code):
    pictures = many(300)
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, "predict", model, pictures, *[form][: bool(form)], stop],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    found = rows_of(form, done.stdout)
    assert len(found) == 128
    if form:
        assert found == [str(path) for path in sorted(pictures.iterdir())[:128]]
    if code > 0:
        assert done.stderr == "Stopped. The predictions so far are printed.\n"


def test_a_stop_before_the_first_answer_prints_nothing(run, model, photos, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(computing, "load_backbone", stopped)
    for form in (["--csv"], ["--json"], []):
        done = run(model, photos, *form)
        assert (done.exit_code, done.stdout) == (130, "")


@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_memory_does_not_grow_with_the_number_of_images(run, model, many, monkeypatch, form):
    monkeypatch.setattr(computing, "PIXELS_PER_BATCH", 16 * 64**2)
    peaks = []
    for count in (100, 200, 1500):  # the first also imports
        folder = many(count)
        tracemalloc.start()
        done = run(model, folder, form)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(rows_of(form, done.stdout)) == count
    # The pixels of 1,300 pictures more would be 16 MB, their rows 11 MB; names and output are 1.4.
    assert peaks[2] - peaks[1] < 4e6


class Terminal(io.StringIO):
    """Both streams on one terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(("streams", "bar"), [(True, False), (False, True)])
def test_no_bar_runs_through_results_that_come_on_the_same_terminal(monkeypatch, streams, bar):
    screen = Terminal()
    monkeypatch.setattr("pipeline.cli.terminal.err", Console(file=screen, force_terminal=True))
    monkeypatch.setattr("pipeline.cli.terminal.out", Console(file=screen, force_terminal=True))
    with TerminalListener(unit="images", streams=streams) as listener:
        listener.rows_made(1, 2)
    assert ("images" in screen.getvalue()) == bar


def test_what_is_printed_into_a_file_does_not_go_to_the_bars_terminal(monkeypatch):
    screen, file = Terminal(), io.StringIO()
    monkeypatch.setattr("pipeline.cli.terminal.err", Console(file=screen, force_terminal=True))
    monkeypatch.setattr(sys, "stdout", file)
    with TerminalListener(unit="images", streams=True) as listener:
        listener.rows_made(1, 2)
        print("a line")
    assert file.getvalue() == "a line\n"
    assert "images" in screen.getvalue()


@pytest.mark.parametrize("loaded", [True, False])
def test_how_to_predict_without_tensorflow_is_said_where_it_was_loaded(
    run, model, photos, monkeypatch, loaded
):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    if loaded:
        monkeypatch.setitem(sys.modules, "tensorflow", None)
    result = run(model, photos)
    assert (f"pipeline export {model}" in result.stderr) == loaded
    assert "export" not in result.stdout + run(model, photos, "--csv").stderr


def test_a_model_in_8_bits_is_not_proposed_for_a_file_that_it_cannot_be(
    run, model, photos, monkeypatch
):
    loaded = Model.load(model)
    recipe = dataclasses.replace(loaded.recipe, precision="int8")
    coarse = dataclasses.replace(loaded, recipe=recipe)
    monkeypatch.setattr("pipeline.models.opening.load_model", lambda *_, **__: coarse)
    monkeypatch.setattr(Model, "predict", lambda *_, **__: answers)
    answers = [Prediction(photos, "red", {"blue": 0.1, "red": 0.9})]
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    result = run(model, photos)
    assert (result.exit_code, "red" in result.stdout) == (0, True)
    assert "export" not in result.stderr


# --- maps ---------------------------------------------------------------------------------


_MAPS_IN_MAPS = "maps in maps: orange speaks for the predicted class, blue against it\n"


def test_maps_are_written_beside_the_answers_that_are_always_given(run, model, photos):
    plain, result = run(model, photos), run(model, photos, "--maps", "new/maps")
    assert (result.exit_code, result.stdout) == (0, plain.stdout)
    assert result.stderr.splitlines()[-1] == (
        "maps in new/maps: orange speaks for the predicted class, blue against it"
    )
    files = sorted(Path("new/maps").iterdir())
    assert len(files) == 40
    for file in files:
        with Image.open(file) as picture:
            assert (picture.format, picture.size) == ("JPEG", (48, 48))


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_each_answer_names_the_map_of_its_class(run, model, photos, form):
    result = run(model, photos, form, "--maps", "maps")
    loaded, seen = Model.load(model), 0
    extractor = Extractor(forward=CountingBackbone(loaded.recipe))
    for item in items_of(form, result.stdout):
        expected = heat_map(loaded, item["path"], extractor=extractor)
        assert expected.label == (item["label"] if form == "--json" else item["predicted"])
        assert Path(item["map"]).read_bytes() == expected.over(item["path"])
        seen += 1
    assert seen == 40
    without = run(model, photos, form).stdout
    assert "map" not in (json.loads(without)[0] if form == "--json" else without.splitlines()[0])


def test_the_network_sees_each_image_once(run, model, photos, networks):
    run(model, photos, "--maps", "maps")
    assert sum(network.images for network in networks) == 40


NAMES = [
    "a/001.png", "b/001.png", "c/001.PNG", "c/001-2.png", "d/001-2.png", "a b #?%.png", "con.png",
    "NUL.1.png", "...png", "..png", "-rf.png", "line\nbreak.png", "Übung.png", "U\u0308bung.png",
    "übung.png", "写真.png", "写" * 80 + ".png", "e/" + "写" * 80 + ".png", "<b>.png",
    "\\..\\x.png",
    os.fsdecode(b"bytes\xff.png"), "=1+1.png",
]  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="such names are not allowed there")
def test_maps_have_names_of_their_own_inside_the_folder_and_harmless_anywhere(run, model, tmp_path):
    content = paint(tmp_path / "picture.png", (180, 70, 70), seed=0).read_bytes()
    pictures = [tmp_path / "in" / name for name in NAMES]
    for picture in pictures:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(content)
    before = set(tmp_path.rglob("*"))
    result = run(model, *pictures, "--json", "--maps", tmp_path / "maps")
    assert (result.exit_code, result.stderr.count("skipped")) == (0, 0)
    files = [Path(item["map"]) for item in json.loads(result.stdout)]
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "maps", *files}
    assert {file.parent for file in files} == {tmp_path / "maps"}
    assert len({file.name.casefold() for file in files}) == len(NAMES)
    for file in files:
        assert re.fullmatch(r"\w[\w.-]*\.jpg", file.name)
        assert len(file.name.encode()) < 200
        assert not re.match(r"(con|nul)\.", file.name, re.IGNORECASE)
    assert [file.name for file in files[:5]] == [
        "001.jpg", "001-2.jpg", "001-3.jpg", "001-2-2.jpg", "001-2-3.jpg"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("photos", "is not empty"),
        ("photos/red/000.png", "cannot write into"),
        ("photos/red/000.png/maps", "cannot write into"),
    ],
)
@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_a_folder_for_maps_that_cannot_be_used_is_refused_before_any_image_is_classified(
    run, model, photos, networks, folder, message, form
):
    before = sorted(photos.rglob("*"))
    result = run(model, photos, *form, "--maps", photos.parent / folder)
    assert sorted(photos.rglob("*")) == before
    assert (result.exit_code, result.stdout, networks) == (1, "", [])
    assert message in result.stderr
    assert "To do: name another folder" in result.stderr


def test_a_url_is_no_folder_for_maps(run, model, photos):
    result = run(model, photos, "--maps", "s3://bucket/maps")
    assert result.exit_code == 2
    assert list(Path.cwd().iterdir()) == []


def test_a_model_beside_its_exported_file_is_what_classifies_and_is_mapped(
    run, model, photos, monkeypatch
):
    loaded = Model.load(model)
    kept = dataclasses.replace(loaded, estimator=None, original=lambda: loaded)
    monkeypatch.setattr("pipeline.models.opening.load_model", lambda *_, **__: kept)
    by_file = property(lambda self: "" if self.estimator else "classified by the exported file")
    monkeypatch.setattr(Model, "remark", by_file)
    result = run(model, photos, "--maps", "maps")
    assert (result.exit_code, result.stderr) == (0, _MAPS_IN_MAPS)
    assert len(list(Path("maps").iterdir())) == 40


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_a_bad_image_costs_only_its_own_map(run, model, tmp_path, monkeypatch, form):
    good = [paint(tmp_path / f"{name}.png", (180, 70, 70), seed=0) for name in "abc"]
    (tmp_path / "b.png").write_bytes(b"no image")
    read = map_files.read_picture

    def gone(image):
        if image == good[2]:
            raise ImageError("cannot be read: it has gone")
        return read(image)

    monkeypatch.setattr(map_files, "read_picture", gone)
    result = run(model, tmp_path, form, "--maps", "maps")
    assert result.exit_code == 3
    assert [file.name for file in Path("maps").iterdir()] == ["a.jpg"]
    items = items_of(form, result.stdout)
    assert [bool(item["map"]) for item in items] == [True, False, False]
    assert [bool(item["error"]) for item in items] == [False, True, True]
    assert items[2]["error"] == "its map cannot be drawn: cannot be read: it has gone"
    assert items[2]["label" if form == "--json" else "predicted"]
    assert "2 files skipped" in result.stderr


def test_maps_take_long_so_each_moves_the_bar_on(run, model, photos, monkeypatch):
    heard = []
    monkeypatch.setattr(TerminalListener, "rows_made", lambda _, done, total: heard.append(done))
    run(model, photos, "--json", "--maps", "maps")
    assert heard == [0, *range(1, 41), 40]


def test_a_picture_behind_a_url_is_fetched_once_more_for_its_map(run, model, photos, monkeypatch):
    fetched, read = [], models.read_image
    monkeypatch.setattr(models, "read_image", lambda file: fetched.append(file) or read(file))
    monkeypatch.setattr(heat_maps, "_has_places", lambda _: False)
    run(model, photos / "red" / "000.png", "--maps", "maps")
    assert len(fetched) == len(list(Path("maps").iterdir())) == 1


def test_a_full_disk_ends_the_maps_with_an_error_and_keeps_what_was_printed(
    run, model, photos, monkeypatch
):
    write, written = map_files.write_file, []

    def full(path, content, **more):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        written.append(write(path, content, **more))

    monkeypatch.setattr(map_files, "write_file", full)
    result = run(model, photos, "--json", "--maps", "maps")
    assert result.exit_code == 1
    assert "cannot write maps" in result.stderr
    assert "No space left on device" in result.stderr
    assert len(json.loads(result.stdout)) == len(list(Path("maps").iterdir())) == 3


def test_an_export_is_not_proposed_where_maps_need_the_network_all_the_same(
    run, model, photos, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert "export" not in run(model, photos, "--maps", "maps").stderr


@pytest.fixture
def trained(dataset, recipe, backbone, tmp_path):
    """Make a run of 40 pictures, 10 of them to be tested on."""

    def make(**protocol):
        kept = {"cache": tmp_path / "cache", "runs": tmp_path / "runs"}
        return classify(dataset, "logistic", recipe=recipe, forward=backbone, **kept, **protocol)

    return make


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
@pytest.mark.parametrize(
    ("protocol", "known"),
    [({"splits": True}, 30), ({"splits": True, "search": True}, 30), ({"cv": 3}, 40)],
)
@pytest.mark.parametrize("cache", ["cache", "elsewhere"])
def test_it_says_how_many_pictures_the_model_was_trained_on(
    run, trained, dataset, tmp_path, protocol, known, form, cache
):
    made = trained(**protocol)
    copies = tmp_path / "copies"  # known by what is in them
    copies.mkdir()
    for number, path in enumerate(dataset.paths):
        (copies / f"{number}.png").write_bytes(path.read_bytes())
    paint(copies / "new.png", (180, 70, 70), 5000)
    done = run(made.folder, copies, "--cache", tmp_path / cache, *form)
    said = " ".join(done.stderr.split())
    assert f"Of 41 images, {known} were used to train this model or to choose it" in said


def test_of_new_pictures_and_of_older_runs_nothing_is_said(run, trained, dataset, tmp_path):
    made, new = trained(splits=True), paint(tmp_path / "new.png", (180, 70, 70), 5000)
    old = dataset.paths[dataset.where("train")[0]]
    for place in (made.folder, made.folder / "models" / "logistic"):
        assert "were used" not in run(place, new).stderr
        said = " ".join(run(place, old).stderr.split())
        assert "Of 1 image, 1 was used to train this model or to choose it, so its answer" in said
    (made.folder / "trained-on.bin").unlink()
    assert "used to train" not in run(made.folder, old).stderr
