import contextlib
import csv
import dataclasses
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import typer
from commands import run_command as run
from conftest import paint, paint_classes
from guide import GUIDE
from PIL import Image
from rich.console import Console
from rich.filesize import decimal
from sklearn.base import BaseEstimator, ClassifierMixin
from stores import some_dataset, some_rows

from pipeline.backbones.registry import make_recipe
from pipeline.cli import main as cli
from pipeline.cli import terminal
from pipeline.cli.classify import candidates_typed
from pipeline.cli.live import ClassifyListener
from pipeline.cli.results import figures_table
from pipeline.data.augmentation import PRESETS, get_augmentation, typed
from pipeline.data.dataset import Quarantined
from pipeline.data.digests import CACHE
from pipeline.data.loading import load_dataset
from pipeline.errors import PipelineError, printable
from pipeline.features.computing import commit_rows
from pipeline.features.exchange import export_features
from pipeline.features.store import FeatureStore
from pipeline.heads.registry import HEADS
from pipeline.runs.table import Figures


def all_commands(group, prefix=""):
    """Find every command by its words, those of groups included."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


COMMANDS = dict(all_commands(typer.main.get_command(cli.app)))
STORED = Path(__file__).parents[1] / "stored" / "version-0.1.0"
SETTINGS = ["--size", "64", "--precision", "float32"]


@pytest.fixture(autouse=True)
def terminal_of_80_columns(at_home, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


# --- help ---------------------------------------------------------------------------------


def test_the_commands_are_those_promised():
    assert {"features", "classify", "predict"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_that_can_be_parsed(command):
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    # A long one goes on in the next line.
    example = re.search(rf"Example: pipeline {command}((.|\n(?!\n))*)", result.stdout)
    COMMANDS[command].make_context(command, shlex.split(example[1]))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_has_help(command):
    for parameter in COMMANDS[command].params:
        assert parameter.name == "help" or parameter.help, parameter.name


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_or_its_pages_show_every_command(command):
    assert f"pipeline {command}" in GUIDE


def readme_commands():
    return re.findall(r"^pipeline (?!COMMAND|--version).*$", GUIDE, flags=re.MULTILINE)


def test_every_command_line_in_the_readme_can_be_parsed():
    assert readme_commands()
    for line in readme_commands():
        words = shlex.split(line, comments=True)[1:]
        name = next(name for name in COMMANDS if words[: len(name.split())] == name.split())
        COMMANDS[name].make_context(name, words[len(name.split()) :])


def test_no_command_at_all_shows_the_help():
    result = run()
    assert result.exit_code == 2
    assert all(command.split()[0] in result.output for command in COMMANDS)


def test_choices_are_those_that_the_code_beneath_knows():
    text = " ".join(run("classify", "--help").stdout.split())
    assert f"{', '.join(HEADS)} or all" in text


@pytest.mark.parametrize("command", ["features", "classify"])
def test_defaults_are_those_of_the_library(command):
    parameters = COMMANDS[command].params
    defaults = {parameter.name: parameter.default for parameter in parameters}
    recipe = {name: defaults[name] for name in ("size", "layer", "scaling", "precision", "resize")}
    assert make_recipe(**recipe) == make_recipe()
    assert Path(defaults["cache"]) == CACHE


# --- what is imported ---------------------------------------------------------------------


def python(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


IMPORTED = """
import sys
from pipeline.cli.main import main
sys.argv[0] = "pipeline"
try:
    main()
finally:
    heavy = {"tensorflow", "keras", "sklearn", "numpy", "h5py"}
    print("imported:", *sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


def test_help_imports_nothing_heavy():
    for arguments in (["--help"], ["classify", "--help"]):
        done = python(IMPORTED, *arguments)
        assert done.returncode == 0
        assert "Usage: pipeline" in done.stdout
        assert done.stderr == "imported:\n"


def test_training_scikit_learn_heads_on_cached_rows_imports_no_tensorflow(photos, networks):
    run("features", photos, *SETTINGS)
    heads = [argument for name in HEADS if name != "dense" for argument in ("--head", name)]
    done = python(IMPORTED, "classify", photos, *SETTINGS, *heads)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "imported: h5py numpy sklearn"
    assert "40 rows are stored, 0 are missing" in done.stderr
    assert "rbf-svm" in done.stdout


def test_python_m_pipeline_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert all(command.split()[0] in done.stdout for command in COMMANDS)


# --- features -----------------------------------------------------------------------------


def test_features_shows_a_plan_and_a_summary(photos, networks):
    result = run("features", photos, *SETTINGS)
    assert result.exit_code == 0
    assert "40 images" in result.stderr
    assert re.search(r"blue +\d+ +\d+ +\d+", result.stderr)
    assert (
        "block5_pool, 64 x 64 pixels, float32: 0 rows are stored, 40 are missing" in result.stderr
    )
    assert re.search(
        r"40 rows computed in .*rows/s\); 40 images have features in cache", result.stdout
    )


def test_features_again_has_nothing_to_do(photos, networks):
    run("features", photos, *SETTINGS)
    result = run("features", photos, *SETTINGS)
    assert "40 rows are stored, 0 are missing" in result.stderr
    assert result.stdout.startswith("0 rows computed; 40 images have features in ")
    assert [network.images for network in networks] == [40]


def test_every_option_reaches_the_recipe(photos, networks, tmp_path):
    options = {"size": 96, "layer": "block4_pool", "scaling": "unit", "resize": "nearest"}
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    folder = tmp_path / "another cache"
    result = run("features", photos, *flags, "--precision", "bfloat16", "--cache", folder)
    assert result.exit_code == 0
    recipe = make_recipe(**options, precision="bfloat16")
    assert [path.name for path in folder.glob("*/")] == [recipe.name]


def test_the_demo_names_its_source(photos, networks, monkeypatch):
    monkeypatch.setattr(
        "pipeline.data.demo.demo_images",
        lambda: [(path, path.parent.name) for path in sorted(photos.glob("*/*.png"))],
    )
    result = run("features", "demo", *SETTINGS)
    assert "Deitsch" in result.stderr
    assert "CC BY-NC-SA 4.0" in result.stderr


def test_progress_comes_in_lines_where_there_is_no_terminal(photos, networks, monkeypatch):
    monkeypatch.setattr(terminal, "LINE_EVERY_SECONDS", -1.0)
    monkeypatch.setattr("pipeline.features.computing.PIXELS_PER_BATCH", 10 * 64 * 64)
    result = run("features", photos, *SETTINGS)
    lines = re.findall(r"^(\d+) of 40 rows$", result.stderr, re.MULTILINE)
    assert lines == ["10", "20", "30", "40"]
    assert "\r" not in result.stderr
    assert "\x1b" not in result.stderr


def progress_lines(monkeypatch, reports):
    """Give the lines of progress where so much is done at such seconds; each has its own."""
    console = Console(file=io.StringIO(), force_terminal=False, width=80, highlight=False)
    monkeypatch.setattr(terminal, "err", console)
    monkeypatch.setattr(terminal, "LINE_EVERY_SECONDS", -1.0)
    with terminal.progress() as on_progress:
        for seconds, done, total in reports:
            monkeypatch.setattr(terminal.time, "monotonic", lambda now=1000.0 + seconds: now)
            on_progress(done, total)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("reports", "left"),
    [
        # Loading the network takes 60 s, and images 1 s each.
        ([(0, 0, 100), (60, 1, 100), (70, 11, 100), (80, 21, 100)], [None, 89, 79]),
        # The first image takes 60 s, as one on a slow server may.
        ([(60, 1, 100), (61, 2, 100), (70, 11, 100)], [None, None, 89]),
        # The next network begins where the one before ended, after it was judged.
        (
            [(0, 0, 20), (5, 10, 20), (15, 20, 20), (90, 0, 50), (95, 1, 50), (105, 11, 50)],
            [None, 0, None, 39],
        ),
        ([(0, 0, 9), (30, 9, 9)], [None]),  # all at once: nothing is left to say
    ],
)
def test_time_left_is_said_once_it_is_known_and_counts_no_start(monkeypatch, reports, left):
    lines = progress_lines(monkeypatch, reports)
    said = [re.search(r", (\d+) s left$", line) for line in lines]
    assert [found and int(found[1]) for found in said] == left


@pytest.mark.parametrize(
    ("images", "left"), [(80, "69 s"), (911, "15 min"), (6911, "115 min"), (10_031, "2 h 47 min")]
)
def test_long_times_left_are_said_in_minutes_and_hours(monkeypatch, images, left):
    line = progress_lines(monkeypatch, [(0, 1, images), (10, 11, images)])[-1]
    assert line.endswith(f", {left} left")


def test_short_work_is_not_interrupted_by_progress_lines(photos, networks, monkeypatch):
    monkeypatch.setattr("pipeline.features.computing.PIXELS_PER_BATCH", 10 * 64 * 64)
    assert " of 40 rows" not in run("features", photos, *SETTINGS).stderr


class Idle:
    """A cluster that computes nothing here, and tells what it did before."""

    rates: ClassVar = {"tcp://elsewhere": 2.0}
    commit_rows = staticmethod(commit_rows)

    def __init__(self, *_):
        pass

    def spread(self, *shared):
        return contextlib.nullcontext(shared)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_workers_rates_are_shown_where_files_are_skipped_too(photos, networks, monkeypatch):
    run("features", photos, *SETTINGS)
    (photos / "red" / "empty.png").touch()
    monkeypatch.setattr("pipeline.features.cluster.Cluster", Idle)
    result = run("classify", photos, "--head", "ridge", "--workers", "2", *SETTINGS)
    assert result.exit_code == 3
    assert "tcp://elsewhere: 2.0 rows/s" in result.stderr


def test_status_takes_no_options_that_would_do_nothing(photos):
    assert run("status", photos, "--strict").exit_code == 2


# --- classify -----------------------------------------------------------------------------


def test_classify_prints_a_table_with_a_line_for_each_head(photos, networks, tmp_path):
    result = run(
        *("classify", photos, *SETTINGS, "--no-cv"),
        *("--head", "logistic", "--head", "knn", "--name", "mine"),
    )
    assert result.exit_code == 0
    document = json.loads((tmp_path / "runs" / "mine" / "run.json").read_text())
    assert [head["head"] for head in document["heads"]] == ["logistic", "knn"]
    for head in document["heads"]:
        test = head["test"]
        star = r" \*" if head["head"] == document["best"] else ""
        figures = [
            f"{test['accuracy']:.3f}",
            f"({test['accuracy_low']:.3f}-{test['accuracy_high']:.3f})",
            *(f"{row[place] / sum(row):.3f}" for place, row in enumerate(test["confusion"])),
            f"{test['log_loss']:.3f}",
            f"{head['seconds']:.1f} s",
        ]
        line = rf"^ *{head['head']}{star} +" + " +".join(map(re.escape, figures)) + " *$"
        assert re.search(line, result.stdout, re.MULTILINE), result.stdout
    assert "…" not in result.stdout
    assert f"{test['n']} test images" in result.stdout
    assert "saved in runs/mine" in result.stdout
    assert "report: runs/mine/report.html" in result.stdout
    assert "logistic: fitted in" in result.stderr


def test_few_images_that_are_all_copies_are_judged_by_the_splits_after_all(tmp_path, networks):
    photos = paint_classes(tmp_path / "photos", 9)
    for number in range(9):  # as the network sees them, hardly different from each other
        grey = np.full((48, 48, 3), 90, np.uint8)
        grey[0, number] = 91
        Image.fromarray(grey).save(photos / "blue" / f"{number:03}.png")
    result = run("classify", photos, *SETTINGS, "--head", "logistic")
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "runs" / "photos" / "run.json").read_text())
    assert document["protocol"]["cv"] is None
    [said] = [text for text in document["remarks"] if "cross-validation" in text]
    assert "cannot be done: the class blue has 1 image, too few for 5 folds" in said


def test_few_images_are_cross_validated_unless_the_splits_are_to_be_kept(photos, networks):
    for options, cv in (([], 5), (["--no-cv"], None), (["--cv", "3"], 3)):
        name = Path("runs", f"by {cv}")
        settings = [*SETTINGS, "--head", "logistic", "--name", name.name, "--pool", "flatten"]
        assert run("classify", photos, *settings, *options).exit_code == 0
        document = json.loads((name / "run.json").read_text())
        assert document["protocol"]["cv"] == cv
        said = [text for text in document["remarks"] if "--no-cv keeps the splits" in text]
        assert len(said) == (not options)
        found = run("problems", photos, "--no-learning-curve", "--run", name)
        assert found.exit_code == 0
        assert "no test images" not in found.stdout


def test_few_test_images_are_said_to_be_few(photos, networks):
    shown = run("classify", photos, *SETTINGS, "--no-cv", "--head", "logistic").stdout
    count = int(re.search(r"(\d+) test images", shown)[1])
    assert ("too few to be reliable" in shown) == (count < 20)


def test_rows_that_lack_are_made_before_classifying_and_said(photos, networks):
    result = run("classify", photos, *SETTINGS, "--head", "logistic")
    assert "0 rows are stored, 40 are missing" in result.stderr
    assert [network.images for network in networks] == [40]


def test_all_heads_are_trained_unless_some_are_named(photos, networks, monkeypatch):
    asked = []

    def no_classifying(data, heads, **settings):
        asked.append(heads)
        raise PipelineError("enough")

    monkeypatch.setattr("pipeline.classification.experiment.classify", no_classifying)
    run("classify", photos, *SETTINGS)
    run("classify", photos, *SETTINGS, "--head", "knn", "--head", "dense")
    assert asked == ["all", ["knn", "dense"]]


def test_classify_with_json_puts_nothing_but_json_on_standard_output(photos, networks, tmp_path):
    result = run("classify", photos, *SETTINGS, "--head", "logistic", "--json")
    document = json.loads(result.stdout)
    assert document == json.loads((tmp_path / "runs" / "photos" / "run.json").read_text())


def test_the_seed_decides_the_splits_and_reaches_the_heads(photos, networks):
    settings = [*SETTINGS, "--no-cv", "--head", "logistic", "--json", "--seed"]
    runs = [json.loads(run("classify", photos, *settings, seed).stdout) for seed in (1, 1, 2)]
    assert [document["seed"] for document in runs] == [1, 1, 2]
    first, again, other = (document["dataset"]["digest"] for document in runs)
    assert first == again != other


def test_classify_takes_the_protocols_options(photos, networks, tmp_path):
    result = run(
        *("classify", photos, *SETTINGS, "--head", "logistic", "--head", "knn", "--cv", "3"),
        *("--pool", "average", "--pool", "max", "--balanced", "--threshold", "f1"),
        *("--positive", "blue", "--json", "--name", "mine"),
    )
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["protocol"] == {
        "search": False,
        "cv": 3,
        "repeats": 1,
        "threshold": "f1",
        "positive": "blue",
        "balanced": True,
        "splits": False,
    }
    assert "in all" in result.stderr
    for head in document["heads"]:
        assert head["test"]["n"] == 40
        assert head["parameters"]["pool"] in ("average", "max")
        assert head["threshold"]["aim"] == "f1"
    heads = ("--head", "logistic", "--head", "knn")
    again = run("classify", photos, *SETTINGS, *heads, "--search", "--no-cv")
    assert again.exit_code == 0
    assert "* best by cross-validation on the training images." in again.stdout


def test_predict_calls_images_by_the_threshold(photos, networks):
    run("classify", photos, *SETTINGS, "--head", "logistic", "--threshold", "f1", "--name", "mine")
    manifest = json.loads(Path("runs/mine/models/logistic/manifest.json").read_text())
    value = manifest["threshold"]["value"]
    found = json.loads(run("predict", "runs/mine", photos, "--json").stdout)
    assert len(found) == 40
    for item in found:
        expected = "red" if item["probabilities"]["red"] >= value else "blue"
        assert item["label"] == expected
        assert item["threshold"] == manifest["threshold"]
    text = run("predict", "runs/mine", photos).stdout
    assert f"called red when P(red) ≥ {value:.3f}, chosen for F1" in text
    heading, *lines = [line.split() for line in text.splitlines() if line.strip()]
    assert heading == ["image", "predicted", "P(red)", "threshold"]
    shown = [line[-2] for line in lines if line[-1] == f"{value:.3f}"]
    assert shown == [f"{item['probabilities']['red']:.3f}" for item in found]
    table = run("predict", "runs/mine", photos, "--csv").stdout
    lines = list(csv.DictReader(io.StringIO(table, newline="")))
    assert all(float(line["threshold of red"]) == value for line in lines)


def test_classify_says_what_may_be_wrong_with_the_data(photos, networks, monkeypatch):
    shutil.copy(photos / "red" / "000.png", photos / "blue" / "same.png")
    settings = ["classify", photos, *SETTINGS, "--no-cv", "--head", "logistic"]
    said = [line for line in run(*settings).stdout.splitlines() if line.startswith("Data: ")]
    assert any("near-duplicate pairs have different labels" in one for one in said)
    *sentences, more = said
    assert len(sentences) == 3
    count = int(re.fullmatch(r"Data: (\d+) more on the page.", more)[1])
    monkeypatch.setattr(sys.modules["pipeline.cli.results"], "_SENTENCES", 1)
    fewer = [line for line in run(*settings).stdout.splitlines() if line.startswith("Data: ")]
    assert fewer == [sentences[0], f"Data: {count + 2} more on the page."]


def test_figures_are_whole_where_a_heads_name_is_long_and_the_terminal_narrow():
    screen = io.StringIO()
    headings = Figures(("good", "scratched"), positive=1).headings
    table = figures_table("", headings)
    figures = ["0.443 (0.343-0.712)", "0.554 (0.343-0.712)", "0.552", "1.9 s"]
    table.add_row("sklearn.ensemble:ExtraTreesClassifier *", *figures)
    Console(file=screen, width=80).print(table)
    shown = screen.getvalue()
    assert all(name in shown for name in [*" ".join(headings).split(), *figures])
    assert "…" not in shown


def test_the_table_has_five_columns_unless_all_are_asked_for(photos, networks):
    settings = ["classify", photos, *SETTINGS, "--head", "logistic"]
    few, every = (run(*settings, *more).stdout for more in ((), ("--all-columns",)))
    usual = ("classifier", "95 % interval", "recall of", "log loss", "time")
    assert all(title in few and title in every for title in usual)
    for title in ("balanced", "macro", "AUC", "average", "Brier"):
        assert title not in few
        assert title in every


@pytest.mark.parametrize(
    ("backbones", "repeated"),
    [
        ([], []),
        (["resnet50"], []),  # an option of stage one
        (["vgg16", "resnet50"], ["vgg16", "resnet50"]),  # there the default is not repeated
        (["resnet50", "vgg16"], ["vgg16"]),
        (["resnet50", "xception"], ["xception"]),
    ],
)
def test_a_proposed_command_compares_what_was_compared(backbones, repeated):
    words = candidates_typed(backbones, ["knn", "lda"], ["max"])
    expected = [word for name in repeated for word in ("--backbone", name)]
    assert words == [*expected, "--head", "knn", "--head", "lda", "--pool", "max"]


def test_what_to_do_next_begins_as_the_command_did(photos, networks, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "argv", ["my env/bin/pipeline"])
    said = run("classify", photos, *SETTINGS, "--no-cv", "--head", "logistic").stdout
    assert said.splitlines()[-1].startswith("  'my env/bin/pipeline' classify ")


def test_what_to_do_next_is_a_command_that_can_be_pasted(photos, networks):
    settings = ["--no-cv", "--head", "logistic", "--seed", "3"]
    said = run("classify", photos, *SETTINGS, *settings).stdout
    *_, why, command = said.splitlines()
    assert why.startswith("next: ")
    typed = shlex.split(command)
    assert typed[:3] == ["pipeline", "classify", str(photos)]
    assert [option in typed for option in ("--size", "--seed", "--head")] == [True, True, True]
    done = run(*typed[1:], "--head", "logistic")
    assert done.exit_code == 0, done.output


def test_a_live_table_is_shown_on_a_terminal_only(photos, networks, monkeypatch):
    settings = ["classify", photos, *SETTINGS, "--head", "logistic", "--head", "knn"]
    assert "\x1b" not in run(*settings).stderr
    screen = io.StringIO()
    terminal_like = Console(file=screen, force_terminal=True, width=80, legacy_windows=False)
    for module in ("pipeline.cli.live", "pipeline.cli.listening", "pipeline.cli.terminal"):
        monkeypatch.setattr(sys.modules[module], "err", terminal_like)
    result = run(*settings)
    assert result.exit_code == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(r"logistic +[\d.]+ \([\d.]+-[\d.]+\) .*\n *knn +\d+ s", shown)
    assert "fitted in" not in shown


def test_rows_can_be_read_shard_by_shard_and_the_model_is_one_like_any_other(
    photos, networks, monkeypatch
):
    monkeypatch.setattr("pipeline.cli.live.LINE_EVERY_SECONDS", -1.0)
    settings = ["classify", photos, *SETTINGS, "--stream"]
    done = run(*settings, "--head", "linear-svm", "--name", "mine")
    assert done.exit_code == 0, done.output
    assert "Rows are read shard by shard: as asked for" in done.stderr
    assert "linear-svm: epoch 40 of 40" in done.stderr
    assert "Classifiers were trained on rows read shard by shard" in done.stdout
    predicted = run("predict", "runs/mine", photos / "red" / "000.png", "--json").stdout
    assert json.loads(predicted)[0]["label"] == "red"
    with_others = run(*settings, "--head", "linear-svm", "--head", "knn", "--head", "lda")
    assert with_others.exit_code == 3
    assert "knn, lda could not be fitted: it needs all rows in memory" in with_others.stdout
    refused = run(*settings, "--search")
    assert refused.exit_code == 1
    assert "cannot be done with --search" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_live_table_shows_epochs_where_rows_are_streamed(monkeypatch):
    screen = io.StringIO()
    terminal_like = Console(file=screen, force_terminal=True, width=80, legacy_windows=False)
    monkeypatch.setattr("pipeline.cli.live.err", terminal_like)
    with ClassifyListener() as listener:
        listener.judging(["logistic", "knn"])
        listener.head_epoch("logistic", 3, 40)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(r"logistic +3/40 +\d+ s", shown)


def test_the_live_table_goes_on_after_a_classifier_that_failed(monkeypatch):
    screen = io.StringIO()
    terminal_like = Console(file=screen, force_terminal=True, width=80, legacy_windows=False)
    monkeypatch.setattr("pipeline.cli.live.err", terminal_like)
    with ClassifyListener() as listener:
        listener.judging(["dense", "knn", "lda"])
        listener.head_epoch("dense", 3, 40)
        listener.failed("dense", "its loss was nan")
        listener.head_epoch("knn", 1, 2)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert "knn" in shown.rpartition("dense")[2]


STOPPED = """
import signal, sys
from pipeline.classification.in_memory import RowsInMemory
from pipeline.cli.main import main

stop = getattr(signal, sys.argv.pop())
judge = RowsInMemory.judge

def stop_at_knn(rows, head):
    if head.name == "knn":
        signal.raise_signal(stop)
    return judge(rows, head)

# Whoever started the tests may ignore Ctrl-C, and that would be inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
RowsInMemory.judge = stop_at_knn
main()
"""


@pytest.mark.parametrize(("stop", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_stopping_keeps_the_heads_that_are_done(photos, networks, tmp_path, stop, code):
    run("features", photos, *SETTINGS)
    heads = ("--head", "logistic", "--head", "knn", "--head", "linear-svm")
    done = python(STOPPED, "classify", photos, *SETTINGS, *heads, stop)
    assert done.returncode == code, done.stderr
    assert "Stopped. 1 of 3 heads were done and are kept." in done.stderr
    assert "Traceback" not in done.stderr
    assert "logistic " in done.stdout
    assert "Stopped before these were done: knn, linear-svm" in done.stdout
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["photos"]
    assert (tmp_path / "runs" / "photos" / "report.html").exists()
    assert run("predict", "runs/photos", photos / "red" / "000.png").exit_code == 0


def test_a_head_from_elsewhere_is_used_once_its_types_are_trusted(photos, networks, tmp_path):
    head = "sklearn.gaussian_process:GaussianProcessClassifier"
    assert run("classify", photos, *SETTINGS, "--head", head).exit_code == 0
    folder = tmp_path / "runs" / "photos"
    name = "sklearn.gaussian_process--GaussianProcessClassifier"
    assert (folder / f"confusion-{name}.svg").exists()
    assert [path.name for path in (folder / "models").iterdir()] == [name]
    refused = run("predict", folder, photos)
    assert refused.exit_code == 1
    options = re.findall(r"--trust \S+", refused.stderr)
    assert options
    assert run("predict", folder, photos, "--head", head, *shlex.split(" ".join(options))).stdout


class Unfit(ClassifierMixin, BaseEstimator):
    """A classifier from elsewhere that fits nothing."""

    def fit(self, rows, labels):
        raise ValueError("nothing fits")

    def predict_proba(self, rows):
        raise AssertionError("it is not fitted")


def test_a_head_that_cannot_be_fitted_shows_in_the_table_and_the_exit_code(photos, networks):
    unfit = f"{__name__}:Unfit"
    result = run("classify", photos, *SETTINGS, "--head", unfit, "--head", "logistic")
    assert result.exit_code == cli.SOME_FILES_UNUSABLE
    assert "logistic " in result.stdout
    assert f"{unfit} could not be fitted: ValueError: nothing fits" in result.stdout
    alone = run("classify", photos, *SETTINGS, "--head", unfit)
    assert alone.exit_code == 1
    assert f"the head {unfit} cannot be fitted: ValueError: nothing fits" in alone.stderr


# --- views --------------------------------------------------------------------------------


@pytest.fixture
def train(photos):
    """Count the images to learn from."""
    return len(load_dataset(photos).where("train"))


def test_the_plan_for_views_tells_rows_disk_space_and_what_is_free(
    photos, networks, train, monkeypatch
):
    usage = SimpleNamespace(free=123_456_789, total=10**12)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    result = run(
        "features", photos, "--no-layers", *SETTINGS, "--views", "4", "--augmentation", "mild"
    )
    assert result.exit_code == 0
    rows = 40 + 3 * train
    plan, space = result.stderr.splitlines()[-2:]
    assert plan == (
        "vgg16 up to block5_pool, 64 x 64 pixels, float32, 4 views (mild): "
        f"0 rows are stored, {rows} are missing"
    )
    # 2 x 2 x 512 numbers a row, of four bytes, which shrink to half of that.
    assert space == (
        f"The missing rows take about {decimal(4096 * rows)} of disk, 16.4 MB for 1,000 images in "
        "all their views; 123.5 MB are free"
    )
    assert result.stdout.startswith(f"{rows} rows computed in ")
    plain, views = make_recipe(size=64, precision="float32"), PRESETS["mild"].name
    other = dataclasses.replace(plain, augmentation=views)
    assert result.stdout.endswith(
        f"40 images have features in cache/{plain.name} and cache/{other.name}\n"
    )
    again = run(
        "features", photos, "--no-layers", *SETTINGS, "--views", "4", "--augmentation", "mild"
    )
    assert f"4 views (mild): {rows} rows are stored, 0 are missing" in again.stderr
    assert "The missing rows take" not in again.stderr
    assert again.stdout.startswith("0 rows computed; 40 images")
    assert [network.images for network in networks] == [rows]


def test_a_disk_that_does_not_tell_what_is_free_is_not_said_to_be_full(
    photos, networks, monkeypatch
):
    usage = SimpleNamespace(free=0, total=0)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    result = run("features", photos, "--no-layers", *SETTINGS)
    assert result.exit_code == 0
    assert result.stderr.endswith(
        "The missing rows take about 163.8 kB of disk, 4.1 MB for 1,000 images\n"
    )


def test_several_augmentations_are_one_plan_and_share_the_images_themselves(
    photos, networks, train
):
    several = ["--views", "2", "--augmentation", "mild", "--augmentation", "rotation=5"]
    result = run("features", photos, "--no-layers", *SETTINGS, *several)
    assert result.exit_code == 0
    rows = 40 + 2 * train
    assert f"2 views (mild, rotation=5): 0 rows are stored, {rows} are missing" in result.stderr
    assert result.stderr.count("rows are stored") == 1
    assert (
        f"The missing rows take about {decimal(4096 * rows)} of disk, 12.3 MB for 1,000"
        in result.stderr
    )
    assert sum(network.images for network in networks) == rows
    assert result.stdout.startswith(f"{rows} rows computed")
    again = run("classify", photos, *SETTINGS, *several, "--head", "logistic")
    assert f"{rows} rows are stored, 0 are missing" in again.stderr
    assert re.search(
        r"^logistic: log loss on validation by augmentation: mild \d\.\d+, rotation=5 \d\.\d+, "
        r"none \d\.\d+(; augmentation hurts here)?$",
        again.stdout,
        re.MULTILINE,
    )
    assert sum(network.images for network in networks) == rows


def test_too_little_space_is_said_before_anything_is_computed(
    photos, networks, train, tmp_path, monkeypatch
):
    rows = 40 + 2 * train
    usage = SimpleNamespace(free=4096 * rows - 1, total=10**12)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    several = ["--views", "2", "--augmentation", "mild", "--augmentation", "rotation=5"]
    for command in (["features", "--no-layers"], ["classify", "--pool", "flatten"]):
        result = run(*command, photos, *SETTINGS, *several)
        assert result.exit_code == 1
        error = result.stderr[result.stderr.index("Error: ") :]
        assert error.startswith(f"Error: the {rows} missing rows need about 0.4 MB; 0.4 MB are")
        assert "make room, name another --cache, or ask for fewer --views" in error
        assert result.stdout == ""
    assert networks == []
    assert not list((tmp_path / "cache").glob("*/"))


@pytest.mark.parametrize("command", ["features", "classify"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--augmentation", "mild"], "--augmentation and --tta need more than one view"),
        (["--tta"], "--augmentation and --tta need more than one view"),
        (["--views", "1", "--augmentation", "mild"], "give --views 4, say"),
        (["--views", "0"], "0 views"),
        (["--views", "-2"], "-2 views"),
        (["--views", "70000"], "70000 views"),
        (["--views", "2", "--augmentation", "none"], "2 views without augmentation would all be"),
        (["--views", "2", "--augmentation", "wild"], "one of textbook, mild, none, or settings"),
        (["--views", "2", "--augmentation", "mild,turn=3"], "has no parameter 'turn'"),
        (["--views", "2", "--augmentation", "rotation=200"], "a number from 0 to 180"),
    ],
)
def test_views_that_cannot_be_meant_are_one_message_before_any_work(
    photos, networks, tmp_path, command, arguments, message
):
    result = run(command, photos, *SETTINGS, *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert networks == []
    assert not (tmp_path / "cache").exists()


def test_a_file_of_features_has_no_views(photos, networks):
    run("features", photos, *SETTINGS)
    run("cache", "export", photos, "features.h5", *SETTINGS)
    result = run("classify", "features.h5", "--views", "2", "--head", "logistic")
    assert result.exit_code == 1
    assert "Error: features.h5 holds no views of its images." in result.stderr
    assert "leave --views away" in result.stderr
    assert run("classify", "features.h5", "--head", "logistic").exit_code == 0


def test_with_tta_predict_says_what_classify_said(photos, networks, tmp_path):
    options = ["--views", "3", "--augmentation", "textbook", "--tta", "--head", "logistic"]
    options += ["--no-cv"]
    assert run("classify", photos, *SETTINGS, *options).exit_code == 0
    assert networks[0].images == 3 * 40
    with (tmp_path / "runs" / "photos" / "predictions.csv").open(newline="") as file:
        said = {row["path"]: float(row["probability of red"]) for row in csv.DictReader(file)}
    found = json.loads(run("predict", "runs/photos", photos, "--json").stdout)
    assert len(networks) == 1  # the images' rows are stored
    for item in found:
        assert item["probabilities"]["red"] == pytest.approx(said[item["path"]], abs=1e-6)


def test_views_are_those_of_the_recipe_unless_others_are_named(photos, networks):
    run("features", photos, "--no-layers", *SETTINGS, "--views", "2")
    recipe = make_recipe(size=64, precision="float32")
    named = dataclasses.replace(recipe, augmentation=PRESETS["textbook"].name).name
    assert {path.name for path in Path("cache").glob("*/")} == {recipe.name, named}


@pytest.mark.parametrize(
    "text", ["none", "mild", "textbook", "rotation=5", "mild,zoom=0,vertical_flip=no,contrast=0.25"]
)
def test_an_augmentation_is_called_as_it_can_be_typed(text):
    augmentation = get_augmentation(text)
    assert get_augmentation(typed(augmentation.name)) == augmentation
    assert typed(augmentation.name) == text or text.startswith("mild,")


# --- predict ------------------------------------------------------------------------------


@pytest.fixture
def trained(photos, networks, tmp_path):
    settings = [*SETTINGS, "--no-cv", "--name", "mine"]
    run("classify", photos, *settings, "--head", "logistic", "--head", "knn")
    return tmp_path / "runs" / "mine"


AWKWARD = "[red]:warning: caf\u00e9 \u592a.png"
NEWLINE = "a\nb.png"
NO_TEXT = os.fsdecode(b"caf\xe9.png")


@pytest.fixture
def pictures(tmp_path):
    for seed, name in enumerate((AWKWARD, NEWLINE, NO_TEXT)):
        paint(tmp_path / "new" / "x.png", (180, 70, 70), seed=seed).rename(tmp_path / "new" / name)
    return tmp_path / "new"


def test_predict_prints_a_line_for_each_image(trained, pictures):
    result = run("predict", trained, pictures / AWKWARD)
    assert result.exit_code == 0
    assert "[red]:warning: caf\u00e9" in result.stdout.replace("\n", "")
    assert "P(red)" in result.stdout  # the positive class: of two with as many images the second
    assert re.search(r" red +(0\.[5-9]\d\d|1\.000)", result.stdout)


def test_predict_takes_folders_and_any_file_name(trained, pictures):
    result = run("predict", trained, "new")
    assert result.exit_code == 0
    assert result.stdout.count(" red ") == 3
    assert r"new/a\nb.png" in result.stdout
    assert r"new/caf\udce9.png" in result.stdout


def test_predict_with_json_puts_nothing_but_json_on_standard_output(trained, pictures):
    result = run("predict", trained, "new", "new/none.png", "--json")
    assert result.exit_code == cli.SOME_FILES_UNUSABLE
    found = json.loads(result.stdout)
    names = sorted([AWKWARD, NEWLINE, NO_TEXT])
    assert [item["path"] for item in found] == [f"new/{name}" for name in [*names, "none.png"]]
    for item in found[:3]:
        assert item["label"] == "red"
        assert set(item["probabilities"]) == {"blue", "red"}
        assert sum(item["probabilities"].values()) == pytest.approx(1)
        assert item["error"] is None
    assert found[3]["label"] is None
    assert "No such file" in found[3]["error"]


def test_predict_with_csv_gives_the_same_figures_as_json(trained, pictures):
    figures = json.loads(run("predict", trained, "new", "new/none.png", "--json").stdout)
    result = run("predict", trained, "new", "new/none.png", "--csv")
    lines = list(csv.DictReader(io.StringIO(result.stdout, newline="")))
    assert list(lines[0]) == [
        "path",
        "predicted",
        "probability of blue",
        "probability of red",
        "error",
    ]
    for line, item in zip(lines, figures, strict=True):
        assert line["path"] == printable(item["path"])
        assert line["predicted"] == (item["label"] or "")
        assert line["error"] == (item["error"] or "")
        for name in ("blue", "red"):
            said = item["probabilities"].get(name)
            assert line[f"probability of {name}"] == ("" if said is None else str(said))


def test_predict_says_of_the_data_sets_images_what_classify_said(trained, photos):
    with (trained / "predictions.csv").open(newline="") as file:
        said = {(row["head"], row["path"]): row for row in csv.DictReader(file)}
    for head in ("logistic", "knn"):
        found = json.loads(run("predict", trained, photos, "--head", head, "--json").stdout)
        assert len(found) == 40
        for item in found:
            row = said[head, item["path"]]
            assert item["label"] == row["predicted"]
            probability = float(row["probability of red"])
            assert item["probabilities"]["red"] == pytest.approx(probability, abs=1e-5)


def test_predict_takes_a_models_own_folder(trained, photos):
    one = run("predict", trained, photos, "--head", "knn", "--json")
    two = run("predict", trained / "models" / "knn", photos, "--json")
    assert two.exit_code == 0
    assert one.stdout == two.stdout


def test_a_folder_without_images_is_an_error(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    result = run("predict", trained, tmp_path / "empty")
    assert result.exit_code == 1
    assert "there are no images" in result.stderr


# --- exit codes and messages --------------------------------------------------------------


def test_unusable_files_are_listed_last_with_their_reasons_and_change_the_exit_code(
    photos, networks
):
    (photos / "red" / "bad[1].png").write_bytes(b"no image")
    (photos / "red" / "a\nb.png").touch()
    for command in (["features", photos], ["classify", photos, "--head", "logistic"]):
        result = run(*command, *SETTINGS)
        assert result.exit_code == 3
        *_, headline, first, second = result.stderr.splitlines()
        assert headline == "2 files skipped:"
        assert first == rf"  {photos}/red/a\nb.png: 0 bytes"
        assert second.startswith(f"  {photos}/red/bad[1].png: not a known image format")


def test_skipped_files_are_listed_by_reason_and_broken_ones_by_name(photos, networks):
    for number in range(40):
        (photos / f"{number:02}.png").write_bytes((photos / "red" / "000.png").read_bytes())
        (photos / "red" / f"{number:02}.txt").touch()
    (photos / "99.png").write_bytes((photos / "red" / "000.png").read_bytes())
    for number in range(2):
        (photos / "blue" / f"e{number}.png").touch()
    (photos / "red" / "broken.png").write_bytes(b"no image")
    done = run("features", photos, *SETTINGS)
    assert done.exit_code == 3
    lines = done.stderr.splitlines()
    at = lines.index("84 files skipped:")
    first, second, texts, loose, to_do, place = lines[at + 1 :]
    assert place == f"  all of them: pipeline status {photos} --size 64 --precision float32 --json"
    assert first.startswith(f"  {photos}/red/broken.png: not a known image format")
    assert second == f"  2 files: 0 bytes ({photos}/blue/e0.png, {photos}/blue/e1.png)"
    names = ", ".join(f"{photos}/{number:02}.png" for number in range(3))
    assert loose == f"  41 files: in no class folder ({names}, ...)"
    assert texts.startswith(
        "  40 files: not an image by its name or its first bytes: it ends in .txt"
    )
    assert to_do == f"    label those in no class folder: pipeline label {photos}"


@pytest.mark.parametrize(
    ("reasons", "shown"),
    [
        (["a"], ["  0: a"]),
        (["a", "b"], ["  0: a", "  1: b"]),
        (["a", "a", "b"], ["  2: b", "  2 files: a (0, 1)"]),
        (["a"] * 4, ["  4 files: a (0, 1, 2, ...)"]),
        (["a"] * 2 + ["b"] * 3, ["  2 files: a (0, 1)", "  3 files: b (2, 3, 4)"]),
        ([*map(str, range(30))], [*(f"  {n}: {n}" for n in range(20)), "  and 10 more"]),
        (
            [*map(str, range(20)), "a", "a"],
            [*(f"  {n}: {n}" for n in range(20)), "  and 2 more"],
        ),
    ],
)
def test_a_reason_that_several_files_share_is_one_line(capsys, reasons, shown):
    bad = [Quarantined(Path(str(place)), reason) for place, reason in enumerate(reasons)]
    with pytest.raises(typer.Exit):
        terminal.finish(bad)
    assert capsys.readouterr().err.splitlines()[1:] == shown
    with pytest.raises(typer.Exit):
        terminal.finish(bad, listed="here")
    *_, last = capsys.readouterr().err.splitlines()
    cut = "..." in shown[-1] or "more" in shown[-1]
    assert last == ("  all of them: here" if cut else shown[-1])


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("features {0}", "pipeline status {0} {1} --json"),
        ("cache export {0} features.h5", "pipeline status {0} {1} --json"),
        ("classify {0} --head ridge --name few", "runs/few/run.json"),
        ("problems {0} --no-learning-curve", "the same command with --json"),
        ("label {0}", "the same command with --json"),
    ],
)
def test_where_all_skipped_files_are_listed_is_said(photos, networks, command, place):
    broken = [photos / "red" / f"broken{number}.png" for number in range(4)]
    for file in broken:
        file.write_bytes(b"no image")
    settings = " ".join(SETTINGS)
    command, place = (text.format(photos, settings).split() for text in (command, place))
    run("features", photos, *SETTINGS)
    done = run(*command, *SETTINGS)
    assert done.exit_code == 3
    assert done.stderr.splitlines()[-1] == f"  all of them: {' '.join(place)}"
    if place[0] == "pipeline":
        content = run(*place[1:]).stdout
    elif place[-1] == "--json":
        done = run(*command, *SETTINGS, "--json")
        content = done.stdout
        assert "all of them" not in done.stderr
    else:
        content = Path(*place).read_text()
    assert all(str(file) in content for file in broken)


def test_strict_makes_an_unusable_file_an_error(photos, networks):
    (photos / "red" / "bad.png").write_bytes(b"no image")
    for command in (["features", photos], ["classify", photos, "--head", "logistic"]):
        result = run(*command, *SETTINGS, "--strict")
        assert result.exit_code == 1
        assert "bad.png" in result.stderr
        assert "--strict" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["features", "no/[such] folder"], "there is no folder or file no/[such] folder"),
        (["features", "photos", "--size", "8"], "size 8 is too small"),
        (["features", "photos", "--layer", "fc1"], "unknown layer 'fc1'"),
        (["classify", "photos", "--head", "svm"], "unknown head 'svm'"),
        (["classify", "photos", "--cv", "2"], "2 folds are too few"),
        (
            ["classify", "photos", "--threshold", "best"],
            "'best' is not something that a threshold can be chosen for",
        ),
        (
            ["classify", "photos", "--threshold", "f1", "--positive", "green"],
            "there is no class 'green'",
        ),
        (["classify", "photos", "--name", "a/b", *SETTINGS], "'a/b' cannot be a run's name"),
        (["predict", "runs/none", "x.png"], "there is no folder runs/none"),
    ],
)
def test_an_error_is_one_message_without_a_traceback(photos, networks, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 1
    error = result.stderr[result.stderr.index("Error: ") :]
    assert message in error
    assert result.stderr.count("Error") == 1
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["features"],
        ["features", "photos", "--colour", "red"],
        ["features", "photos", "--size", "big"],
        ["features", "photos", "--scaling", "zscore"],
        ["predict", "runs/mine"],
        ["predict", "runs/mine", "x.png", "--json", "--csv"],
        ["train"],
    ],
)
def test_wrong_usage_has_an_exit_code_of_its_own(networks, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage" in result.stderr
    assert result.stdout == ""


def test_a_defect_of_the_program_is_not_dressed_up_as_the_users(photos, networks, monkeypatch):
    def defect(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("pipeline.features.extractor.load_dataset", defect)
    with pytest.raises(ZeroDivisionError):
        run("features", photos, *SETTINGS)


# --- being stopped ------------------------------------------------------------------------

SLOW = """
import math, signal, time
import numpy as np
from pipeline.cli.main import main
from pipeline.features import computing

class Slow:
    def __init__(self, recipe, weights, beside=()):
        values = sum(math.prod(each.shape) for each in (recipe, *beside))
        self.shape = (values,) if beside else recipe.shape
    def __call__(self, pixels):
        print("batch", flush=True)
        time.sleep(0.3)
        return np.full((len(pixels), *self.shape), pixels.mean(), np.float32)

# Whoever started the tests may ignore Ctrl-C, and that would be inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
computing.load_backbone = Slow
computing.PIXELS_PER_BATCH = 4 * 64 * 64
main()
"""


@pytest.mark.parametrize(
    ("stop", "command"),
    [
        (signal.SIGINT, ["features"]),
        (signal.SIGTERM, ["features"]),
        (signal.SIGTERM, ["classify", "--head", "logistic"]),
    ],
    ids=["ctrl-c", "sigterm", "sigterm while classifying"],
)
def test_stopping_keeps_what_was_computed_and_says_how_to_go_on(
    photos, networks, tmp_path, stop, command
):
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW, *command, str(photos), *SETTINGS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(3):  # in the third batch, so two are computed
        assert child.stdout.readline() == "batch\n"
    child.send_signal(stop)
    _, stderr = child.communicate(timeout=30)
    assert child.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[stop]
    assert "Features made so far are kept: the same command goes on from there." in stderr
    assert "Traceback" not in stderr
    assert "Exception" not in stderr
    assert not (tmp_path / "runs").exists()
    assert not list((tmp_path / "cache").glob("*/.*"))
    recipe = make_recipe(size=64, precision="float32")
    there = len(FeatureStore(tmp_path / "cache", recipe))
    assert there in (8, 12)
    result = run("features", photos, *SETTINGS)
    assert f"{there} rows are stored, {40 - there} are missing" in result.stderr
    assert networks[0].images == 40 - there


# --- with the network itself --------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Six pictures to learn from, two to choose by, two to be judged on, none alike."""
    folder = tmp_path_factory.mktemp("tiny")
    for number, (split, count) in enumerate({"train": 3, "validation": 1, "test": 1}.items()):
        for name, colour in {"blue": (70, 70, 180), "red": (180, 70, 70)}.items():
            for picture in range(count):
                seed = 100 * number + 10 * (name == "red") + picture
                paint(folder / "data" / split / name / f"{picture}.png", colour, seed)
    return folder


def command(*arguments, folder):
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("TF_")},
    )


def test_the_real_network_works_from_images_to_predictions_and_makes_no_noise(tiny):
    small = ["--size", "32", "--precision", "float32"]
    made = command("features", "data", *small, folder=tiny)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("10 rows computed in ")
    # On a busy machine there are lines of progress, too.
    lines = [line for line in made.stderr.splitlines() if " of 10 rows, " not in line]
    *plan, recipe, space = lines
    assert plan[0].split() == ["10", "images", "train", "validation", "test"]
    assert [line.split()[0] for line in plan[1:]] == ["blue", "red"]
    assert recipe.endswith("32 x 32 pixels, float32: 0 rows are stored, 10 are missing")
    # 1 x 1 x 512 numbers of four bytes, and 3,968 more, which shrink to half.
    assert space.startswith(
        "The missing rows take about 89.6 kB of disk, 9.0 MB for 1,000 images; "
    )

    trained = command(
        "classify", "data", *small, "--head", "logistic", "--head", "dense", folder=tiny
    )
    assert trained.returncode == 0, trained.stderr
    *plan, recipe, logistic, dense = trained.stderr.splitlines()
    assert len(plan) == 3
    assert recipe.endswith("10 rows are stored, 0 are missing")
    assert logistic.startswith("logistic: fitted in ")
    assert dense.startswith("dense: fitted in ")

    predicted = command("predict", "runs/data", "data", "--head", "dense", "--json", folder=tiny)
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stderr.startswith("Of 10 images, 8 were used to train this model")
    assert predicted.stderr.count("\n") == 1
    with (tiny / "runs" / "data" / "predictions.csv").open(newline="") as file:
        said = {row["path"]: row for row in csv.DictReader(file) if row["head"] == "dense"}
    found = json.loads(predicted.stdout)
    assert {item["path"] for item in found} == set(said)
    assert len({item["probabilities"]["red"] for item in found}) > 1
    for item in found:
        probability = float(said[item["path"]]["probability of red"])
        assert item["probabilities"]["red"] == pytest.approx(probability, abs=1e-5)


LOST = """
import signal, sys, time, weakref
import typer
from pipeline.cli.terminal import reporting_errors

class Cleared:
    def __del__(self):
        if where == "destructor":
            signal.raise_signal(number)

number, where = int(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with reporting_errors():
        cleared = Cleared()
        if where == "callback":
            reference = weakref.ref(cleared, lambda _: signal.raise_signal(number))
        del cleared
        time.sleep(30)
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""


@pytest.mark.parametrize("where", ["destructor", "callback"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_that_comes_while_an_object_is_cleared_away_is_not_lost(number, code, where):
    """Python prints what is raised there, and goes on."""
    ended = python(LOST, str(int(number)), where)
    assert ended.returncode == code, ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert ended.stderr.startswith("Stopped.")


@pytest.mark.parametrize(
    "command",
    [
        ["features"],
        ["status"],
        ["finetune"],
        ["backbones"],
        ["label"],
        ["label", "picture.png", "--as", "blue"],
        ["similar", "picture.png"],
        ["map", "--out", "map.svg"],
        ["cache", "prune", "--yes"],
        ["cache", "export", "new.h5"],
        ["app", "--no-browser"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("kind", ["new", "of 0.1.0", "renamed"])
def test_a_file_of_features_in_place_of_images_is_named_as_what_it_is(
    tmp_path, recipe, command, kind
):
    file = tmp_path / ("features.hdf5" if kind == "renamed" else "features.h5")
    if kind == "of 0.1.0":
        shutil.copy(STORED / "features.h5", file)
    else:
        export_features(some_dataset(12), recipe, some_rows(recipe, 12), tmp_path / "features.h5")
        (tmp_path / "features.h5").rename(file)
    paint(tmp_path / "picture.png", (9, 9, 9), 1)
    name, *rest = command
    first = 1 if name in ("cache", "similar") else 0  # what stands before DATA
    result = run(name, *rest[:first], file, *rest[first:])
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert f"{file} is an HDF5 file, which holds no images" in said
    assert "if `pipeline cache export` wrote it, give it, as a local file named .h5," in said
    assert "utf-8" not in said


@pytest.mark.parametrize("command", ["classify", "problems"])
def test_a_file_of_features_behind_an_address_is_not_looked_for_on_this_machine(command):
    result = run(command, "memory://folder/features.h5")
    assert result.exit_code == 1
    assert "Error: there are no files in memory://folder/features.h5." in result.stderr
