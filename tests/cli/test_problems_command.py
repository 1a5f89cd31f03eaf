"""The command `problems`."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from conftest import CountingBackbone, paint_classes


@pytest.fixture
def exported(tmp_path):
    """Features in a file, with two copies across splits, of which one has another label."""
    from pipeline.backbones.registry import make_recipe
    from pipeline.data.loading import load_dataset
    from pipeline.features.exchange import export_features

    dataset = load_dataset(paint_classes(tmp_path / "photos", 40))
    recipe = make_recipe(size=64, precision="float32")
    rng = np.random.default_rng(0)
    rows = rng.exponential(size=(80, *recipe.shape)) * (rng.random((80, *recipe.shape)) < 0.1)
    rows[..., 0] += dataset.targets.labels[:, None, None]
    train, test = dataset.where("train"), dataset.where("test")
    rows[test[0]] = rows[train[0]]
    other = next(
        place for place in test if dataset.targets.labels[place] != dataset.targets.labels[train[1]]
    )
    rows[other] = rows[train[1]]
    file = tmp_path / "features.h5"
    export_features(dataset, recipe, rows.astype(np.float32), file)
    return file, dataset, {(train[0], test[0]), (train[1], other)}


def test_the_command_problems_names_the_files(exported):
    file, dataset, copies = exported
    done = run_command("problems", file, "--no-learning-curve")
    assert done.exit_code == 0, done.output
    for first, second in copies:
        line = next(line for line in done.stdout.splitlines() if dataset.paths[second].name in line)
        assert dataset.paths[first].name in line
    assert "2 of " in done.stdout
    assert "1 duplicate or near-duplicate pair has different labels" in done.stdout
    assert "Going from" not in done.stdout
    assert "pipeline label" not in done.stdout  # which takes no such file


def test_the_command_problems_prints_json_with_whole_paths_and_the_curve(exported):
    file, dataset, copies = exported
    done = run_command("problems", file, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    named = {(pair["first"], pair["second"]) for pair in found["duplicates"]["pairs"]}
    assert named == {(str(dataset.paths[a]), str(dataset.paths[b])) for a, b in copies}
    assert found["learning_curve"]["answer"].startswith("Going from")
    assert found["quarantined"] == []


def test_the_command_problems_says_before_the_work_that_there_is_no_run(exported):
    done = run_command("problems", exported[0], "--run", "runs/none")
    assert done.exit_code == 1
    assert "there is no run in runs/none" in done.output
    assert "comparing" not in done.output


def test_an_exported_file_can_be_looked_at_for_a_run_with_any_settings(exported):
    done = run_command("classify", exported[0], "--head", "ridge", "--name", "small")
    assert done.exit_code == 0, done.output
    done = run_command("problems", exported[0], "--no-learning-curve", "--run", "runs/small")
    assert done.exit_code == 0, done.output
    assert "on the run's page: runs/small/report.html" in done.stderr


def test_no_picture_is_taken_from_where_an_exported_file_points_to(exported):
    """The file may be a stranger's, and its paths lead to pictures of this machine."""
    file, dataset, _ = exported
    assert all(path.is_file() for path in dataset.paths)
    done = run_command("classify", file, "--head", "ridge", "--name", "given")
    assert done.exit_code == 0, done.output
    assert "images on the page cannot be shown: the run keeps none" in done.stderr
    done = run_command("problems", file, "--no-learning-curve", "--run", "runs/given")
    assert done.exit_code == 0, done.output
    assert "data:image/jpeg" not in Path("runs/given/report.html").read_text()
    assert json.loads(Path("runs/given/pictures.json").read_text())["images"] == {}


def test_the_comparison_is_announced_after_the_features_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pipeline.features.computing.load_backbone",
        lambda recipe, _, **more: CountingBackbone(recipe, **more),
    )
    photos = paint_classes(tmp_path / "photos")
    done = run_command("problems", photos, "--no-learning-curve", "--size", "64")
    assert done.exit_code == 0, done.output
    assert done.stderr.index("40 are missing") < done.stderr.index("comparing the images")


@pytest.mark.parametrize("options", [(), ("--cv", "3"), ("--search",)])
def test_classify_and_problems_name_the_same_labels(exported, options):
    file, _, _ = exported
    done = run_command("classify", file, "--head", "knn", *options, "--name", "same")
    assert done.exit_code == 0, done.output
    ours = json.loads(Path("runs/same/problems.json").read_text())["labels"]["suspects"]
    done = run_command("problems", file, "--no-learning-curve", "--json")
    theirs = json.loads(done.stdout)["labels"]["suspects"]
    assert ours
    names = [
        [(one["path"], one["score"], one["likely"]) for one in each] for each in (ours, theirs)
    ]
    assert names[0] == names[1]


@pytest.fixture
def run_of(tmp_path, networks):
    """Make a run of small pictures with given options; return the pictures."""

    def make(*options):
        photos = paint_classes(tmp_path / "photos")
        done = run_command("classify", photos, *options, "--head", "logistic", "--name", "mine")
        assert done.exit_code == 0, done.output
        return photos

    return make


_LITE = ("--backbone", "efficientnet-lite0", "--size", "64")


@pytest.mark.parametrize(
    ("made_with", "repeated"),
    [
        (_LITE, ()),
        (_LITE, ("--size", "64")),
        ((*_LITE, "--seed", "3"), ()),
        ((*_LITE, "--white", "4095", "--resize", "bicubic", "--precision", "float32"), ()),
        (("--size", "64", "--scaling", "unit"), ()),
        (("--size", "64", "--scaling", "unit"), ("--scaling", "unit")),
        ((*_LITE, "--seed", "3"), ("--seed", "3", "--page", "1")),
        (("--size", "64", "--layer", "block4_pool"), ()),
    ],
)
def test_with_a_run_its_settings_are_taken(run_of, networks, made_with, repeated):
    photos = run_of(*made_with)
    loaded = len(networks)
    done = run_command("problems", photos, "--no-learning-curve", "--run", "runs/mine", *repeated)
    assert done.exit_code == 0, done.output
    assert "on the run's page" in done.stderr
    assert len(networks) == loaded  # all features were there


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--backbone", "vgg19"), "--backbone vgg19"),
        (("--size", "96"), "--size 96"),
        (("--size", "64", "--white", "4095", "--page", "2"), "--white 4095 --page 2"),
        (("--scaling", "unit"), "--scaling unit"),
        (("--layer", "block4_pool"), "--layer block4_pool"),
        (("--seed", "1"), "--seed 1"),
        # The defaults, of which the run has none:
        (("--seed", "0"), "--seed 0"),
        (("--backbone", "vgg16", "--page", "1"), "--backbone vgg16"),
        (("--resize", "bilinear"), "--resize bilinear"),
    ],
)
def test_options_that_contradict_the_run_are_refused(run_of, networks, options, named):
    photos = run_of(*_LITE, "--seed", "3", "--resize", "bicubic")
    page, loaded = Path("runs/mine/problems.json").read_bytes(), len(networks)
    done = run_command("problems", photos, "--run", "runs/mine", *options)
    assert done.exit_code == 1
    assert f"Error: {named} is given with --run." in done.stderr
    assert "leave it out" in done.stderr
    assert len(networks) == loaded  # said before any row was made
    assert Path("runs/mine/problems.json").read_bytes() == page
