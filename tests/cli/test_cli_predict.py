"""`pipeline predict`: answers as they come, in little memory, kept where it is stopped."""

import csv
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import CountingBackbone, paint
from rich.console import Console
from typer.testing import CliRunner

from pipeline.backbones.registry import make_recipe
from pipeline.cli.listening import TerminalListener
from pipeline.cli.main import app
from pipeline.features import computing
from pipeline.heads.registry import HEADS
from pipeline.models.model import Model, Prediction

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


def rows_of(form, text):
    """Read what was printed; a table has a heading and a line for each picture."""
    if form == "--json":
        return [item["path"] for item in json.loads(text)]
    if form == "--csv":
        return [row["path"] for row in csv.DictReader(io.StringIO(text, newline=""))]
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
