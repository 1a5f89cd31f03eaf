"""What to do next is proposed in commands, the most useful first."""

import json
import shlex

import pytest
from imitated import change, imitate

from pipeline.runs.next_steps import next_steps
from pipeline.runs.reading import read_problems, read_run_document


def proposed(folder):
    document, problems = read_run_document(folder), read_problems(folder)
    return next_steps(
        document,
        problems,
        run="runs/mine",
        data="my photos",
        options=["--size", "64", "--cache", "my rows", "--seed", "3"],
        candidates=["--head", "knn", "--head", "lda"],
    )


@pytest.mark.parametrize(
    ("skill", "counts", "protocol", "expected"),
    [
        (0.5, (40, 20, 160), {}, ["recall=0.95", "--cv 5", "predict"]),
        (0.5, (40, 20, 160), {"positive": "blue"}, ["recall=0.95", "--cv 5", "predict"]),
        # An aim of 0.95 takes 73 tested images of the class, which is half of all:
        (0.5, (40, 20, 146), {}, ["recall=0.95", "--cv 5", "predict"]),
        (0.5, (40, 20, 144), {}, ["recall=0.95 --cv 5", "problems", "predict"]),
        (0.5, (66, 20, 60), {}, ["recall=0.95 --cv 5", "problems", "predict"]),
        (0.5, (64, 20, 60), {}, ["--cv 5", "problems", "predict"]),
        (0.5, (40, 20, 60), {}, ["--cv 5", "problems", "predict"]),
        (0.5, (40, 20, 160), {"cv": 5}, ["recall=0.95", "problems", "predict"]),
        (0.5, (40, 20, 60), {"cv": 5}, ["pipeline classify", "problems", "predict"]),
        (0.0, (40, 20, 16), {}, ["--cv 5", "problems"]),  # too few for an aim, or to rely on
        (0.0, (40, 20, 16), {"cv": 5}, ["pipeline classify", "problems"]),
        (0.5, (40, 20, 60), {"threshold": "f1"}, ["--cv 5", "problems", "predict"]),
        (3.0, (40, 20, 60), {"cv": 5}, ["problems", "predict"]),
        (3.0, (40, 20, 2000), {}, ["problems", "predict"]),
    ],
)
def test_the_steps_fit_the_run(tmp_path, skill, counts, protocol, expected):
    imitate(tmp_path / "run", skill=skill, counts=counts)
    change(tmp_path / "run", protocol=protocol)
    steps = proposed(tmp_path / "run")
    assert len(steps) == len(expected) <= 3
    for step, words in zip(steps, expected):
        assert words in step.command
        assert step.why
        if words == "--cv 5":
            assert "recall" not in step.command
        if words == "predict":
            assert step.command == "pipeline predict runs/mine NEW_PHOTOS"
        else:
            assert shlex.split(step.command)[2] == "my photos"
            assert "--cache 'my rows'" in step.command
            assert ("--size 64" in step.command) == ("classify" in step.command)  # or from the run
            assert ("--head knn --head lda" in step.command) == ("classify" in step.command)


def test_after_a_search_for_problems_with_a_learning_curve_it_is_not_proposed_again(tmp_path):
    imitate(tmp_path / "run", counts=(40, 20, 2000), skill=3.0, looked_into=True)
    assert not any("problems" in step.command for step in proposed(tmp_path / "run"))


def test_where_copies_matter_cross_validation_is_proposed_for_that(tmp_path):
    imitate(tmp_path / "run", counts=(40, 20, 2000), skill=3.0, looked_into=True)
    file = tmp_path / "run" / "problems.json"
    found = json.loads(file.read_text())
    found["leakage"] |= {"points": 2.0, "low": 0.5, "high": 3.0}
    file.write_text(json.dumps(found))
    first, *_ = proposed(tmp_path / "run")
    assert "copies" in first.why
    assert "--cv 5" in first.command


def test_a_step_keeps_the_aim(tmp_path):
    imitate(tmp_path / "run", skill=0.5)
    change(
        tmp_path / "run",
        protocol={"threshold": "recall=0.95", "positive": "blue", "balanced": True},
    )
    command = proposed(tmp_path / "run")[0].command
    assert "--positive blue --threshold recall=0.95 --balanced --cv 5" in command


@pytest.mark.parametrize(("judged", "listed"), [(1000, True), (4, False)])
def test_labels_that_may_be_wrong_are_offered_unless_the_classifiers_are_at_fault(
    tmp_path, judged, listed
):
    imitate(tmp_path / "run", counts=(40, 20, 2000), skill=3.0, looked_into=True)
    file = tmp_path / "run" / "problems.json"
    found = json.loads(file.read_text())
    found["learning_curve"] = None
    found["labels"]["judged"] = judged
    names = {"path": "a.png", "split": "test", "label": "red", "suggested": "blue"}
    found["labels"]["suspects"] = [{**names, "score": -0.5, "likely": True}] * 3
    file.write_text(json.dumps(found))
    [why] = [step.why for step in proposed(tmp_path / "run") if "problems" in step.command]
    assert ("list the 3 labels that may be wrong" in why) == listed
    assert "whether more images would help" in why


def test_images_of_the_class_that_an_aim_lacks_are_asked_for(tmp_path):
    imitate(tmp_path / "run", skill=3.0)
    protocol = {"cv": 5, "positive": "blue", "threshold": "recall=0.95"}
    heads = json.loads((tmp_path / "run" / "run.json").read_text())["heads"]
    threshold = {"positive": 0, "value": 0.5, "aim": "recall=0.95", "reached": True}
    change(
        tmp_path / "run",
        protocol=protocol,
        heads=[{**head, "threshold": threshold} for head in heads],
    )
    first, *_ = proposed(tmp_path / "run")
    assert first.why.startswith("add images of blue, of which there are too few for this aim")
    assert first.command.endswith("--positive blue --threshold recall=0.95")


def test_where_an_aim_cannot_be_shown_images_are_asked_for_and_no_aim(tmp_path):
    imitate(tmp_path / "run", skill=0.5)
    change(tmp_path / "run", protocol={"cv": 5})
    first, *more = proposed(tmp_path / "run")
    assert first.why == "add images of red, many of which are missed, and run again"
    assert not any("recall=" in step.command for step in [first, *more])
