"""The program of a folder that is handed on: answers as they come, as `pipeline predict` gives."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import paint
from onnx import helper
from PIL import Image
from portables import SIDE, described, graph, model
from typer.testing import CliRunner

import pipeline
from pipeline.backbones.registry import make_recipe
from pipeline.cli.main import app
from pipeline.models import standalone


@pytest.fixture
def program(tmp_path):
    """The program beside a model, as in a folder that is handed on."""
    folder = tmp_path / "handed on"
    folder.mkdir()
    shutil.copyfile(standalone.__file__, folder / "predict.py")
    recipe = asdict(make_recipe(size=SIDE, precision="float32"))
    (folder / "model.onnx").write_bytes(described(recipe=recipe))
    return folder / "predict.py"


@pytest.fixture
def pictures(tmp_path):
    """A folder with pictures, and much else."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    red = paint(folder / "red.png", (200, 60, 60), seed=0)
    paint(folder / "more" / "blue.jpg", (60, 60, 200), seed=1)
    shutil.copyfile(red, folder / ".hidden" / "red.png")
    (folder / "late.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (folder / "Thumbs.db").write_bytes(b"of the system")
    (folder / "notes.txt").write_text("no picture")
    return folder


def started(program, *arguments):
    command = [sys.executable, program, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes)


def run(program, *arguments):
    process = started(program, *arguments)
    text, errors = process.communicate(timeout=60)
    return process.returncode, text, errors


def test_a_folder_is_answered_as_by_pipeline_predict(program, pictures):
    given = [pictures, pictures / "more" / "blue.jpg", pictures / "none.png"]
    code, text, errors = run(program, *given, "--json")
    command = ["predict", program.parent / "model.onnx", *given, "--json"]
    expected = CliRunner().invoke(app, [*map(str, command)])
    assert (code, expected.exit_code) == (3, 3)
    found, own = json.loads(text), json.loads(expected.stdout)
    for item in (*found, *own):
        item["error"] = bool(item["error"])
    assert found == own
    assert len(found) == 5
    assert all(f"{name}: " in errors for name in ("late.jpg", "notes.txt", "none.png"))
    assert "skipped: " in errors
    code, text, _ = run(program, *given)
    assert code == 3
    assert [line.split("\t")[1] for line in text.splitlines()] == ["red", "blue"]


def test_without_what_it_needs_it_says_what_to_install(program, pictures):
    bare = [sys.executable, "-S", program, pictures]  # without any installed package
    root = {**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[1])}
    done = subprocess.run(bare, check=False, env=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(
        r"Error: the package \w+ is not installed\.\n"
        r'  Do: ".+" -m pip install -r ".+handed on.requirements\.txt"\n',
        done.stderr,
    )


def test_what_is_no_folder_of_pictures_is_one_error(program, tmp_path):
    (tmp_path / "empty").mkdir()
    code, text, errors = run(program, tmp_path / "empty", "--json")
    assert (code, text) == (1, "")
    assert errors.startswith("Error: there are no images in the folders named")


def test_the_answers_before_an_error_are_printed(program, tmp_path, pictures):
    nodes = [  # for black, 0 / 0
        helper.make_node("ReduceSum", ["colours"], ["sum"], keepdims=0),
        helper.make_node("Div", ["sum", "sum"], ["one"]),
        helper.make_node("Mul", ["p", "one"], ["q"]),
    ]
    content = described(model(graph(nodes, output="q")))
    (program.parent / "model.onnx").write_bytes(content)
    black = tmp_path / "black.png"
    Image.new("RGB", (32, 32)).save(black)
    code, text, errors = run(program, pictures / "red.png", black, "--json")
    assert code == 1
    assert [item["label"] for item in json.loads(text)] == ["red"]
    assert "does not give probabilities" in errors
    assert "Traceback" not in errors


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
@pytest.mark.parametrize(
    ("options", "stop", "code"),
    [([], signal.SIGINT, 130), (["--json"], signal.SIGINT, 130), (["--json"], signal.SIGTERM, 143)],
)
def test_each_answer_is_printed_before_the_next_and_a_stop_keeps_them(
    program, tmp_path, pictures, options, stop, code
):
    many = tmp_path / "many"
    many.mkdir()
    for number in range(20_000):
        os.link(pictures / "red.png", many / f"{number}.png")
    process = started(program, many, *options)
    first = process.stdout.readline()
    process.send_signal(stop)
    whole, errors = first + process.stdout.read(), process.stderr.read()
    assert process.wait(timeout=60) == code
    assert "Traceback" not in errors
    items = json.loads(whole) if options else whole.splitlines()
    assert 0 < len(items) < 20_000


def test_a_reader_that_goes_is_no_error(program, pictures):
    process = started(program, *[pictures / "red.png"] * 2000)
    process.stdout.readline()
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(timeout=60)
