"""The command `label`: what to label next, labels given and taken away, labels to be reviewed."""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from commands import run_command
from conftest import CountingBackbone, paint, paint_classes
from rows import noisy

from pipeline import Labelling
from pipeline.features import computing

STAGE_ONE = ("--size", "64", "--precision", "float32")
RED, BLUE = (180, 70, 70), (70, 70, 180)


@pytest.fixture
def network(monkeypatch, at_home):
    networks = []

    def load(recipe, *_, **more):
        networks.append(CountingBackbone(recipe, **more))
        return networks[-1]

    monkeypatch.setattr(computing, "load_backbone", load)
    return networks


@pytest.fixture
def loose(network):
    """Pictures of two colours in the working directory's folder `loose`, without labels."""
    for number in range(12):
        paint(Path(f"loose/red-{number:02}.png"), RED, number)
        paint(Path(f"loose/blue-{number:02}.png"), BLUE, 100 + number)
    return "loose"


@pytest.fixture
def photos(network):
    """Class folders, and two pictures without a label beside them."""
    paint_classes(Path("photos"), 20)
    paint(Path("photos/red-a.png"), RED, 1)
    paint(Path("photos/blue-a.png"), BLUE, 2)
    return "photos"


def label(*arguments, code=0):
    done = run_command("label", *arguments, *STAGE_ONE)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done


def document(*arguments):
    return json.loads(label(*arguments, "--json").stdout)


def kept(file="loose-labels.csv"):
    with Path(file).open() as lines:
        return {row["path"]: row["label"] for row in csv.DictReader(lines)}


def test_at_the_start_it_says_what_to_label_and_how_to_begin(loose, network):
    shown = label(loose).stdout
    assert "0 labelled, 24 without a label" in shown
    listed = [line.split()[0] for line in shown.splitlines() if line.startswith("  loose/")]
    assert len(listed) == 10
    assert all(Path(path).is_file() for path in listed)
    assert "typical of many images" in shown
    assert "next: begin with any class" in shown
    assert f"  pipeline label loose {listed[0]} --as CLASS --size 64 --precision float32" in shown
    assert not Path("loose-labels.csv").exists()


def test_what_it_proposes_can_be_pasted_until_classify_takes_the_labels(loose, network):
    label(loose, *(f"loose/red-{number:02}.png" for number in range(10)), "--as", "red")
    done = label(
        loose, *(f"loose/blue-{number:02}.png" for number in range(10)), "--as", "blue", "--new"
    )
    for _ in range(4):
        command = next(line for line in done.stdout.splitlines() if " --as " in line)
        words = shlex.split(command)[1:]
        name = "red" if "red" in words[2] else "blue"
        assert words[3:5] == ["--as", name]  # what the picture looks like
        done = run_command(*words)
        assert done.exit_code == 0, done.output
        assert f"1 image is {name} now; was without a label before" in done.stdout
    assert "24 labelled (blue 12, red 12), 0 without a label" in done.stdout
    assert "accuracy in cross-validation: 1.000, 95 % interval 0.862 to 1.000" in done.stdout
    command = done.stdout.splitlines()[-1]
    assert command == "  pipeline classify loose-labels.csv --size 64 --precision float32"
    done = run_command(*shlex.split(command)[1:], "--head", "ridge")
    assert done.exit_code == 0, done.output
    assert sum(each.images for each in network) == 24  # each image once, in the first command


def test_the_document_has_the_state_and_the_next_images(loose):
    found = document(loose, "--count", 3)
    assert (found["labelled"], found["unlabelled"], found["counts"]) == (0, 24, {})
    assert (found["accuracy"], found["may_stop"], found["changed"]) == (None, False, [])
    assert found["file"] == "loose-labels.csv"
    assert len(found["next"]) == 3
    reds = [f"loose/red-{number:02}.png" for number in range(6)]
    found = document(loose, *reds, "--as", "red")
    assert found["changed"] == [{"path": path, "before": "", "label": "red"} for path in reds]
    document(loose, *(path.replace("red", "blue") for path in reds), "--as", "blue", "--new")
    found = document(loose)
    assert found["counts"] == {"blue": 6, "red": 6}
    assert found["accuracy_low"] < found["accuracy"] == 1
    assert {(each["why"], each["label"]) for each in found["next"]} == {
        (each["why"], "") for each in found["next"]
    }
    assert {each["suggested"] for each in found["next"]} <= {"red", "blue"}


def test_it_says_what_each_image_was_before(loose):
    label(loose, "loose/red-01.png", "--as", "blue")
    label(loose, "loose/red-02.png", "--as", "red", "--new")
    images = [f"loose/red-0{number}.png" for number in (1, 2, 3, 4)]
    shown = label(loose, *images, "--as", "red").stdout
    assert "1 image is red now; was blue before" in shown
    assert "1 image is red, as before, and confirmed" in shown
    assert "2 images are red now; were without a label before" in shown
    assert kept() == dict.fromkeys(images, "red")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["loose/red-01.png", "loose/nowhere.png", "--as", "green"],
            "loose/nowhere.png is not one",
        ),
        (["loose/red-01.png", "1", "--as", "green"], "1 is not one of the images of loose"),
        (["loose/red-01.png", "loose", "--as", "green"], "loose is not one of the images of loose"),
        (["loose/red-01.png", "--as", "greeen"], "greeen is none of the classes so far"),
        (["loose/red-01.png", "--as", "greeen"], "did you mean green? --new makes a new class"),
        (["loose/red-01.png", "--as", "x"], "Expected: green\nTo do: --new makes a new class"),
        (["loose/red-01.png", "--as", "CLASS"], "CLASS stands for the name of a class"),
        (["loose/red-01.png", "--as", "CLASS", "--new"], "CLASS stands for the name of a class"),
        (["loose/red-01.png", "--take-back", "--new"], "--new is given without --as"),
        (["--new"], "--new is given without --as"),
        (["loose/red-01.png", "--as", " "], "cannot be the name of a class"),
        (["loose/red-01.png", "--as", "NaN"], "cannot be the name of a class"),
        (["loose/red-01.png", "loose/nowhere.png", "--take-back"], "loose/nowhere.png is not one"),
        (["loose/red-01.png"], "the image loose/red-01.png is named, and not what to do with it"),
        (["loose/red-01.png", "x", "--review"], "2 images are named, and not what to do with them"),
        (["--as", "red"], "--as is given, and no image"),
        (["--take-back"], "--take-back is given, and no image"),
        (["loose/red-01.png", "--as", "red", "--take-back"], "--as and --take-back are given"),
        (["--labels", "nowhere/labels.csv"], "there is no folder nowhere"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_error_and_changes_nothing(loose, arguments, message):
    label(loose, "loose/red-00.png", "--as", "green")
    assert message in label(loose, *arguments, code=1).stderr
    assert kept() == {"loose/red-00.png": "green"}


def test_a_file_that_is_no_image_says_so(loose):
    Path("loose/broken.png").write_text("no image")
    done = label(loose, "loose/broken.png", "--as", "red", code=1)
    assert "loose/broken.png was skipped" in done.stderr


@pytest.mark.parametrize(
    ("name", "remark"),
    [
        ("Red", "The classes 'Red', 'red' are kept apart"),
        ("blue", "blue is a new class\n"),
    ],
)
def test_a_class_that_is_new_is_made_where_that_is_asked_for_and_said(loose, name, remark):
    first = label(loose, "loose/red-00.png", "--as", "red")  # there is no class yet
    assert "red is a new class\n" in first.output
    label(loose, "loose/red-01.png", "--as", name, code=1)
    assert remark in label(loose, "loose/red-01.png", "--as", name, "--new").output
    assert "is a new class" not in label(loose, "loose/red-02.png", "--as", name).output


def test_the_placeholder_of_a_class_is_no_class_unless_it_is_one_already(loose):
    done = label(loose, "loose/red-00.png", "--as", "CLASS", code=1)
    assert "CLASS stands for the name of a class" in done.stderr
    assert not Path("loose-labels.csv").exists()
    Path("listed.csv").write_text("path,label\nloose/red-00.png,CLASS\nloose/red-01.png,\n")
    label("listed.csv", "loose/red-01.png", "--as", "CLASS")


def test_a_class_whose_last_label_was_taken_back_is_not_listed(loose):
    label(loose, "loose/red-00.png", "--as", "red")
    label(loose, "loose/blue-00.png", "--as", "bleu", "--new")
    shown = label(loose, "loose/blue-00.png", "--take-back").stdout
    assert "1 labelled (red 1), 23 without a label" in shown
    label(loose, "loose/blue-00.png", "--as", "bleu", code=1)


def test_a_label_is_taken_away_whoever_gave_it(loose):
    label(loose, "loose/red-00.png", "loose/red-01.png", "--as", "red")
    shown = label(loose, "loose/red-00.png", "loose/red-02.png", "--take-back").stdout
    assert "1 image is without a label now; was red before" in shown
    assert "1 image is without a label, as before" in shown
    assert kept() == {"loose/red-01.png": "red"}


def test_an_image_of_a_class_folder_has_its_label_again(photos):
    label(photos, "photos/red/000.png", "--as", "blue")
    shown = label(photos, "photos/red/000.png", "photos/red/001.png", "--take-back").stdout
    assert "1 image is red now; was blue before" in shown
    assert "1 image is red, as before" in shown
    assert kept("photos-labels.csv")["photos/red/000.png"] == "red"
    assert document(photos)["counts"] == {"blue": 20, "red": 20}


def test_labels_that_are_likely_wrong_are_listed_and_corrected(photos, extractor):
    paint_classes(Path("photos"), 30)
    shutil.move("photos/red/003.png", "photos/blue/wrong.png")
    Labelling(photos, extractor=replace(extractor, forward=noisy, cache=Path("cache")))
    shown = label(photos, "--review").stdout
    assert "1 label is likely wrong" in shown
    assert "  photos/blue/wrong.png  labelled blue, looks like red\n" in shown
    assert "next: correct the label, or confirm it with the same class\n" in shown
    assert "  pipeline label photos photos/blue/wrong.png --as red --size 64" in shown
    [suspect] = document(photos, "--review")["next"]
    assert (suspect["suggested"], suspect["why"]) == ("red", "suspicious")
    shown = label(photos, "photos/blue/wrong.png", "--as", "blue").stdout
    assert "1 image is blue, as before, and confirmed\n" in shown
    assert document(photos, "--review")["suspicious"] == 0
    shown = label(photos, "photos/blue/wrong.png", "--take-back").stdout
    assert "1 image is blue, as before\n" in shown
    assert document(photos, "--review")["suspicious"] == 1
    label(photos, "photos/blue/wrong.png", "--as", "red")
    assert "no label is suspicious" in label(photos, "--review").stdout
    assert document(photos, "--review")["suspicious"] == 0


def test_problems_proposes_the_review_and_its_paths_are_found(photos, extractor):
    paint_classes(Path("photos"), 30)
    shutil.move("photos/red/003.png", "photos/blue/wrong.png")
    Labelling(photos, extractor=replace(extractor, forward=noisy, cache=Path("cache")))
    done = run_command("problems", photos, "--no-learning-curve", *STAGE_ONE)
    why, command = done.stdout.splitlines()[-2:]
    assert why == "next: look through the labels that are likely wrong"
    assert command == "  pipeline label photos --review --size 64 --precision float32"
    done = run_command(*shlex.split(command)[1:])
    assert "1 label is likely wrong" in done.stdout
    label(photos, "blue/wrong.png", "--as", "red")
    assert kept("photos-labels.csv")["photos/blue/wrong.png"] == "red"


@pytest.mark.parametrize("data", ["photos", "photos-labels.csv"])
def test_problems_leaves_out_labels_that_were_confirmed_and_says_so(photos, extractor, data):
    paint_classes(Path("photos"), 30)
    shutil.move("photos/red/003.png", "photos/blue/wrong.png")
    Labelling(photos, extractor=replace(extractor, forward=noisy, cache=Path("cache")))
    label(photos, "photos/red-a.png", "--as", "red")

    def suspicious():
        shown = run_command("problems", data, "--no-learning-curve", *STAGE_ONE).stdout
        left_out = (
            "- 1 label that looks wrong was confirmed in a review and is left out.\n" in shown
        )
        assert left_out == ("left out" in shown) == ("likely wrong" not in shown)
        return not left_out and "1 of " in shown

    assert suspicious()
    label(photos, "photos/blue/wrong.png", "--as", "blue")
    assert not suspicious()
    label(photos, "photos/blue/wrong.png", "--take-back")
    assert suspicious()


def test_a_confirmation_holds_for_that_label_only(photos, extractor):
    paint_classes(Path("photos"), 30)
    shutil.move("photos/red/003.png", "photos/blue/wrong.png")
    Labelling(photos, extractor=replace(extractor, forward=noisy, cache=Path("cache")))
    label(photos, "photos/blue/wrong.png", "--as", "blue")
    label(photos, "photos/blue/wrong.png", "--as", "red")
    shown = run_command("problems", photos, "--no-learning-curve", *STAGE_ONE).stdout
    assert "likely wrong" in shown  # the folder's label is blue still
    assert "left out" not in shown


def test_nothing_is_proposed_with_a_file_of_labels_that_is_not_there(photos):
    done = label(photos)
    shown = done.stdout
    assert "40 labelled (blue 20, red 20), 2 without a label" in shown
    assert "without a label" not in done.stderr  # once is enough: labels that were given count
    assert "  pipeline label photos photos/" in shown
    assert " --as CLASS" not in shown
    assert "accuracy in cross-validation: 1.000" in shown
    assert "photos-labels.csv" not in shown
    assert "hard images" not in shown
    label(photos, "photos/red/000.png", "--as", "red")  # which it is: no label is given
    assert "hard images" not in label(photos).stdout
    shown = label(photos, "photos/red-a.png", "--as", "red").stdout
    assert "  pipeline classify photos-labels.csv --size 64 --precision float32" in shown
    assert "hard images come first" in shown


def test_several_commands_at_once_lose_nothing(loose, monkeypatch):
    document(loose)  # computes the features
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "pipeline", "label", loose, *STAGE_ONE]
    images = [[f"loose/{name}-0{n}.png" for n in range(9)] for name in ("red", "blue")]
    running = [
        subprocess.Popen(
            [*command, *of, "--as", name, "--new"], env=environment, stdout=subprocess.PIPE
        )
        for name, of in zip(("red", "blue"), images, strict=True)
    ]
    assert [each.wait(timeout=100) for each in running] == [0, 0]
    assert kept() == dict.fromkeys(images[0], "red") | dict.fromkeys(images[1], "blue")


def test_a_page_that_is_open_sees_what_a_command_labels(loose, extractor):
    page = Labelling(loose, extractor=replace(extractor, cache=Path("cache")))
    asked = page.next()[0]
    label(loose, asked.path, "--as", "red")
    assert page.next()[0].path != asked.path
    page.answer(page.next()[0].path, "blue")
    assert document(loose)["counts"] == {"blue": 1, "red": 1}


@pytest.mark.parametrize("name", ["with space.png", "it's.png", "-dash.png", "ümlaut [red].png"])
def test_a_path_can_be_pasted_from_the_list(loose, name, monkeypatch):
    paint(Path("odd") / name, RED, 1)
    paint(Path("odd/blue.png"), BLUE, 2)
    monkeypatch.chdir("odd")
    own = (".", "--labels", "../odd.csv", "--cache", "../cache")
    lines = label(*own).stdout.splitlines()
    line = next(line for line in lines if "typical" in line and "blue" not in line)
    path = shlex.split(line)[0]
    label(*own, path, "--as", "red")
    assert kept("../odd.csv") == {f"odd/{name}": "red"}
    [next_one] = document(*own)["next"]
    assert next_one["path"] == "blue.png"


def test_a_csv_with_empty_labels_is_labelled(loose):
    rows = "".join(f"loose/red-0{n}.png,{'red' * (n > 1)}\n" for n in range(5))
    Path("listed.csv").write_text("path,label\n" + rows)
    shown = label("listed.csv").stdout
    assert "3 labelled (red 3), 2 without a label" in shown
    assert "next: label an image, or several" in shown
    label("listed.csv", "loose/red-00.png", "loose/red-01.png", "--as", "blue", "--new")
    shown = label("listed.csv").stdout
    assert "every image has a label" in shown
    assert "  pipeline label listed.csv --review --size 64" in shown
    assert list(kept("listed-labels.csv").values()).count("blue") == 2


@pytest.fixture
def nested(network):
    """Pictures of two classes in folders of one name, those without a label beside them."""
    paint_classes(Path("nested/photos"), 3)
    paint(Path("nested/photos/unlabelled/000.png"), RED, 1)
    return "nested/photos"


@pytest.mark.parametrize("image", ["red/000.png", "photos/red/000.png", "./red/../red/000.png"])
def test_an_image_is_found_by_the_end_of_its_path(nested, image):
    label(nested, image, "--as", "blue")
    assert kept("photos-labels.csv")["nested/photos/red/000.png"] == "blue"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("000.png", "000.png is the end of 3 paths: nested/photos/"),
        ("ed/000.png", "ed/000.png is not one of the images of photos"),
        ("blue/001.png", "blue/001.png is not one of the images of photos"),
        ("red/broken.png", "broken.png was skipped: "),
    ],
)
def test_an_image_that_is_not_clear_is_refused(nested, image, message):
    paint(Path("blue/001.png"), BLUE, 1)  # another file, which is meant
    Path("nested/photos/red/broken.png").write_text("no image")
    assert message in label(nested, image, "--as", "red", code=1).stderr
    assert not Path("photos-labels.csv").exists()
