"""The page that puts several runs side by side."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from imitated import change, imitate
from pages import Page, nothing_leaves, report, rows_of, speaks

from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import evaluate
from pipeline.evaluation.significance import corrected_t_test
from pipeline.report.page import write_comparison


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "mine"


def compared(*folders):
    return Page(write_comparison(folders, folders[0].parent / "compare.html"))


def test_runs_on_the_same_images_are_held_against_each_other(tmp_path):
    paths = tuple(Path(f"{number}.png") for number in range(120))
    weak = imitate(tmp_path / "weak", paths=paths, skill=0.3)
    strong = imitate(tmp_path / "strong", paths=paths, skill=2, seed=1, heads=("dense",))
    found = compared(weak.folder, strong.folder)
    nothing_leaves(found)
    speaks(found)
    first, chosen, against = found.verdict[:3]
    assert first.startswith("strong (dense): ")
    assert "best classifiers of 2 runs on the same images" in chosen
    assert "The runner-up, weak (" in against
    assert "is more than noise" in against
    rows = rows_of(found.section("heads").one("table"))
    assert sorted(row[0].split()[0] for row in rows) == ["strong", "weak", "weak"]
    assert {row[2].split()[0] for row in rows} == {
        f"{result.test.accuracy:.3f}" for run in (weak, strong) for result in run.results
    }
    table = found.section("differences").one("table")
    different = {name: values for name, *values in rows_of(table)}
    assert different["seed"] == ["0", "1"]
    assert different["best classifier"][1] == "dense"
    assert "features: layer" not in different
    assert "block5_pool" in found.section("differences").one("dl").text


def test_runs_that_are_right_on_the_same_images_are_said_to_be(tmp_path):
    paths = tuple(Path(f"{number}.png") for number in range(120))
    one, same = (imitate(tmp_path / name, paths=paths) for name in ("one", "same"))
    found = compared(one.folder, same.folder)
    assert any("is right on the same images." in sentence for sentence in found.verdict)


def of_groups(size):
    groups = np.arange(60) // size
    return evaluate(np.arange(60) % 2, np.full((60, 2), 0.5), groups=groups).interval_method


@pytest.mark.parametrize(
    "method",
    [of_groups(2), of_groups(20), "percentile bootstrap of groups of images, 1,000 resamples"],
    ids=["many", "few", "of version 0.1.0"],
)
@pytest.mark.parametrize("grouped", [("weak", "strong"), ("weak",), ("strong",)])
def test_images_that_come_in_groups_are_not_counted_as_independent(tmp_path, grouped, method):
    paths = tuple(Path(f"{number}.png") for number in range(120))
    weak = imitate(tmp_path / "weak", paths=paths, skill=0.3)
    strong = imitate(tmp_path / "strong", paths=paths, skill=2, seed=1, heads=("dense",))
    for run in (weak, strong):
        if run.folder.name in grouped:
            heads = json.loads((run.folder / "run.json").read_text())["heads"]
            for head in heads:
                head["test"]["interval_method"] = method
            change(run.folder, heads=heads)
    [told] = [said for said in compared(weak.folder, strong.folder).verdict if "runner-up" in said]
    assert "only strong (dense) is correct on " in told
    assert "images come in groups" in told
    assert not re.search("noise \\(|McNemar|p [<=]", told)


def test_runs_on_other_images_are_not_ranked(tmp_path):
    one, other = imitate(tmp_path / "one"), imitate(tmp_path / "other", data_seed=1)
    found = compared(one.folder, other.folder)
    assert found.verdict[0].startswith("These runs were not judged on the same images")
    assert "correct" not in found.verdict[0]
    assert not list(found.root.all("section", id="curves"))
    names = [row[0] for row in rows_of(found.section("differences").one("table"))]
    assert "digest of the data" in names


def test_the_same_images_under_other_names_cannot_be_paired_and_that_is_said(tmp_path):
    one, other = imitate(tmp_path / "one"), imitate(tmp_path / "other", seed=1)
    found = compared(one.folder, other.folder)
    assert "cannot be compared with the runner-up" in found.verdict[2]
    (one.folder / "predictions.csv").unlink()
    found = compared(one.folder, other.folder)
    assert "one: predictions.csv cannot be read" in found.section("curves").text


def test_a_run_that_learned_from_validation_is_not_chosen_by_it(tmp_path):
    paths = tuple(Path(f"{number}.png") for number in range(120))
    fair = imitate(tmp_path / "fair", paths=paths, skill=0.5)
    other = imitate(tmp_path / "other", paths=paths, skill=2, heads=("tuned",), validated=False)
    found = compared(other.folder, fair.folder)
    assert found.verdict[0].startswith("fair (")
    assert "The runner-up, other (tuned), has" in found.verdict[2]
    assert "other (tuned) was trained on the validation images too" in found.verdict[3]
    more = imitate(tmp_path / "more", paths=paths, heads=("tuned",), validated=False)
    assert compared(other.folder, more.folder).verdict[0].startswith("None of these runs can be")


@pytest.mark.parametrize("protocol", [{"search": True}, {"cv": 5}])
def test_runs_that_chose_in_different_ways_are_not_ranked(tmp_path, protocol):
    paths = tuple(Path(f"{number}.png") for number in range(120))
    one = imitate(tmp_path / "one", paths=paths)
    other = imitate(tmp_path / "other", paths=paths, seed=1)
    change(other.folder, protocol=protocol)
    found = compared(one.folder, other.folder)
    assert found.verdict[0].startswith("No best can be named: the lowest log loss ")
    assert "runner-up" not in " ".join(found.verdict)
    assert [one.split()[0] for one in sorted(found.verdict[1:])] == ["one", "other"]
    [(key, _)] = protocol.items()
    names = [row[0] for row in rows_of(found.section("differences").one("table"))]
    assert f"protocol: {key}" in names


def test_thresholds_are_told_where_runs_and_heads_are_compared(tmp_path):
    paths = tuple(Path(f"{number}.png") for number in range(120))
    one, other = imitate(tmp_path / "one", paths=paths), imitate(tmp_path / "other", paths=paths)
    threshold = {"positive": 1, "value": 0.25, "aim": "recall=0.9", "reached": True}
    for run in (one, other):
        heads = json.loads((run.folder / "run.json").read_text())["heads"]
        assert len(heads) > 1
        change(run.folder, heads=[{**head, "threshold": threshold} for head in heads])
    name = one.dataset.classes[1]
    rule = f"called {name} when P({name}) ≥ 0.250, chosen for recall 0.9. Aim "
    told = [said for said in compared(one.folder, other.folder).verdict if rule in said]
    assert len(told) == 1
    text = report(one.folder).section("heads").text
    assert text.count(rule.removesuffix(" Aim ")) == 1
    assert f"recall of {name} precision of {name}" in (
        compared(one.folder, other.folder).section("heads").text
    )
    for head in heads:  # figures of another class
        head["test"]["positive"] = 0
    change(other.folder, heads=heads)
    assert "recall of" not in compared(one.folder, other.folder).section("heads").text


@pytest.mark.parametrize(
    "others",
    [("recall=0.9", "blue"), ("recall=0.95", "red"), ("precision=0.9", "red"), (None, "red")],
)
def test_runs_that_chose_for_different_aims_are_not_ranked(tmp_path, others):
    paths = tuple(Path(f"{number}.png") for number in range(120))
    one, other = (
        imitate(tmp_path / name, paths=paths, heads=("dense",)) for name in ("one", "other")
    )
    for run, (threshold, positive) in ((one, ("recall=0.9", "red")), (other, others)):
        heads = json.loads((run.folder / "run.json").read_text())["heads"]
        cost, number = (0.3, 0.2)[run is one], ("blue", "red").index(positive)
        for head in heads:
            head["test"]["positive"] = number
            if threshold:
                head["aim_cost"] = cost
                head["threshold"] = {
                    "positive": number,
                    "value": 0.25,
                    "aim": threshold,
                    "reached": True,
                }
        change(run.folder, protocol={"threshold": threshold, "positive": positive}, heads=heads)
    found = compared(one.folder, other.folder)
    assert found.verdict[0].startswith("No best can be named: ")
    assert "the fewest false alarms at recall 0.9 for red on validation" in found.verdict[0]
    if others[0] is None:
        assert "the lowest log loss on validation" in found.verdict[0]
    assert "runner-up" not in " ".join(found.verdict)
    assert [said.split()[0] for said in sorted(found.verdict[1:])] == ["one", "other"]


@pytest.mark.parametrize("validated", [True, False])
def test_of_runs_with_one_aim_that_with_the_lowest_cost_is_the_best(tmp_path, validated):
    paths = tuple(Path(f"{number}.png") for number in range(120))
    costly, cheap = (imitate(tmp_path / name, paths=paths) for name in ("costly", "cheap"))
    for run, cost in ((costly, 0.3), (cheap, 0.2)):
        heads = json.loads((run.folder / "run.json").read_text())["heads"]
        heads = [{**head, "aim_cost": cost + place} for place, head in enumerate(heads)]
        change(run.folder, protocol={"threshold": "recall=0.9"}, heads=heads)
    folders = [costly.folder, cheap.folder]
    if not validated:  # a run without figures on validation is not better than those that have some
        tuned = imitate(tmp_path / "tuned", paths=paths, heads=("tuned",), validated=False)
        folders.insert(0, tuned.folder)
    found = compared(*folders)
    assert found.verdict[0].startswith("cheap (")
    assert "the fewest false alarms at recall 0.9 on validation" in found.verdict[1]
    assert "The runner-up, costly (" in found.verdict[2]


def test_runs_that_chose_on_other_numbers_of_images_are_not_ranked(tmp_path):
    one, other = imitate(tmp_path / "one"), imitate(tmp_path / "other", seed=1)
    heads = json.loads((other.folder / "run.json").read_text())["heads"]
    for head in heads:
        head["validation"]["n"] = 30
    change(other.folder, heads=heads)
    assert compared(one.folder, other.folder).verdict[0].startswith("No best can be named")


def test_cross_validated_runs_are_ranked_and_their_images_not_called_test_images(tmp_path):
    runs = [imitate(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "other"))]
    for run in runs:
        change(run.folder, protocol={"cv": 5})
    found = compared(*(run.folder for run in runs))
    assert "correct in 5-fold cross-validation (60 images)" in found.verdict[0]
    assert "lowest log loss on inner folds" in found.verdict[1]
    assert "test images" not in found.section("heads").text + " ".join(found.verdict)


@pytest.mark.parametrize(
    ("better_by", "verdict"),
    [((0.1, 0.0, 0.1, -0.1, 0.1), "within noise"), ((0.1, 0.11, 0.1, 0.1, 0.1), "more than noise")],
)
def test_cross_validated_runs_are_compared_by_their_folds(tmp_path, better_by, verdict):
    paths = tuple(Path(f"{number}.png") for number in range(120))
    weak = imitate(tmp_path / "weak", paths=paths, skill=0.3)
    strong = imitate(tmp_path / "strong", paths=paths, skill=2, seed=1, heads=("dense",))
    for run, accuracies in ((weak, [0.5] * 5), (strong, [0.5 + more for more in better_by])):
        heads = json.loads((run.folder / "run.json").read_text())["heads"]
        for head in heads:
            head["fold_accuracies"] = accuracies
        change(run.folder, protocol={"cv": 5}, heads=heads)
    against = compared(weak.folder, strong.folder).verdict[2]
    p = corrected_t_test(better_by, folds=5)
    assert f"is {verdict} (corrected resampled t test, p" in against
    assert (p >= 0.05) == (verdict == "within noise")


def test_runs_of_the_same_name_are_told_apart_by_their_folders(tmp_path):
    one = imitate(tmp_path / "a" / "photos")
    other = imitate(tmp_path / "b" / "photos", seed=1)
    names = [
        row[0] for row in rows_of(compared(one.folder, other.folder).section("heads").one("table"))
    ]
    assert {name.split()[0] for name in names} == {str(one.folder), str(other.folder)}


def test_one_run_alone_cannot_be_compared(folder, tmp_path):
    imitate(folder)
    with pytest.raises(PipelineError, match="fewer than two runs"):
        write_comparison([folder], tmp_path / "compare.html")
    with pytest.raises(PipelineError, match="a run is named more than once"):
        write_comparison([folder, folder / "models" / ".."], tmp_path / "compare.html")
    assert not (tmp_path / "compare.html").exists()


@pytest.mark.parametrize("name", ["photo.jpg", "run.json", "page", "mine.html", "pipe.html"])
def test_a_comparison_takes_the_place_of_nothing_but_a_page(folder, name):
    imitate(folder)
    imitate(folder.parent / "other", seed=1)
    file = folder.parent / name
    if name.startswith("pipe"):
        os.mkfifo(file)
    else:
        file.write_bytes(b"precious")
    with pytest.raises(PipelineError, match=r"not a regular file|ends in \.html|did not write"):
        write_comparison([folder, folder.parent / "other"], file)
    assert file.is_fifo() or file.read_bytes() == b"precious"


def test_the_command_compare_writes_the_page_and_names_it(folder, monkeypatch):
    imitate(folder)
    imitate(folder.parent / "other", seed=1)
    monkeypatch.chdir(folder.parent.parent)
    done = run_command("compare", "runs/mine", "runs/other", "--out", "both.html")
    assert done.exit_code == 0
    assert "2 runs side by side: both.html" in done.stdout
    assert "mine" in Page(Path("both.html")).section("heads").text
