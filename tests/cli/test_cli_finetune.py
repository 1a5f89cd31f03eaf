"""`pipeline finetune`: what is shown, exit codes, and real processes."""

import contextlib
import csv
import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import run_command as run
from conftest import paint, paint_classes
from rich.console import Console

from pipeline.backbones.registry import make_recipe
from pipeline.cli import finetune as commands
from pipeline.cli import listening, terminal
from pipeline.cli import main as cli
from pipeline.finetuning import training
from pipeline.finetuning.settings import OPTIMIZERS, PHASES, SCHEDULES, SOURCES, Finetuning
from pipeline.heads.pooling import POOLS
from pipeline.models.network import Network

SETTINGS = ["--size", "32", "--precision", "float32", "--units", "16"]
QUICK = ["--unfreeze", "block5_conv3", "--epochs", "2", "--frozen-epochs", "2"]


@pytest.fixture(autouse=True)
def terminal_of_100_columns(at_home, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def photos(tmp_path):
    return paint_classes(tmp_path / "photos", 14)


def finetune(photos, *options):
    return run("finetune", photos, *SETTINGS, *QUICK, *options)


# --- what is shown ----------------------------------------------------------------------------


def test_the_summary_has_every_layer_and_the_textbook_s_parameter_counts(capsys):
    recipe = make_recipe(layer="block4_pool", size=150, precision="float32")
    network = Network(recipe, 2, weights=None)
    network.freeze(upper=False)
    commands.FinetuneListener().built(network.layers())
    shown = capsys.readouterr().err
    assert "16,812,353 parameters: 9,177,089 are trained, 7,635,264 are frozen" in shown
    rows = {line.split()[0]: line for line in shown.splitlines()}
    assert re.fullmatch(r"block4_conv3 +18 x 18 x 512 +2,359,808 +frozen *", rows["block4_conv3"])
    assert re.fullmatch(r"block5_conv1 +9 x 9 x 512 +2,359,808 +trained *", rows["block5_conv1"])
    assert re.fullmatch(r"block5_pool +4 x 4 x 512 +0 *", rows["block5_pool"])
    assert re.fullmatch(r"hidden +256 +2,097,408 +trained *", rows["hidden"])
    network.freeze(upper=True)
    commands.FinetuneListener().built(network.layers())
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
    assert re.search(r"finetuned +[\d.]+", result.stdout)
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


def test_help_names_each_choice_and_the_default_settings():
    shown = " ".join(run("finetune", "--help").stdout.split())
    settings = Finetuning()
    for name, choices, default in (
        ("from", SOURCES, settings.source),
        ("phase", PHASES, settings.phase),
        ("pool", POOLS, r"\(flatten\)"),
        ("optimizer", OPTIMIZERS, settings.joint.optimizer),
        ("schedule", SCHEDULES, settings.joint.schedule),
        ("learning-rate", ["float"], settings.joint.learning_rate),
        ("frozen-learning-rate", ["float"], settings.frozen.learning_rate),
    ):
        option = rf" --{name} <{re.escape('|'.join(choices))}> [^\[]*\[default: {default}\]"
        assert re.search(option, shown), name
    assert "--layer" not in shown


@pytest.mark.parametrize("interactive", [False, True])
def test_one_bar_after_the_other_is_shown(interactive, monkeypatch):
    """Two at once are an error of the library that draws them."""
    console = Console(file=io.StringIO(), force_terminal=interactive, width=80, highlight=False)
    for module in (terminal, listening, commands):
        monkeypatch.setattr(module, "err", console)
    open_now = []

    @contextlib.contextmanager
    def alone():
        assert not open_now
        with terminal.progress() as on_progress:
            open_now.append(1)
            yield on_progress
            open_now.pop()

    for module in (listening, commands):
        monkeypatch.setattr(module, "progress", lambda *_, **__: alone())
    clock = itertools.count(step=20)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with commands.FinetuneListener() as listener:
        for done in range(0, 101, 20):
            listener.rows_made(done, 100)
        for phase, first in (("frozen", 20), ("finetune", 0)):
            for done in range(first, 101, 20):
                listener.images_trained(phase, done, 100)
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
        (["--views", "2", "--augmentation", "mild", "--augmentation", "textbook"], "takes one"),
        (["--from", "images", "--views", "4"], "without --tta"),
        (["--from", "images", "--tta"], "with --tta"),
        (["--from", "images", "--precision", "int8"], "int8 is for cached rows"),
        (["--head", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_a_wrong_option_is_one_error_and_nothing_is_computed(photos, options, message, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("nothing is to be computed")

    monkeypatch.setattr("pipeline.features.computing.load_backbone", fail)
    monkeypatch.setattr("pipeline.backbones.recipe.decode", fail)
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
    dense = ["--head", "dense", "--pool", "flatten", "--name", "dense"]
    assert run("classify", photos, *same, *dense, "--no-cv").exit_code == 0
    assert (
        run("classify", photos, *same, "--no-cv", "--head", "logistic", "--name", "other").exit_code
        == 0
    )
    started = finetune(photos, "--head", "runs/dense", "--name", "tuned")
    assert started.exit_code == 0
    assert "frozen base, epoch" not in started.stderr
    assert re.search(r"hidden +256 +131,328 +trained", started.stderr)
    for options, message in {
        ("--head", "runs/dense", "--size", "64"): r"the size 32(.|\n)*the size 64",
        ("--head", "runs/dense", "--scaling", "unit"): r"scaling caffe(.|\n)*scaling unit",
        (
            "--head",
            "runs/dense",
            "--resize",
            "nearest",
        ): r"resizing bilinear(.|\n)*resizing nearest",
        ("--head", "runs/dense", "--white", "4095"): r"decoding 1\.(.|\n)*decoding 1 white=4095",
        ("--head", "runs/dense", "--page", "2"): r"decoding 1\.(.|\n)*decoding 1 page=2",
        (
            "--head",
            "runs/dense",
            "--backbone",
            "efficientnet-lite0",
            "--unfreeze",
            "block6a_project_bn",
        ): (r"the network vgg16(.|\n)*the network efficientnet-lite0"),
        (
            "--head",
            "runs/dense/models/dense",
            "--phase",
            "frozen",
        ): "nothing is left to do in phase frozen",
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
    assert "the head's classes are blue, red; the data has blue, green, red" in refused.stderr


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
    assert re.search(r"1 file cannot be used: .*red/bad\.png", strict.stderr)


def test_a_learning_rate_that_is_far_too_large_and_a_damaged_checkpoint_are_one_error_each(photos):
    result = finetune(photos, "--learning-rate", "1e38")
    assert result.exit_code == 1
    assert re.search(r"Error: .*(at step \d+ of|after) epoch \d+\.", result.stderr)
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


_KILLED = """
import os, sys
from pipeline.cli.finetune import FinetuneListener
from pipeline.cli.main import main
from pipeline.finetuning import training

training.CHECKPOINT_SECONDS = 0.0
phase, images, number = sys.argv.pop(1), int(sys.argv.pop(1)), int(sys.argv.pop(1))
trained = FinetuneListener.images_trained

def images_trained(self, current, done, total):
    trained(self, current, done, total)
    if current == phase and done >= images:
        os.kill(os.getpid(), number)

FinetuneListener.images_trained = images_trained
main()
"""
FULL = os.environ.get("TORTURE", "") not in ("", "0")


def killed(command, phase, images, number):
    """Run the command in a process that gets a signal when so many images of a phase are done."""
    arguments = [phase, images, int(number), *command]
    return subprocess.run(
        [sys.executable, "-c", _KILLED, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def weights(run):
    arrays = {}
    with h5py.File(run / "models" / "finetuned" / "head.weights.h5") as file:
        file.visititems(
            lambda name, item: arrays.update({name: item[()]} if hasattr(item, "dtype") else {})
        )
    return arrays


def test_killed_at_any_moments_it_goes_on_to_the_bits_of_a_run_that_nobody_disturbed(
    photos, monkeypatch
):
    """By SIGKILL, and last by Ctrl-C, in both phases; and TensorFlow's start is silent."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    seed = int.from_bytes(os.urandom(4))
    print("moments follow from", seed)
    command = ["finetune", photos, *SETTINGS, "--unfreeze", "block5_conv3", "--dropout", "0.3"]
    command += ["--batch-size", "5", "--epochs", "6", "--patience", "6", "--frozen-epochs", "4"]
    assert run(*command, "--name", "undisturbed").exit_code == 0
    undisturbed = Path("runs/undisturbed")
    command += ["--name", "killed"]
    images = json.loads((undisturbed / "run.json").read_text())["dataset"]["images"]["train"]
    epoch = sum(images.values())
    moments = [("frozen", 2 * epoch + 5)]
    if FULL:
        draw = random.Random(seed)
        moments = sorted(
            (phase, draw.randrange(1, epochs * epoch))
            for phase, epochs in (("frozen", 4), ("finetune", 5))
            for _ in range(10)
        )
        moments.sort(key=lambda moment: moment[0] == "finetune")
    for phase, done in moments:
        assert killed(command, phase, done, signal.SIGKILL).returncode == -signal.SIGKILL
    stopped = killed(command, "finetune", 5 * epoch + 5, signal.SIGINT)
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert stopped.stderr.endswith(
        "Stopped. Features and the last checkpoint are kept: the same command goes on from there.\n"
    )
    noise = r"(?i)tensorflow|keras|onednn|cuda|rebuild|warning|^[IWEF]\d{4}|0000 00:00"
    assert not re.search(noise, stopped.stderr, re.MULTILINE), stopped.stderr
    assert not Path("runs/killed").exists()

    last = run(*command)
    assert last.exit_code == 0
    assert f"fine-tuning: going on after {5 * epoch} of {6 * epoch} images" in last.stderr
    assert "frozen base, epoch" not in last.stderr
    assert not list(Path("runs").glob(".finetune-*"))

    ours, theirs = weights(Path("runs/killed")), weights(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert len(theirs) >= 6
    predictions = [Path("runs", name, "predictions.csv") for name in ("killed", "undisturbed")]
    assert predictions[0].read_bytes() == predictions[1].read_bytes()
    [one], [other] = (
        json.loads(Path("runs", name, "run.json").read_text())["heads"]
        for name in ("killed", "undisturbed")
    )
    assert one["history"] == other["history"]
    assert one["unfrozen_after"] == other["unfrozen_after"] == [4]
