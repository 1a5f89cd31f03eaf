"""`pipeline finetune` and `pipeline augment`: what is said, exit codes, and real processes."""

import contextlib
import csv
import hashlib
import importlib
import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import paint, paint_classes
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from pipeline import report
from pipeline.backbones.registry import make_recipe
from pipeline.cli import main as cli
from pipeline.cli import terminal
from pipeline.data.augmentation import PRESETS, Augmentation
from pipeline.data.images import decode
from pipeline.data.views import apply, draw
from pipeline.finetuning import experiment as finetuning
from pipeline.finetuning import training
from pipeline.models import network
from pipeline.models.network import Network

commands = importlib.import_module("pipeline.cli.finetune")  # as an attribute, it is the command

SETTINGS = ["--size", "32", "--precision", "float32", "--units", "16"]
QUICK = ["--unfreeze", "block5_conv3", "--epochs", "2", "--frozen-epochs", "2"]


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    """Work in an empty folder; leave the process's signal handlers as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(report, "draw_confusion", lambda *args: args[-1].touch())
    monkeypatch.setattr(report, "draw_history", lambda *args: None)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def photos(tmp_path):
    return paint_classes(tmp_path / "photos", 14)


def run(*arguments):
    """Run a command in this process."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def finetune(photos, *options):
    return run("finetune", photos, *SETTINGS, *QUICK, *options)


# --- what is shown ----------------------------------------------------------------------------


def test_the_summary_has_every_layer_and_the_recipe_s_parameter_counts(capsys):
    recipe = make_recipe(layer="block4_pool", size=150, precision="float32")
    network = Network(recipe, 2, weights=None)
    network.freeze(upper=False)
    commands._print_network(network)
    shown = capsys.readouterr().err
    assert "16,812,353 parameters: 9,177,089 are trained, 7,635,264 are frozen" in shown
    rows = {line.split()[0]: line for line in shown.splitlines()}
    assert re.fullmatch(r"block4_conv3 +18 x 18 x 512 +2,359,808 +frozen *", rows["block4_conv3"])
    assert re.fullmatch(r"block5_conv1 +9 x 9 x 512 +2,359,808 +trained *", rows["block5_conv1"])
    assert re.fullmatch(r"block5_pool +4 x 4 x 512 +0 *", rows["block5_pool"])
    assert re.fullmatch(r"hidden +256 +2,097,408 +trained *", rows["hidden"])
    network.freeze(upper=True)
    commands._print_network(network)
    shown = capsys.readouterr().err
    assert "16,812,353 parameters: 2,097,665 are trained, 14,714,688 are frozen" in shown


def test_it_shows_data_plan_layers_epochs_and_the_result_in_this_order(photos):
    result = finetune(photos)
    assert result.exit_code == 0
    expected = [
        r"28 images +train +validation +test",
        r"vgg16 up to block5_conv2, 32 x 32 pixels, float32: 0 rows are stored, 28 are missing",
        r"layer +output +parameters",
        r"[\d,]+ parameters: 2,368,033 are trained, 12,354,880 are frozen",
        r"frozen base, epoch 1: loss [\d.]+, accuracy [\d.]+; on validation [\d.]+, [\d.]+",
        r"frozen base, epoch 2: ",
        r"fine-tuning, epoch 1: ",
        r"fine-tuning, epoch 2: ",
    ]
    places = [re.search(line, result.stderr).start() for line in expected]
    assert places == sorted(places)
    assert "random weights" not in result.stderr
    assert re.search(r"finetuned \* +[\d.]+", result.stdout)
    assert "runs/photos" in result.stdout
    assert (Path("runs") / "photos" / "models" / "finetuned" / "model.keras").exists()


def test_json_is_all_of_standard_output_and_is_that_of_the_run(photos):
    result = finetune(photos, "--phase", "frozen", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document == json.loads(Path("runs/photos/run.json").read_text())
    [head] = document["heads"]
    assert head["head"] == "finetuned"
    assert head["parameters"]["phase"] == "frozen"
    assert head["parameters"]["frozen"]["learning_rate"] == 1e-4


def test_a_finetuned_run_predicts_like_any_other(photos):
    said = finetune(photos, "--phase", "finetune").stderr
    assert "The head starts from random weights" in said
    result = run("predict", "runs/photos", photos / "red", "--json")
    assert result.exit_code == 0
    said = {item["path"]: item["probabilities"] for item in json.loads(result.stdout)}
    with open("runs/photos/predictions.csv", newline="") as file:  # noqa: PTH123
        rows = [row for row in csv.DictReader(file) if row["label"] == "red"]
    assert len(said) == len(rows) == 14
    for row in rows:
        expected = float(row["probability of red"])
        assert said[row["path"]]["red"] == pytest.approx(expected, abs=1e-6)


def test_choices_and_defaults_are_those_of_the_code_beneath():
    assert tuple(commands.Source) == finetuning.SOURCES
    assert set(commands.Phase) == set(finetuning.PHASES)
    assert tuple(commands.Pool) == network.POOLS
    assert tuple(commands.Optimizer) == training.OPTIMIZERS
    assert tuple(commands.Schedule) == training.SCHEDULES
    shown = " ".join(run("finetune", "--help").stdout.split())
    settings = finetuning.Finetuning()
    for name, value in {
        "unfreeze": settings.unfreeze,
        "from": settings.source,
        "phase": settings.phase,
        "pool": settings.pool,
        "units": settings.units,
        "dropout": settings.dropout,
        "batch-size": settings.batch_size,
        "epochs": settings.joint.epochs,
        "frozen-epochs": settings.frozen.epochs,
        "learning-rate": settings.joint.learning_rate,
        "frozen-learning-rate": settings.frozen.learning_rate,
        "optimizer": settings.joint.optimizer,
        "schedule": settings.joint.schedule,
        "patience": settings.joint.patience,
    }.items():
        assert re.search(rf" --{name} <[^>]+> [^\[]*\[default: {value}\]", shown), name
    assert "--layer" not in shown


@pytest.mark.parametrize("interactive", [False, True])
def test_one_bar_after_the_other_is_shown(interactive, monkeypatch):
    """Two at once are an error of the library that draws them."""
    console = Console(file=io.StringIO(), force_terminal=interactive, width=80, highlight=False)
    for module in (terminal, commands):
        monkeypatch.setattr(module, "err", console)
    open_now = []

    @contextlib.contextmanager
    def alone():
        assert not open_now
        with terminal.progress() as on_progress:
            open_now.append(1)
            yield on_progress
            open_now.pop()

    monkeypatch.setattr(commands, "progress", alone)
    clock = itertools.count(step=20)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with commands._Bars() as bars:
        for part, first in (("features", 0), ("frozen", 20), ("finetune", 0)):
            for done in range(first, 101, 20):
                bars.show(part, done, 100)
    shown = console.file.getvalue()
    assert "frozen base: going on after 20 of 100 images" in shown
    assert "fine-tuning: going on" not in shown
    assert ("\x1b[" in shown) == interactive
    if not interactive:  # what was done before this start is not counted as its speed
        assert "60 of 80" in shown


# --- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--unfreeze", "nope"], r"'nope'(.|\n)*block1_conv2, (.|\n)*block5_conv3"),
        (["--unfreeze", "block1_conv1"], r"'block1_conv1'(.|\n)*block1_conv2"),
        (["--epochs", "0"], "0 epochs"),
        (["--frozen-epochs", "-1"], "-1 epochs"),
        (["--learning-rate", "0"], r"learning rate 0\.0"),
        (["--learning-rate", "-1e-5"], "learning rate -1e-05"),
        (["--frozen-learning-rate", "nan"], "learning rate nan"),
        (["--patience", "0"], "patience 0"),
        (["--batch-size", "0"], "batch size 0"),
        (["--dropout", "1"], r"dropout 1\.0"),
        (["--units", "0"], "0 units"),
        (["--augmentation", "mild"], "need more than one view"),
        (["--views", "2", "--augmentation", "mild", "--augmentation", "recipe"], "takes one"),
        (["--from", "images", "--views", "4"], "without --tta"),
        (["--from", "images", "--tta"], "with --tta"),
        (["--from", "images", "--precision", "int8"], "int8 is for cached rows"),
        (["--head", "nowhere"], "there is no model in nowhere"),
    ],
)
def test_a_slip_is_one_error_and_nothing_is_computed(photos, options, message, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("nothing is to be computed")

    monkeypatch.setattr(finetuning, "extract", no_network)
    monkeypatch.setattr(finetuning, "find_unreadable", no_network)
    result = finetune(photos, *options)
    assert result.exit_code == 1
    assert re.search(message, result.stderr)
    assert result.stdout == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "options", [["--from", "disk"], ["--phase", "all"], ["--pool", "sum"], ["--seed", "-1"]]
)
def test_a_value_that_an_option_cannot_have_is_wrong_usage(photos, options):
    result = finetune(photos, *options)
    assert result.exit_code == 2
    assert options[0] in result.stderr


def test_a_run_s_dense_head_is_started_from_and_one_that_does_not_fit_is_refused(photos):
    same = ["--size", "32", "--precision", "float32"]
    assert run("classify", photos, *same, "--head", "dense", "--name", "dense").exit_code == 0
    assert run("classify", photos, *same, "--head", "logistic", "--name", "other").exit_code == 0
    started = finetune(photos, "--head", "runs/dense", "--name", "tuned")
    assert started.exit_code == 0
    assert "frozen base, epoch" not in started.stderr
    assert re.search(r"hidden +256 +131,328 +trained", started.stderr)
    for options, message in {
        ("--head", "runs/dense", "--size", "64"): r"at 32 pixels(.|\n)*at 64 pixels(.|\n)*--size",
        ("--head", "runs/dense", "--scaling", "unit"): r"scaling caffe(.|\n)*scaling unit",
        ("--head", "runs/dense/models/dense", "--phase", "frozen"): "nothing to do in phase frozen",
        ("--head", "runs/other"): "has no head 'dense'",
        ("--head", "runs/other/models/logistic"): r"of the kind logistic(.|\n)*--head dense",
        ("--head", "runs/tuned"): "has no head 'dense'",
    }.items():
        refused = finetune(photos, *options)
        assert refused.exit_code == 1
        assert re.search(message, refused.stderr), options
    (photos / "green").mkdir()
    for number in range(6):
        paint(photos / "green" / f"{number}.png", (70, 180, 70), number)
    refused = finetune(photos, "--head", "runs/dense")
    assert refused.exit_code == 1
    assert "tells blue, red apart; the data has blue, green, red" in refused.stderr


@pytest.mark.parametrize("source", ["cache", "images"])
def test_an_image_that_cannot_be_used_is_listed_and_shows_in_the_exit_code(photos, source):
    (photos / "red" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no picture")
    options = ["--from", source, "--phase", "frozen"]
    result = finetune(photos, *options)
    assert result.exit_code == cli.SOME_FILES_UNUSABLE
    assert re.search(r"1 file skipped:\n +photos/red/bad\.png|.*red/bad\.png", result.stderr)
    assert "red/bad.png" in result.stderr
    strict = finetune(photos, *options, "--strict")
    assert strict.exit_code == 1
    assert re.search(r"1 files cannot be used:(.|\n)*red/bad\.png", strict.stderr)


def test_a_learning_rate_that_is_far_too_large_and_a_damaged_checkpoint_are_one_error_each(photos):
    result = finetune(photos, "--learning-rate", "1e38")
    assert result.exit_code == 1
    assert re.search(r"Error: .*(at step \d+ of|after) epoch \d+; .*finetune\.npz", result.stderr)
    assert "To do: lower the learning rate" in result.stderr
    [unfinished] = Path("runs").glob(".finetune-*")
    assert (unfinished / "frozen.npz").exists()
    again = finetune(photos, "--learning-rate", "1e38")
    assert again.exit_code == 1
    assert "frozen base, epoch" not in again.stderr
    checkpoint = unfinished / "frozen.npz"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (content, content[:1000]):
        checkpoint.write_bytes(damaged)
        refused = finetune(photos, "--learning-rate", "1e38")
        assert refused.exit_code == 1
        assert f"Error: the checkpoint {checkpoint} cannot be used" in refused.stderr
        assert "To do: delete it" in refused.stderr


# --- real processes ---------------------------------------------------------------------------


_WORKER = """
import sys
from pipeline.finetuning import training
training._CHECKPOINT_SECONDS = 0.0
from pipeline.cli import main
main()
"""


class Process:
    """The command in a process of its own, which writes a checkpoint after each step."""

    def __init__(self, arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_a_step_of(self, phase, seconds=120):
        """Wait until a checkpoint of a phase is written by this process."""
        since = time.time()
        while time.time() < since + seconds:
            assert self.process.poll() is None, self.process.communicate()
            for file in Path("runs").glob(f".finetune-*/{phase}.npz"):
                with contextlib.suppress(FileNotFoundError):
                    if file.stat().st_mtime > since:
                        return
            time.sleep(0.01)
        raise AssertionError("it takes too long")

    def end(self, signal_number=None):
        if signal_number:
            self.process.send_signal(signal_number)
        out, error = self.process.communicate(timeout=120)
        return self.process.returncode, out, error


def weights(run):
    found = {}
    with h5py.File(run / "models" / "finetuned" / "head.weights.h5") as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]} if hasattr(item, "dtype") else {})
        )
    return found


def test_killed_at_random_moments_it_goes_on_to_the_bits_of_a_run_that_nobody_disturbed(photos):
    """Twice by SIGKILL, once by Ctrl-C; and TensorFlow's start is silent."""
    seed = int.from_bytes(os.urandom(4))
    print("moments follow from", seed)
    moment = random.Random(seed)
    command = ["finetune", photos, *SETTINGS, "--unfreeze", "block5_conv3", "--dropout", "0.3"]
    # Long enough not to be over before the signal comes, on a machine that has much else to do.
    command += ["--batch-size", "3", "--epochs", "60", "--patience", "60", "--frozen-epochs", "5"]
    assert run(*command, "--name", "undisturbed").exit_code == 0
    undisturbed = Path("runs/undisturbed")

    command += ["--name", "killed"]
    for phase in ("frozen", "finetune"):
        process = Process(command)
        process.wait_for_a_step_of(phase)
        time.sleep(moment.uniform(0, 0.3))
        assert process.end(signal.SIGKILL)[0] == -signal.SIGKILL
    process = Process(command)
    process.wait_for_a_step_of("finetune")
    code, out, error = process.end(signal.SIGINT)
    assert (code, out) == (130, "")
    assert error.endswith(
        "Stopped. Features and the last minute's checkpoint are kept: the same command goes on "
        "from there.\n"
    )
    assert not Path("runs/killed").exists()

    code, out, error = Process(command).end()
    assert code == 0, error
    assert "fine-tuning: going on after" in error
    assert "frozen base, epoch" not in error
    noise = r"(?i)tensorflow|keras|onednn|cuda|rebuild|warning|^[IWEF]\d{4}|0000 00:00"
    assert not re.search(noise, error, re.MULTILINE), error
    assert not list(Path("runs").glob(".finetune-*"))

    ours, theirs = weights(Path("runs/killed")), weights(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert len(theirs) >= 6
    for file in ("predictions.csv",):
        assert Path("runs/killed", file).read_bytes() == (undisturbed / file).read_bytes()
    [one], [other] = (
        json.loads(Path("runs", name, "run.json").read_text())["heads"]
        for name in ("killed", "undisturbed")
    )
    assert one["history"] == other["history"]
    assert one["unfrozen_after"] == other["unfrozen_after"] == [5]


# --- augment ----------------------------------------------------------------------------------


def test_a_sheet_of_views_is_a_picture_with_a_tile_for_each(photos):
    image = photos / "red" / "000.png"
    result = run("augment", image, "--views", "12", "--out", "sheet.png")
    assert result.exit_code == 0
    assert result.stdout == "12 views in sheet.png; the first is the image itself\n"
    with Image.open("sheet.png") as sheet:
        assert sheet.format == "PNG"
        pixels = np.asarray(sheet.convert("RGB"))
    rows, columns = 3, 4
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    assert (height, width) == (337, 300)
    tiles = [
        pixels[row * height + 60 :, column * width + 40 :][: height - 90, : width - 80]
        for row in range(rows)
        for column in range(columns)
    ]
    assert all(np.median(tile[..., 0]) > np.median(tile[..., 2]) + 50 for tile in tiles)
    assert len({tile.tobytes() for tile in tiles}) == 12


@pytest.mark.parametrize(
    ("options", "augmentation"),
    [
        ([], PRESETS["recipe"]),
        (["--augmentation", "mild"], PRESETS["mild"]),
        (["--augmentation", "rotation=10"], Augmentation(rotation=10)),
        (["--augmentation", "none"], Augmentation()),
    ],
)
def test_the_views_on_a_sheet_are_those_that_training_sees(
    photos, options, augmentation, monkeypatch
):
    drawn = []
    monkeypatch.setattr(report, "draw_sheet", lambda pictures, file: drawn.append(pictures))
    image = photos / "red" / "000.png"
    assert run("augment", image, "--views", "5", "--size", "64", *options).exit_code == 0
    picture = decode(image.read_bytes(), 64)
    digest = hashlib.sha256(image.read_bytes()).digest()
    expected = [
        picture,
        *(apply(picture, draw(augmentation, digest, view)) for view in range(1, 5)),
    ]
    assert np.array_equal(drawn[0], expected)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--views", "0"], 2, "--views"),
        (["--size", "0"], 2, "--size"),
        (["--out", "sheet.txt"], 2, r"sheet\.txt is no name of a PNG file"),
        (["--out", "photos/red/000.png"], 2, "is the image itself"),
        (["--out", "nowhere/sheet.png"], 1, r"cannot write nowhere/sheet\.png: No such file"),
        (["--out", "photos.png"], 1, r"cannot write photos\.png: Is a directory"),
        (["--augmentation", "wild"], 1, r"'wild'(.|\n)*recipe, mild, none"),
        (["--augmentation", "rotation=x"], 1, "rotation is 'x'"),
    ],
)
def test_a_sheet_that_cannot_be_drawn_is_one_error(photos, options, code, message):
    Path("photos.png").mkdir()
    before = (photos / "red" / "000.png").read_bytes()
    result = run("augment", "photos/red/000.png", *options)
    assert result.exit_code == code
    assert re.search(message, result.stderr)
    assert result.stdout == ""
    assert (photos / "red" / "000.png").read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\x1a\n and no picture"])
def test_an_image_that_cannot_be_read_is_one_error(tmp_path, content):
    if content is not None:
        (tmp_path / "bad.png").write_bytes(content)
    result = run("augment", "bad.png", "--out", "sheet.png")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "bad.png" in result.stderr
    assert not Path("sheet.png").exists()
