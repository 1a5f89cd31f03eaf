import csv
import dataclasses
import errno
import hashlib
import json
import os
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import CountingBackbone, paint
from PIL import Image

from pipeline import classification, extraction
from pipeline.backbone import vgg16_recipe
from pipeline.classification import classify
from pipeline.cli import _print_reference
from pipeline.dataset import Dataset, load_dataset
from pipeline.errors import DataError, PipelineError, StoreError
from pipeline.evaluate import evaluate
from pipeline.heads import HEADS, Head
from pipeline.store import FeatureStore

SKLEARN = [name for name in HEADS if name != "dense"]


@dataclasses.dataclass(frozen=True)
class Workplace:
    """A cache that holds rows already, and a folder for runs."""

    folder: Path
    recipe: object

    @property
    def runs(self):
        return self.folder / "runs"

    def data(self, counts=(60, 30, 30), classes=("blue", "red"), seed=0, noise=1.0):
        """Make a data set whose rows are in the cache: its classes overlap, and no file exists."""
        rng = np.random.default_rng(seed)
        total = sum(counts)
        digests = [hashlib.sha256(b"%d %d" % (seed, number)).digest() for number in range(total)]
        labels = np.arange(total) % len(classes)
        rows = rng.exponential(size=(total, *self.recipe.shape)) * noise
        rows[np.arange(total), 0, 0, labels] += 1
        keys = [(digest, 0) for digest in digests]
        FeatureStore(self.folder / "cache", self.recipe).write(keys, rows.astype(np.float32))
        return Dataset(
            name="photos",
            paths=tuple(Path(f"{number}.png") for number in range(total)),
            digests=tuple(digests),
            labels=labels.astype(np.int64),
            splits=np.repeat(["train", "validation", "test"], counts).astype("<U10"),
            classes=classes,
        )

    def classify(self, data, heads=("logistic",), **settings):
        return classify(
            data,
            heads,
            **{
                "recipe": self.recipe,
                "cache": self.folder / "cache",
                "runs": self.runs,
                "backbone": _no_network,
                **settings,
            },
        )


def _no_network(pixels):
    raise AssertionError("the rows are there: nothing is to be computed")


@pytest.fixture
def place_with_pictures(tmp_path, recipe):
    return Workplace(tmp_path, dataclasses.replace(recipe, shape=(1, 1, 12)))


@pytest.fixture
def place(place_with_pictures, monkeypatch):
    """Leave the drawing out, which takes longer than all the rest."""
    monkeypatch.setattr(classification.report, "draw_confusion", lambda *args: args[-1].touch())
    monkeypatch.setattr(classification.report, "draw_history", lambda *args: args[-1].touch())
    return place_with_pictures


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def run_json(run):
    return json.loads((run.folder / "run.json").read_text())


# --- the protocol -----------------------------------------------------------------------


class Recorder:
    """A head's estimator that remembers what it was given, and says what it was told to say."""

    def __init__(self, log, seed, certainty=0.9):
        self.log, self.seed, self.certainty = log, seed, certainty
        self.classes_ = np.arange(2)

    def fit(self, rows, labels, **options):
        self.log.append(("fit", self.certainty, self.seed, rows.copy(), labels.copy(), options))
        return self

    def predict_proba(self, rows):
        self.log.append(("predict", self.certainty, self.seed, rows.copy(), None, {}))
        says = np.where(rows[:, 0] > rows[:, 1], self.certainty, 1 - self.certainty)
        return np.column_stack([says, 1 - says])


@pytest.fixture
def recorded(monkeypatch):
    """Replace the heads by recorders; give the logs by head."""
    logs = {name: [] for name in ("one", "two", "early")}

    def head(name):
        grid = tuple({"certainty": certainty} for certainty in (0.99, 0.7, 0.55))
        return Head(
            name,
            "a recorder",
            lambda seed, **parameters: Recorder(logs[name], seed, **parameters),
            ({"certainty": 0.8},) if name == "early" else grid,
            early_stopping=name == "early",
        )

    monkeypatch.setattr(classification, "get_head", head)
    monkeypatch.setattr(
        classification.Model, "save", lambda self, folder: folder.mkdir(parents=True)
    )
    return logs


def test_candidates_are_fitted_on_train_and_the_chosen_one_again_on_train_and_validation(
    place, recorded
):
    data = place.data()
    result = place.classify(data, ["one"], seed=7).results[0]
    rows = FeatureStore(place.folder / "cache", place.recipe).read(extraction.keys(data))
    rows = rows.reshape(len(data), -1)
    fits = [entry for entry in recorded["one"] if entry[0] == "fit"]
    assert [entry[1] for entry in fits] == [0.99, 0.7, 0.55, result.parameters["certainty"]]
    assert {entry[2] for entry in fits} == {7}
    for entry in fits[:3]:
        assert np.array_equal(entry[3], rows[:60])
        assert np.array_equal(entry[4], data.labels[:60])
        assert entry[5] == {}
    assert np.array_equal(fits[3][3], rows[:90])
    assert np.array_equal(fits[3][4], data.labels[:90])
    # Before the last fit, nothing but validation rows was looked at.
    before = recorded["one"][: next(i for i, e in enumerate(recorded["one"]) if e is fits[3])]
    looked_at = [entry[3] for entry in before if entry[0] == "predict"]
    assert len(looked_at) == 3
    assert all(np.array_equal(seen, rows[60:90]) for seen in looked_at)


def test_the_candidate_with_the_lowest_log_loss_on_validation_is_chosen(place, recorded):
    data = place.data()
    result = place.classify(data, ["one"]).results[0]
    losses = {tried["certainty"]: loss for tried, loss in result.candidates}
    assert list(losses) == [0.99, 0.7, 0.55]
    assert losses[result.parameters["certainty"]] == min(losses.values())
    assert result.validation.log_loss == min(losses.values())
    # Accuracy is the same for all of them, so it cannot have been what decided; nor was order.
    assert result.parameters["certainty"] != 0.99


def test_a_head_that_stops_by_validation_is_kept_as_it_is(place, recorded):
    data = place.data()
    place.classify(data, ["early"])
    fits = [entry for entry in recorded["early"] if entry[0] == "fit"]
    assert len(fits) == 1
    rows, labels = fits[0][5]["validation_data"]
    assert len(fits[0][3]) == 60
    assert len(rows) == 30
    assert np.array_equal(labels, data.labels[60:90])


def test_every_head_sees_the_same_rows_and_splits(place, recorded):
    place.classify(place.data(), ["one", "two", "early"])
    one, two, early = recorded["one"], recorded["two"], recorded["early"]
    assert len(one) == len(two)
    for first, second in zip(one, two, strict=True):
        assert first[:3] == second[:3]
        assert np.array_equal(first[3], second[3])
        assert np.array_equal(first[4], second[4])
    assert np.array_equal(early[0][3], one[0][3])
    assert np.array_equal(early[0][4], one[0][4])
    assert np.array_equal(early[-1][3], one[-1][3])


def with_labels_turned(data, split):
    labels = data.labels.copy()
    places = data.where(split)
    labels[places] = 1 - labels[places]
    return dataclasses.replace(data, labels=labels)


def test_test_labels_have_no_say_in_what_is_chosen_or_in_which_head_is_best(place):
    data = place.data(noise=0.5)
    honest = place.classify(data, SKLEARN)
    turned = place.classify(with_labels_turned(data, "test"), SKLEARN)
    assert turned.best.head == honest.best.head
    for one, two in zip(honest.results, turned.results, strict=True):
        assert two.parameters == one.parameters
        assert two.candidates == one.candidates
        assert two.validation == one.validation
        assert np.array_equal(two.probabilities, one.probabilities)
        assert two.test.accuracy == pytest.approx(1 - one.test.accuracy)
    assert len({result.test.accuracy for result in honest.results}) > 1


def test_validation_labels_do_have_a_say(place):
    data = place.data(noise=0.5)
    honest = place.classify(data, ["logistic"]).results[0]
    turned = place.classify(with_labels_turned(data, "validation"), ["logistic"]).results[0]
    assert turned.parameters != honest.parameters


def test_the_best_head_is_the_one_with_the_lowest_log_loss_on_validation(place):
    run = place.classify(place.data(), SKLEARN)
    losses = {result.head: result.validation.log_loss for result in run.results}
    assert len(set(losses.values())) == len(losses)
    assert run.best.head == min(losses, key=losses.get)
    assert run_json(run)["best"] == run.best.head


def test_test_figures_are_those_of_the_kept_probabilities_on_the_test_split(place):
    data = place.data()
    result = place.classify(data).results[0]
    assert result.test == evaluate(data.labels[90:], result.probabilities[90:])
    assert result.test.n == 30
    assert result.validation.n == 30
    flat = FeatureStore(place.folder / "cache", place.recipe).read(extraction.keys(data))
    assert np.array_equal(result.probabilities, result.model.probabilities(flat))


def test_the_same_seed_gives_the_same_numbers_twice(place):
    data = place.data()
    one, two = (place.classify(data, "all", seed=3) for _ in range(2))
    assert [result.head for result in one.results] == list(HEADS)
    for first, second in zip(one.results, two.results, strict=True):
        assert np.array_equal(first.probabilities, second.probabilities), first.head
        assert first.test == second.test
    assert (one.folder / "predictions.csv").read_bytes() == (
        two.folder / "predictions.csv"
    ).read_bytes()


def test_the_seed_reaches_what_is_random_in_a_head(place, recorded):
    data = place.data()
    place.classify(data, ["one"], seed=11)
    assert {entry[2] for entry in recorded["one"]} == {11}


def test_three_classes_work_as_two_do(place):
    data = place.data(counts=(60, 30, 30), classes=("blue", "green", "red"), noise=0.2)
    run = place.classify(data, "all")
    assert [result.head for result in run.results] == list(HEADS)
    for result in run.results:
        assert result.probabilities.shape == (120, 3)
        assert np.allclose(result.probabilities.sum(axis=1), 1, atol=1e-6)
        assert np.array(result.test.confusion).shape == (3, 3)
        assert np.array(result.test.confusion).sum() == 30
        if result.head != "dense":  # 30 epochs of 3 steps at 2e-5 teach a network nothing
            assert result.test.accuracy > 0.8
    header = (run.folder / "predictions.csv").read_text().splitlines()[0]
    assert header.endswith("probability of blue,probability of green,probability of red")


def test_a_class_without_validation_images_is_no_obstacle(place):
    data = place.data(classes=("blue", "green", "red"))
    splits = data.splits.copy()
    splits[(data.labels == 2) & (splits == "validation")] = "train"
    result = place.classify(dataclasses.replace(data, splits=splits)).results[0]
    assert result.validation.roc_auc is None
    assert result.test.roc_auc is not None


# --- which heads, which data ------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (["knn", "logistic"], ["knn", "logistic"]),
        (["knn", "knn"], ["knn"]),
        ("knn", ["knn"]),
        (("knn",), ["knn"]),
    ],
)
def test_heads_come_once_each_in_the_order_asked_for(place, asked, given):
    run = place.classify(place.data(), asked)
    assert [result.head for result in run.results] == given
    assert [head["head"] for head in run_json(run)["heads"]] == given


@pytest.mark.parametrize("asked", [["svm"], ["all", "svm"], "svm"])
def test_an_unknown_head_is_refused_before_any_work(place, asked):
    data = place.data()
    with pytest.raises(PipelineError, match="'svm'"):
        place.classify(data, asked)
    assert not place.runs.exists()


def test_no_head_at_all_is_refused(place):
    with pytest.raises(PipelineError, match=r"(?s)no head is named.*logistic"):
        place.classify(place.data(), [])


def test_each_result_is_told_as_soon_as_it_is_there(place):
    told = []
    place.classify(
        place.data(),
        ["logistic", "knn"],
        on_result=lambda result: told.append((result.head, place.runs.exists())),
    )
    assert told == [("logistic", False), ("knn", False)]


def test_rows_that_are_missing_are_made_first_and_only_those(photos, recipe, backbone, tmp_path):
    data = load_dataset(photos)
    half = dataclasses.replace(
        data,
        paths=data.paths[::2],
        digests=data.digests[::2],
        labels=data.labels[::2],
        splits=data.splits[::2],
    )
    where = {"recipe": recipe, "cache": tmp_path / "cache"}
    extraction.extract(half, backbone=backbone, **where)
    told = []
    for _ in range(2):
        run = classify(
            data,
            "rbf-svm",
            runs=tmp_path / "runs",
            backbone=backbone,
            on_progress=lambda done, total: told.append((done, total)),
            **where,
        )
    assert backbone.images == len(data)
    assert told[0] == (0, 20)
    assert told[-1] == (20, 20)
    assert len(run.dataset) == 40
    assert run.best.test.accuracy == 1.0


def test_a_path_is_taken_for_a_data_set_and_the_seed_decides_its_splits(
    photos, recipe, backbone, tmp_path
):
    digests = set()
    for seed in (0, 1):
        run = classify(
            str(photos),
            "logistic",
            recipe=recipe,
            cache=tmp_path / "cache",
            runs=tmp_path / "runs",
            seed=seed,
            backbone=backbone,
        )
        assert run.dataset.digest == load_dataset(photos, seed=seed).digest
        digests.add(run_json(run)["dataset"]["digest"])
    assert len(digests) == 2


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_empty_split_is_an_error_before_any_image_is_looked_at(
    photos, recipe, backbone, tmp_path, split
):
    data = load_dataset(photos)
    splits = np.where(data.splits == split, "train", data.splits)
    with pytest.raises(DataError, match=rf"(?s)the {split} split of photos is empty.*--seed"):
        classify(
            dataclasses.replace(data, splits=splits),
            recipe=recipe,
            cache=tmp_path / "cache",
            runs=tmp_path / "runs",
            backbone=backbone,
        )
    assert backbone.images == 0
    assert not (tmp_path / "runs").exists()


def test_a_split_that_is_emptied_by_unreadable_images_is_an_error_too(recipe, backbone, tmp_path):
    for number, split in enumerate(("train", "validation", "test")):
        for name in ("blue", "red"):
            for picture in range(2):
                file = tmp_path / "data" / split / name / f"{picture}.png"
                paint(file, (90, 90, 90), seed=100 * number + 10 * (name == "red") + picture)
    for file in (tmp_path / "data" / "test").glob("*/*.png"):
        file.write_bytes(b"no image: " + str(file).encode())
    with pytest.raises(DataError, match="the test split of data is empty"):
        classify(
            tmp_path / "data",
            recipe=recipe,
            cache=tmp_path / "cache",
            runs=tmp_path / "runs",
            backbone=backbone,
        )


def test_unreadable_images_are_listed_in_the_run_and_take_no_part(
    photos, recipe, backbone, tmp_path
):
    (photos / "red" / "broken.png").write_bytes(b"no image at all")
    (photos / "red" / "empty.png").touch()
    (photos / "red" / "notes.txt").write_text("no image by its name")
    settings = {
        "recipe": recipe,
        "cache": tmp_path / "cache",
        "runs": tmp_path / "runs",
        "backbone": backbone,
    }
    run = classify(photos, "logistic", **settings)
    document = run_json(run)
    listed = {Path(bad["path"]).name: bad["reason"] for bad in document["dataset"]["quarantined"]}
    assert set(listed) == {"broken.png", "empty.png", "notes.txt"}
    assert "not a known image format" in listed["broken.png"]
    assert listed["empty.png"] == "0 bytes"
    counted = sum(sum(classes.values()) for classes in document["dataset"]["images"].values())
    assert counted == 40
    assert "broken.png" not in (run.folder / "predictions.csv").read_text()
    with pytest.raises(DataError, match=r"(?s)broken\.png|empty\.png"):
        classify(photos, "logistic", strict=True, **settings)
    assert files_in(tmp_path / "runs") == [f"photos/{file}" for file in files_in(run.folder)]


# --- the run's folder -------------------------------------------------------------------


def test_a_runs_folder_holds_all_that_came_of_it(place_with_pictures):
    place = place_with_pictures
    run = place.classify(place.data(), ["logistic", "dense"])
    assert run.folder == place.runs / "photos"
    assert files_in(run.folder) == [
        "confusion-dense.png",
        "confusion-logistic.png",
        "history-dense.png",
        "models/dense/head.weights.h5",
        "models/dense/manifest.json",
        "models/logistic/head.skops",
        "models/logistic/manifest.json",
        "predictions.csv",
        "run.json",
    ]
    assert [path.name for path in place.runs.iterdir()] == ["photos"]
    for file in run.folder.glob("*.png"):
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 300
            assert np.asarray(picture.convert("L")).std() > 5


def test_the_settings_versions_digests_and_figures_are_in_run_json(place):
    data = place.data()
    run = place.classify(data, ["logistic", "dense"], seed=5)
    document = run_json(run)
    assert document["schema"] == 1
    assert document["seed"] == 5
    assert document["dataset"]["name"] == "photos"
    assert document["dataset"]["classes"] == ["blue", "red"]
    assert document["dataset"]["digest"] == data.digest
    assert document["dataset"]["images"] == {
        "train": {"blue": 30, "red": 30},
        "validation": {"blue": 15, "red": 15},
        "test": {"blue": 15, "red": 15},
    }
    recipe = document["recipe"]
    assert recipe.pop("fingerprint") == place.recipe.fingerprint
    assert {**recipe, "shape": tuple(recipe["shape"])} == dataclasses.asdict(place.recipe)
    assert document["versions"]["python"] == platform.python_version()
    assert {"keras", "numpy", "scikit-learn"} < set(document["versions"])
    assert {"tensorflow", "tensorflow-cpu"} & set(document["versions"])
    for result, head in zip(run.results, document["heads"], strict=True):
        assert head["head"] == result.head
        assert head["parameters"] == result.parameters
        assert head["test"] == result.test.to_dict()
        assert head["validation"] == result.validation.to_dict()
        assert head["seconds"] == pytest.approx(result.seconds, abs=1e-3)
        assert [tried["parameters"] for tried in head["candidates"]] == list(
            map(dict, HEADS[result.head].grid)
        )
    logistic, dense = document["heads"]
    assert logistic["history"] == {}
    assert len(dense["history"]["val_loss"]) >= dense["best_epoch"] > 0


def test_a_run_can_be_written_where_a_package_is_not_installed(place, monkeypatch):
    monkeypatch.setattr(classification, "_PACKAGES", ("numpy", "no-such-package"))
    versions = run_json(place.classify(place.data()))["versions"]
    assert set(versions) == {"python", "numpy"}


def test_predictions_csv_has_a_line_for_each_image_and_head(place):
    data = place.data()
    run = place.classify(data, ["logistic", "knn"])
    with (run.folder / "predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * len(data)
    for result, block in zip(run.results, (lines[:120], lines[120:]), strict=True):
        assert {line["head"] for line in block} == {result.head}
        assert [line["path"] for line in block] == [str(path) for path in data.paths]
        assert [line["split"] for line in block] == data.splits.tolist()
        assert [line["label"] for line in block] == [data.classes[i] for i in data.labels]
        written = [[float(line[f"probability of {c}"]) for c in data.classes] for line in block]
        assert np.array_equal(written, result.probabilities)
        for line in block:
            likeliest = max(data.classes, key=lambda c: float(line[f"probability of {c}"]))
            assert line["predicted"] == likeliest


AWKWARD = os.fsdecode(b'caf\xe9, "x"\nnew.png')


def test_awkward_file_and_class_names_are_written_so_that_they_can_be_read_back(
    place_with_pictures,
):
    place = place_with_pictures
    data = place.data(classes=('a,b "c"', "$x$\n\udcff"))
    data = dataclasses.replace(data, paths=(Path(AWKWARD), *data.paths[1:]))
    run = place.classify(data)
    with (run.folder / "predictions.csv").open(
        newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        lines = list(csv.DictReader(file))
    assert lines[0]["path"] == AWKWARD
    assert {line["label"] for line in lines} == set(data.classes)
    assert run_json(run)["dataset"]["classes"] == list(data.classes)


def test_runs_without_a_name_are_numbered(place):
    data = place.data()
    names = [place.classify(data).folder.name for _ in range(3)]
    assert names == ["photos", "photos-2", "photos-3"]
    shutil.rmtree(place.runs / "photos-2")
    assert place.classify(data).folder.name == "photos-2"


def test_a_name_that_is_taken_is_refused_before_any_work_and_the_run_there_stays(
    place, monkeypatch
):
    data = place.data()
    first = place.classify(data, name="mine")
    assert first.folder == place.runs / "mine"
    before = {file: (first.folder / file).read_bytes() for file in files_in(first.folder)}
    monkeypatch.setattr(classification, "extract", _no_network)
    with pytest.raises(PipelineError, match=r"(?s)there is a run .*mine already.*another --name"):
        place.classify(data, name="mine")
    assert {file: (first.folder / file).read_bytes() for file in files_in(first.folder)} == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp/x", "../x", "a/"])
def test_a_name_that_is_no_plain_folder_name_is_refused(place, name):
    data = place.data()
    with pytest.raises(PipelineError, match="cannot be a run's name"):
        place.classify(data, name=name)
    assert not place.runs.exists()


def test_a_name_that_another_process_takes_meanwhile_costs_no_run_its_results(place):
    data = place.data()

    def take(result):
        (place.runs / "photos").mkdir(parents=True)
        (place.runs / "photos" / "run.json").write_text("another's")

    run = place.classify(data, on_result=take)
    assert run.folder == place.runs / "photos-2"
    assert run_json(run)["best"] == "logistic"
    assert (place.runs / "photos" / "run.json").read_text() == "another's"


def test_a_name_taken_at_the_very_last_moment_is_passed_over(place, monkeypatch):
    data = place.data()
    rename = Path.rename

    def late(path, target):
        if target.name == "photos" and not target.exists():
            target.mkdir()
            (target / "run.json").write_text("another's")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    run = place.classify(data)
    assert run.folder.name == "photos-2"
    assert (place.runs / "photos" / "run.json").read_text() == "another's"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, MemoryError])
@pytest.mark.parametrize("where", ["draw_confusion", "_write_predictions", "_describe"])
def test_no_half_written_run_is_left_when_writing_is_cut_short(place, monkeypatch, stop, where):
    data = place.data()
    owner = classification.report if where == "draw_confusion" else classification

    def cut(*args):
        assert any(place.runs.iterdir())  # there is something to clear away
        raise stop

    monkeypatch.setattr(owner, where, cut)
    with pytest.raises(stop):
        place.classify(data)
    assert list(place.runs.iterdir()) == []


def test_ctrl_c_while_a_head_is_fitted_leaves_no_run(place):
    data = place.data()

    def stop(result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.classify(data, on_result=stop)
    assert not place.runs.exists()


def test_a_full_disk_is_an_error_that_says_what_to_do(place, monkeypatch):
    data = place.data()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(classification, "_write_predictions", full)
    with pytest.raises(PipelineError, match=r"(?s)No space left on device.*--runs"):
        place.classify(data)
    assert list(place.runs.iterdir()) == []


def test_a_file_in_the_place_of_the_runs_folder_is_an_error(place):
    data = place.data()
    place.runs.write_text("a file")
    with pytest.raises(PipelineError, match=r"(?s)cannot write the run.*--runs"):
        place.classify(data)
    assert place.runs.read_text() == "a file"


def test_a_damaged_cache_is_an_error_and_leaves_no_run(place):
    data = place.data()
    (place.folder / "cache" / place.recipe.name / "recipe.json").write_text("{")
    with pytest.raises(StoreError):
        place.classify(data)
    assert not place.runs.exists()


def test_a_runs_folder_can_be_read_by_others(place):
    run = place.classify(place.data())
    assert run.folder.stat().st_mode & 0o777 == 0o755


def test_stage_two_never_changes_the_features(photos, recipe, tmp_path):
    data = load_dataset(photos)
    where = {"recipe": recipe, "cache": tmp_path / "cache"}
    before = extraction.extract(data, backbone=CountingBackbone(recipe), **where).rows()
    shards = files_in(tmp_path / "cache")
    classify(data, SKLEARN, runs=tmp_path / "runs", backbone=_no_network, **where)
    assert files_in(tmp_path / "cache") == shards
    after = extraction.extract(data, backbone=_no_network, **where).rows()
    assert np.array_equal(after, before)


def test_int8_is_held_against_the_same_images_in_a_higher_precision(photos, tmp_path, capsys):
    data = load_dataset(photos)
    exact = vgg16_recipe(size=64, precision="float32")
    rounded = vgg16_recipe(size=64, precision="int8", calibration=" ".join(["1"] * 12))
    where = {"cache": tmp_path / "cache", "runs": tmp_path / "runs"}

    def rounding(pixels):
        return np.round(CountingBackbone(rounded)(pixels), -2)

    alone = classify(data, ["knn"], recipe=rounded, backbone=rounding, **where)
    assert alone.reference == ()
    _print_reference(alone)
    assert "not measured" in capsys.readouterr().out

    whole = classify(data, ["knn"], recipe=exact, backbone=CountingBackbone(exact), **where)
    assert whole.reference == ()
    both = classify(data, ["knn"], recipe=rounded, backbone=rounding, **where)
    assert [result.head for result in both.reference] == ["knn"]
    assert both.reference[0].test == whole.best.test
    assert both.best.test == alone.best.test != whole.best.test
    assert (
        json.loads((both.folder / "run.json").read_text())["reference"][0]["precision"] == "float32"
    )
    _print_reference(both)
    assert "in int8, 1.000 in float32: " in capsys.readouterr().out
