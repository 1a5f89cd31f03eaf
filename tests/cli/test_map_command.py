"""`pipeline map`: all images as a chart or as a table that `classify` takes."""

import csv
import importlib.util
import io
import itertools
import xml.etree.ElementTree as ET
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from commands import run_command
from conftest import paint, paint_classes
from served import Served

from pipeline import Extractor, map_images, open_images
from pipeline.analysis import image_map, image_table
from pipeline.app import opening
from pipeline.data.loading import list_dataset, list_partly_labelled
from pipeline.errors import DataError, PipelineError

SETTINGS = ("--size", "64", "--precision", "float32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Served(tmp_path_factory.mktemp("trained"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leave out t-SNE, which takes seconds."""
    monkeypatch.setattr(image_map, "_tsne", lambda rows, _: np.array(rows[:, :2], float))


@pytest.fixture
def map_of(tmp_path, networks):
    """Run the command with a stand-in for the network; give the file, and what was printed."""

    def run(data, *options, out="map.csv", code=0, settings=SETTINGS):
        file = tmp_path / out
        given = ("map", data, *settings, "--cache", tmp_path / "cache", "--out", file, *options)
        done = run_command(*given)
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        return file, done

    return run


def rows_of(file):
    return [*csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")))]


def legend_of(file):
    texts = [text.text for text in ET.parse(file).iter("{http://www.w3.org/2000/svg}text")]
    return {name.rpartition(" (")[0]: int(name.rpartition(" (")[2][:-1]) for name in texts[1:]}


def grouped(home, names=("blue", "red")):
    """Write a CSV of images in groups."""
    folder = paint_classes(home / "photos", 12, names)
    file = home / "list.csv"
    lines = [
        f"photos/{name}/{number:03}.png,{name},{name}-{number // 3}"
        for name in names
        for number in range(12)
    ]
    file.write_text("\n".join(["path,label,group", *lines]))
    return folder, file


def test_a_table_has_a_line_for_each_image_with_its_place(map_of, photos, tmp_path, recipe):
    file, done = map_of(photos)
    there = Extractor(recipe, cache=tmp_path / "cache")
    rows, table = rows_of(file), open_images(photos, extractor=there)
    assert [*rows[0]] == ["path", "label", "split", "x", "y"]
    assert [row["path"] for row in rows] == [str(path) for path in table.dataset.paths]
    assert [row["label"] for row in rows] == [*table.names()]
    assert [row["split"] for row in rows] == table.dataset.splits.tolist()
    places = map_images(table.extraction).astype(float)
    low, high = places.min(axis=0), places.max(axis=0)
    for row, place in zip(rows, (places - low) / (high - low), strict=True):
        assert (float(row["x"]), float(row["y"])) == pytest.approx(tuple(place), abs=6e-5)
        assert len(row["x"]) <= 6
    assert done.stdout.split() == ["40", "images", "in", str(file)]
    assert "no label" not in done.stderr


def test_lines_of_a_table_are_data_for_classify(map_of, photos, tmp_path):
    file, _ = map_of(photos)
    whole = list_dataset(photos)
    assert list_dataset(file).digest == whole.digest
    first, *lines = file.read_text().splitlines()
    elsewhere = tmp_path / "other" / "some.csv"
    elsewhere.parent.mkdir()
    elsewhere.write_text("\n".join([first, *lines[::2]]))
    some = list_dataset(elsewhere)
    some.check_learnable()
    assert some.digests == whole.digests[::2]
    assert some.splits.tolist() == whole.splits[::2].tolist()
    done = run_command(
        *("classify", elsewhere, *SETTINGS, "--cache", tmp_path / "cache", "--head", "logistic"),
        *("--runs", tmp_path / "runs"),
    )
    assert done.exit_code == 0, done.output
    assert "20 images" in done.stderr


def test_images_without_a_label_are_there_and_classify_says_what_to_do(map_of, photos, tmp_path):
    for number in range(3):
        (photos / "red" / f"{number:03}.png").rename(photos / f"{number}.png")
    file, done = map_of(photos)
    loose = [row for row in rows_of(file) if not row["label"]]
    assert len(loose) == 3
    assert {row["split"] for row in loose} == {""}
    assert (
        "3 have no label: before classify takes the table, delete the lines without one, or label "
        f"the images (pipeline label {photos}) and make it again"
    ) in done.stderr
    with pytest.raises(DataError, match=r"the label is empty\.\nTo do: .*--label"):
        list_dataset(file)
    assert len(list_partly_labelled(file)) == 40
    first, *lines = file.read_text().splitlines()
    kept = [line for line, row in zip(lines, rows_of(file)) if row["label"]]
    file.write_text("\n".join([first, *kept]))
    assert len(list_dataset(file)) == 37
    chart, done = map_of(photos, out="map.svg")
    assert legend_of(chart) == {"blue": 20, "no label": 3, "red": 17}
    assert "classify" not in done.stderr
    assert legend_of(map_of(photos, "--by", "split", out="split.svg")[0])["no label"] == 3


def test_a_folder_of_images_without_any_label_has_a_map(map_of, tmp_path):
    for number in range(6):
        paint(tmp_path / "loose" / f"{number}.png", (30 * number, 70, 70), number)
    file, _ = map_of(tmp_path / "loose")
    assert [*rows_of(file)[0]] == ["path", "label", "x", "y"]
    assert legend_of(map_of(tmp_path / "loose", out="map.svg")[0]) == {"no label": 6}


def test_groups_have_a_column_and_colours(map_of, tmp_path):
    _, data = grouped(tmp_path)
    file, _ = map_of(data)
    rows = rows_of(file)
    assert [*rows[0]] == ["path", "label", "split", "group", "x", "y"]
    assert rows[3]["group"] == "blue-1"
    assert list_dataset(file).groups == list_dataset(data).groups
    chart, _ = map_of(data, "--by", "group", out="map.svg")
    assert legend_of(chart) == {f"{name}-{at}": 3 for name in ("blue", "red") for at in range(4)}


def test_a_run_gives_its_features_splits_and_predicted_classes(map_of, trained):
    run = ("--run", trained.run.folder)
    file, _ = map_of(trained.photos, *run, settings=())
    rows = rows_of(file)
    assert [*rows[0]] == ["path", "label", "split", "x", "y", "predicted"]
    assert [row["split"] for row in rows] == trained.run.dataset.splits.tolist()
    assert [row["predicted"] for row in rows] == [row["label"] for row in rows]
    given = open_images(trained.photos, run=trained.run.folder, extractor=trained.extractor)
    assert given.column("predicted class") == [row["predicted"] for row in rows]
    options = (*run, "--by", "predicted")
    chart, _ = map_of(trained.photos, *options, out="map.svg", settings=())
    assert legend_of(chart) == {"blue": 20, "red": 20}


def test_weights_beside_a_run_are_those_of_its_network(map_of, trained, photos, networks, tmp_path):
    weights = tmp_path / "of-another-network.h5"
    weights.write_bytes(b"which the default network could not read")
    options = ("--run", trained.run.folder, "--weights", weights)
    map_of(photos, *options, settings=())
    assert {network.weights for network in networks} == {weights}


def test_weights_beside_a_run_are_those_of_its_network_on_the_page_too(
    trained, photos, monkeypatch, tmp_path
):
    weights = tmp_path / "of-another-network.h5"
    weights.write_bytes(b"which the default network could not read")
    opened = []

    def open_site(*_, extractor, **__):
        opened.append(extractor.weights)
        raise PipelineError("this is enough.")

    monkeypatch.setattr(opening, "open_site", open_site)
    options = ("--run", trained.run.folder, "--weights", weights, "--port", "0")
    done = run_command("app", photos, *options)
    assert "this is enough" in done.stderr
    assert opened == [weights]


def test_a_run_on_other_images_is_told(map_of, trained, photos):
    run = ("--run", trained.run.folder)
    other = paint_classes(photos.parent / "other", 6)
    remark = "trained on other images, labels or splits than these"
    assert remark in map_of(other, *run, settings=())[1].stderr
    assert remark not in map_of(trained.photos, *run, out="own.csv", settings=())[1].stderr


@pytest.mark.parametrize("settings", [{}, {"splits": False, "cv": 5}], ids=["splits", "cv"])
def test_images_without_a_label_do_not_make_a_runs_images_others(settings, tmp_path):
    place = Served(tmp_path, **settings)
    paint(place.photos / "loose.png", (180, 70, 70), 1)
    table = open_images(place.photos, run=place.run.folder, extractor=place.extractor)
    assert (len(table), table.remarks) == (41, ())


def test_a_cross_validated_run_leaves_the_splits_to_classify(map_of, tmp_path):
    place = Served(tmp_path / "cv", splits=False, cv=5)
    file, _ = map_of(place.photos, "--run", place.run.folder, settings=())
    assert [*rows_of(file)[0]] == ["path", "label", "x", "y", "predicted"]
    list_dataset(file).check_learnable()


@pytest.mark.parametrize("settings", [{"seed": 3}, {"splits": False, "cv": 5}], ids=["seed", "cv"])
def test_a_models_own_folder_gives_the_splits_of_its_run(settings, tmp_path):
    place = Served(tmp_path, **settings)
    model = place.run.folder / "models" / "logistic"
    table, expected = (
        open_images(place.photos, run=folder, extractor=place.extractor)
        for folder in (model, place.run.folder)
    )
    assert table.column("split") == expected.column("split")
    assert table.remarks == expected.remarks == ()


def test_predicted_classes_of_one_view_are_said_not_to_be_those_of_several(trained):
    model = replace(trained.run.best.model, views=3, augmentation="flip")
    table = open_images(trained.photos, model=model, extractor=trained.extractor)
    assert any("without the average of its 3 views" in remark for remark in table.remarks)


@pytest.mark.parametrize(("by", "name"), [("suspicious", "label not checked"), ("copy", "copy")])
def test_a_cross_validated_run_has_suspicious_labels_and_copies(map_of, tmp_path, by, name):
    place = Served(tmp_path / "cv", splits=False, cv=5)
    options = ("--run", place.run.folder, "--by", by)
    file, _ = map_of(place.photos, *options, out="map.svg", settings=())
    assert legend_of(file) == {name: 40}


@pytest.mark.parametrize("with_run", [False, True])
def test_suspicious_labels_are_those_of_the_same_seed(map_of, tmp_path, monkeypatch, with_run):
    place = Served(tmp_path / "seeded", seed=3)
    seeds = []

    def found(*_, seed, **__):
        seeds.append(seed)
        return SimpleNamespace(labels=SimpleNamespace(suspects=[], judged=40))

    monkeypatch.setattr(image_table, "find_problems", found)
    given = ("--run", place.run.folder) if with_run else ("--seed", "3", *SETTINGS)
    map_of(place.photos, *given, "--by", "suspicious", out="map.svg", settings=())
    assert seeds == [3]


def test_it_is_coloured_by_split_suspicious_label_and_copy(map_of, photos, monkeypatch):
    (photos / "red" / "000.png").rename(photos / "loose.png")

    def found(dataset, rows, **_):
        assert dataset.classes == ("blue", "red")
        assert len(dataset) == len(rows) == 39
        suspects = [SimpleNamespace(place=5, likely=True), SimpleNamespace(place=6, likely=False)]
        pairs = [
            SimpleNamespace(first=3, second=4, across=True),  # those across splits come first
            SimpleNamespace(first=3, second=7, across=False),
        ]
        return SimpleNamespace(
            labels=SimpleNamespace(suspects=suspects, judged=39),
            duplicates=SimpleNamespace(pairs=pairs),
        )

    monkeypatch.setattr(image_table, "find_problems", found)

    def legend(*by):
        return legend_of(map_of(photos, *by, out=f"map{''.join(by)}.svg")[0])

    assert legend("--by", "suspicious") == {
        "label likely wrong": 1,
        "label not checked": 1,
        "label not suspicious": 38,
    }
    assert legend("--by", "copy") == {
        "copies not looked for": 1,
        "copy": 1,
        "copy in another split": 2,
        "no copy": 36,
    }
    assert legend("--by", "split").keys() == {"no label", "train", "validation", "test"}
    assert legend("--by", "class") == legend() == {"blue": 20, "no label": 1, "red": 19}


@pytest.mark.parametrize("name", ["a,b", 'say "x"', "=1+1", "größe 猫", "a <b> & c"])
def test_names_come_back_from_a_table_as_they_are(map_of, tmp_path, name):
    photos = paint_classes(tmp_path / "photos", 8)
    (photos / "red").rename(photos / name)
    (photos / name / "000.png").rename(photos / name / f"{name.replace('/', '')}.png")
    file, _ = map_of(photos)
    assert list_dataset(file).digest == list_dataset(photos).digest
    assert not any(row["label"].startswith("=") for row in rows_of(file))
    assert legend_of(map_of(photos, out="map.svg")[0]) == {"blue": 8, name: 8}


@pytest.mark.parametrize("out", ["map.csv", "map.svg"])
def test_an_image_that_cannot_be_read_is_listed_and_the_rest_done(map_of, photos, out):
    (photos / "red" / "broken.png").write_bytes(b"no image")
    file, done = map_of(photos, out=out, code=3)
    assert "1 file skipped" in done.stderr
    assert "broken.png" in done.stderr
    assert "broken" not in file.read_text()
    assert "40 images in" in done.stdout


@pytest.mark.parametrize(
    ("options", "out", "message"),
    [
        ((), "map.png", "a name that ends in .csv or .svg"),
        ((), "there.csv", "exists already; nothing is ever overwritten"),
        ((), "none/map.svg", "there is no folder"),
        (("--by", "split"), "map.csv", "a table, which has no colours"),
        (("--by", "predicted"), "map.svg", "there is no model to predict classes"),
        (("--run", "runs/x"), "map.svg", "--size 64 --precision float32 is given with --run"),
        (("--run", "runs/x", "--seed", "0"), "map.svg", "--seed 0 is given with --run"),
        (("--by", "group"), "map.svg", "images have no 'group'"),
    ],
)
def test_what_it_cannot_do_is_one_error_and_writes_nothing(
    map_of, photos, networks, tmp_path, options, out, message
):
    there = tmp_path / "there.csv"
    there.write_text("mine")
    file, done = map_of(photos, *options, out=out, code=1)
    assert message in done.stderr.replace("\n", " ")
    assert file == there or not file.exists()
    assert there.read_text() == "mine"
    assert networks == []


@pytest.mark.parametrize("by", ["suspicious", "copy"])
@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("photos", "none of these images has a label"),
        ("photos/blue", "images of one class only: blue"),
    ],
)
def test_labels_that_cannot_be_checked_are_told_before_the_network_runs(
    map_of, networks, tmp_path, by, folder, message
):
    for number in range(12):
        paint(tmp_path / folder / f"{number}.png", (9, 9, 9), number)
    paint(tmp_path / "photos" / "unlabelled.png", (9, 9, 9), 12)
    _, done = map_of(tmp_path / "photos", "--by", by, out="map.svg", code=1)
    assert message in done.stderr
    assert networks == []


def test_a_package_that_is_missing_is_told_before_the_network_runs(
    map_of, photos, networks, monkeypatch
):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "openTSNE" else find_spec(name, *more),
    )
    _, done = map_of(photos, code=1)
    assert "needs the package openTSNE" in done.stderr
    assert "pip install 'opentsne" in done.stderr.lower()  # as metadata has it, or as it is named
    assert "starlette" not in done.stderr
    assert networks == []


def test_ctrl_c_while_the_map_is_made_leaves_no_file_and_keeps_the_features(
    map_of, photos, tmp_path, monkeypatch, at_home
):
    def stopped(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.analysis.image_table.map_images", stopped)
    file, done = map_of(photos, code=130)
    assert not file.exists()
    assert "Features made so far are kept" in done.stderr
    assert not [*tmp_path.glob(".pipeline-*")]
    assert [*(tmp_path / "cache").glob("*/*.h5")]


def test_an_exported_file_that_predicts_no_classes_of_rows_is_told_before_the_work(
    map_of, trained, photos, monkeypatch
):
    alone = replace(trained.run.best.model, estimator=None)
    monkeypatch.setattr("pipeline.models.opening.load_model", lambda *_, **__: alone)
    monkeypatch.setattr("pipeline.runs.images.open_images", None)
    options = ("--run", "model.onnx", "--by", "predicted")
    _, done = map_of(photos, *options, out="map.svg", settings=(), code=1)
    assert "To do: name the run that it was exported from" in done.stderr


def test_the_model_of_an_exported_file_takes_pictures_only(photos, extractor):
    class Exported:
        takes_rows = False
        recipe, trained_on = extractor.recipe, ""

    table = open_images(photos, model=Exported(), extractor=extractor)
    assert "predicted class" not in table.kinds
    with pytest.raises(PipelineError, match="images have no 'predicted class'"):
        table.column("predicted class")
    assert table.map_csv().startswith(b"path,label,split,x,y\n")


def test_a_label_that_is_taken_back_meanwhile_leaves_no_line_without_one(photos, tmp_path, recipe):
    there = Extractor(recipe, cache=tmp_path / "cache")
    table = open_images(photos, extractor=there)
    said = itertools.chain([["red"] * len(table)], itertools.repeat([""] * len(table)))
    changing = replace(table, labels=lambda: next(said))
    content, left_out = changing.selection([0, 1])
    assert left_out == 0
    assert [row["label"] for row in csv.DictReader(content.decode().splitlines())] == ["red", "red"]
