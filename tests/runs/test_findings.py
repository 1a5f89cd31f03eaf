"""What may be wrong with the data, neighbours and maps, on the page and from the command."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
from conftest import paint, paint_classes
from imitated import imitate
from PIL import Image
from test_page import nothing_leaves, report, rows_of, run_command, speaks

from pipeline.backbones.registry import get_backbone
from pipeline.classification import experiment as classification
from pipeline.errors import PipelineError
from pipeline.report.page import write_report
from pipeline.report.thumbnails import overlay, strongest
from pipeline.runs.writing import add_problems


@pytest.fixture(scope="module")
def looked_into(tmp_path_factory):
    """A run that was looked into, with its pictures."""
    home = tmp_path_factory.mktemp("runs")
    files = (home / "photos" / f"{number}.png" for number in range(120))
    paths = tuple(paint(file, (90, 90, 200), seed) for seed, file in enumerate(files))
    imitate(home / "mine", heads=("logistic",), paths=paths, skill=0.4, looked_into=True)
    return home / "mine"


@pytest.fixture
def folder(looked_into, tmp_path):
    """A copy of it, to be spoilt."""
    return shutil.copytree(looked_into, tmp_path / "mine")


def document(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def rewrite(folder, name, **fields):
    (folder / f"{name}.json").write_text(json.dumps({**document(folder, name), **fields}))


# --- what may be wrong with the data --------------------------------------------------------


def test_the_page_shows_what_problems_json_holds_with_pictures(folder):
    found, page = document(folder, "problems"), report(folder)
    section = page.section("problems")
    nothing_leaves(page)
    speaks(page)
    assert [one.text for one in next(section.all("ul")).all("li")] == found["summary"]
    assert {pair["splits"][1] for pair in found["duplicates"]["pairs"]} == {"test"}
    copies, suspects, *_ = section.all("table")
    assert [row[:2] for row in rows_of(copies)] == [["0.png", "118.png"], ["1.png", "119.png"]]
    likely = [one for one in found["labels"]["suspects"] if one["likely"]]
    assert [row[0] for row in rows_of(suspects)] == [
        one["path"].rpartition("/")[2] for one in likely
    ]
    pair = next(section.all("figure"))
    assert len(list(pair.all("img"))) == 2
    assert pair.one("figcaption").text.startswith("train and test , near, similarity 1.000")
    assert found["learning_curve"]["answer"] in next(section.all("svg")).attributes["aria-label"]


def test_copies_across_splits_are_told_at_the_top(folder):
    leakage = document(folder, "problems")["summary"][0]
    assert leakage.startswith("2 of 60 test images have a copy")
    assert report(folder).verdict[-1] == leakage
    (folder / "problems.json").unlink()
    assert leakage not in report(folder).verdict


def test_a_page_is_the_same_when_made_again(folder):
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_without_the_two_files_their_parts_are_left_out(folder):
    (folder / "problems.json").unlink()
    (folder / "examples.json").unlink()
    page = report(folder)
    assert not list(page.root.all("section", id="problems"))
    assert not list(page.root.all("img", class_="map"))
    assert "Most like it" not in page.section("mistakes").text
    assert list(page.section("mistakes").all("img"))


@pytest.mark.parametrize("name", ["problems", "examples"])
@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"schema": 1}', '{"schema": 99}'])
def test_a_file_that_cannot_be_understood_is_named_with_what_to_do(folder, name, content):
    (folder / f"{name}.json").write_text(content)
    with pytest.raises(PipelineError, match=rf"{name}\.json cannot be understood.*\n.*\n.*delete"):
        write_report(folder)


@pytest.mark.parametrize("map_", [[], [1.0], [[float("nan")]], [[1.0] * 100], [[1, 2], [3]]])
def test_a_map_that_is_none_is_not_drawn(folder, map_):
    images = document(folder, "examples")["images"]
    images[0]["map"] = map_
    rewrite(folder, "examples", images=images)
    with pytest.raises(PipelineError, match=r"examples\.json cannot be understood"):
        write_report(folder)


# --- mistakes -----------------------------------------------------------------------------


def test_each_mistake_has_its_neighbours_and_its_map(folder):
    looked = document(folder, "examples")["images"]
    section = report(folder).section("mistakes")
    mistakes, right = (
        list(found.children)
        for found in section.all("ul")
        if "gallery" in found.attributes["class"]
    )
    wrong = [one for one in looked if one["label"] != one["predicted"]]
    assert len(mistakes) == len(wrong) > 10
    assert len(right) == len(looked) - len(wrong) == 4
    for item, one in zip([*mistakes, *right], looked):
        near = list(item.one("ul", class_="near").all("li"))
        assert [each.text for each in near] == [
            f"{other['label']} {other['similarity']:.2f}" for other in one["neighbours"]
        ]
        assert [each.one("img").attributes["alt"] for each in near] == [
            f"{other['label']}: {other['path']}" for other in one["neighbours"]
        ]
        spoken = item.one("img", class_="map").attributes["alt"]
        assert spoken.startswith(f"Most of what speaks for {one['predicted']} is at the ")


def test_examples_of_another_head_are_not_shown_as_the_bests(folder):
    rewrite(folder, "examples", head="knn")
    assert not list(report(folder).root.all("img", class_="map"))


def centres(size):
    return lambda cells: get_backbone("vgg16").cell_centres(cells, size) / size


def drawn(values, size):
    content = base64.b64decode(overlay(np.array(values, float), centres(size)).partition(",")[2])
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture).astype(int)


def test_a_map_is_orange_for_and_blue_against_and_strongest_where_it_is_largest():
    pixels = drawn([[2, 0], [0, -1]], 64)
    side = len(pixels)
    red, _, blue, opaque = pixels[side // 8, side // 8]
    assert red > blue
    assert opaque == pixels[..., 3].max()
    red, _, blue, other = pixels[-side // 8, -side // 8]
    assert blue > red
    assert other == pytest.approx(opaque / 2, abs=2)


def test_a_map_lies_where_the_networks_cells_are_not_stretched_over_the_picture():
    # Of 150 pixels, block5_pool's four cells take in 0 to 127: the third's middle is at 80.
    opaque = drawn([[0, 0, 1, 0]] * 4, 150)[0, :, 3]
    assert opaque.argmax() / len(opaque) == pytest.approx(80 / 150, abs=0.02)


def test_a_map_of_zeros_is_no_picture():
    assert overlay(np.zeros((4, 4)), centres(150)) == ""


@pytest.mark.parametrize(
    ("place", "words"), [((0, 0), "top left"), ((1, 2), "middle centre"), ((3, 3), "bottom right")]
)
def test_where_a_map_is_strongest_is_said_in_words(place, words):
    values = np.zeros((4, 4))
    values[place] = 1
    assert strongest(values, centres(128)) == words


# --- from the commands ----------------------------------------------------------------------


@pytest.fixture
def experiment(place_with_pictures, monkeypatch):
    """A run, its data set, and rows that hold a copy."""
    data = place_with_pictures.data()
    run = place_with_pictures.classify(data, ["logistic"], name="mine")
    return run, data


def test_every_run_is_looked_into(experiment):
    run, data = experiment
    found = document(run.folder, "problems")
    assert found["digest"] == data.digest
    assert found["learning_curve"] is None
    assert document(run.folder, "examples")["head"] == "logistic"
    assert "What may be wrong with the data" in (run.folder / "report.html").read_text()


def test_problems_can_be_put_onto_a_runs_page(experiment):
    run, data = experiment
    rows = np.random.default_rng(0).random((120, 1, 1, 12), np.float32)
    found = classification.find_problems_quickly(data, rows, data.targets.labels)
    page = add_problems(run.folder, found)
    assert document(run.folder, "problems") == json.loads(json.dumps(found.to_dict()))
    assert found.summary()[0] in page.read_text()


def test_what_a_run_did_not_look_for_is_not_said_any_more_when_it_was_found(
    place_with_pictures, monkeypatch
):
    monkeypatch.setattr("pipeline.analysis.problems.QUICK", 119)
    data = place_with_pictures.data()
    run = place_with_pictures.classify(data, ["logistic"])
    _, *small = run.remarks
    assert small
    rows = np.random.default_rng(0).random((120, 1, 1, 12), np.float32)
    found = classification.find_problems_quickly(data, rows, data.targets.labels)
    assert document(run.folder, "run")["remarks"] == list(run.remarks)
    page = add_problems(run.folder, found).read_text()
    assert "did not look for" not in page
    assert [page.count(note) for note in small] == [1] * len(small)  # among the problems
    assert document(run.folder, "run")["remarks"] == []
    assert not list(run.folder.glob(".*"))


def test_problems_of_other_images_are_not_put_onto_a_runs_page(experiment, place_with_pictures):
    run, _ = experiment
    other = place_with_pictures.data(seed=1)
    rows = np.random.default_rng(0).random((120, 1, 1, 12), np.float32)
    found = classification.find_problems_quickly(other, rows, other.targets.labels)
    before = (run.folder / "problems.json").read_bytes()
    with pytest.raises(PipelineError, match="made from other images"):
        add_problems(run.folder, found)
    assert (run.folder / "problems.json").read_bytes() == before


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
    assert "1 pair of copies with two labels" in done.stdout
    assert "Going from" not in done.stdout


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
