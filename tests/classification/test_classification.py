"""Who is fitted on what, chosen by what and judged on what; which heads, and which data."""

import dataclasses
import signal
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from conftest import (
    CountingBackbone,
    Hears,
    classify,
    files_in,
    no_network,
    paint,
    relabelled,
    run_json,
)

from pipeline.classification import experiment as classification
from pipeline.classification import fitting
from pipeline.classification.in_memory import RowsInMemory
from pipeline.cli.results import print_augmentation
from pipeline.data.augmentation import PRESETS, get_augmentation
from pipeline.data.loading import load_dataset
from pipeline.errors import DataError, PipelineError, StoreError
from pipeline.evaluation.metrics import evaluate
from pipeline.features.exchange import export_features
from pipeline.features.extractor import Extractor, extract
from pipeline.features.keys import keys
from pipeline.features.store import FeatureStore
from pipeline.features.views import Views
from pipeline.heads.registry import HEADS, Head
from pipeline.models.files import find_model
from pipeline.models.model import Model
from pipeline.report.verdict import how_chosen
from pipeline.runs import run as run_module
from pipeline.runs.reading import read_run

SKLEARN = [name for name in HEADS if name != "dense"]


# --- the protocol -----------------------------------------------------------------------


class Recorder:
    """A head's estimator that remembers what it was given, and says what it was told to say."""

    def __init__(self, log, seed, certainty=0.9, **options):
        self.log, self.seed, self.certainty, self.built = log, seed, certainty, options
        self.classes_ = np.arange(2)

    def fit(self, rows, labels, **options):
        told = {**self.built, **options}
        self.log.append(("fit", self.certainty, self.seed, rows.copy(), labels.copy(), told))
        if "validation_data" in options:
            self.validation_p_ = self.predict_proba(options["validation_data"][0])
        return self

    def predict_proba(self, rows):
        self.log.append(("predict", self.certainty, self.seed, rows.copy(), None, {}))
        says = np.where(rows[:, 0] > rows[:, 1], self.certainty, 1 - self.certainty)
        return np.column_stack([says, 1 - says])


@pytest.fixture
def recorded(monkeypatch):
    """Replace the heads by recorders; give the logs by head."""
    logs = {name: [] for name in ("one", "two", "early", "calibrated")}

    def head(name):
        grid = tuple({"certainty": certainty} for certainty in (0.99, 0.7, 0.55))
        return Head(
            name,
            lambda seed, **parameters: Recorder(logs[name], seed, **parameters),
            ({"certainty": 0.8},) if name == "early" else grid,
            early_stopping=name == "early",
            calibrated=name == "calibrated",
        )

    monkeypatch.setattr(classification, "get_head", head)
    monkeypatch.setattr(fitting.joblib, "cpu_count", lambda: 1)  # one fit after the other
    monkeypatch.setattr(Model, "save", lambda self, folder: folder.mkdir(parents=True))
    return logs


def test_candidates_are_fitted_on_train_and_the_chosen_one_again_on_train_and_validation(
    place, recorded
):
    data = place.data()
    result = place.classify(data, ["one"], seed=7).results[0]
    rows = FeatureStore(place.folder / "cache", place.recipe).read(keys(data))
    rows = rows.reshape(len(data), -1)
    fits = [entry for entry in recorded["one"] if entry[0] == "fit"]
    assert [entry[1] for entry in fits] == [0.99, 0.7, 0.55, result.parameters["certainty"]]
    assert {entry[2] for entry in fits} == {7}
    for entry in fits[:3]:
        assert np.array_equal(entry[3], rows[:60])
        assert np.array_equal(entry[4], data.targets.labels[:60])
        assert entry[5] == {}
    assert np.array_equal(fits[3][3], rows[:90])
    assert np.array_equal(fits[3][4], data.targets.labels[:90])
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
    assert result.validation.log_loss == pytest.approx(min(losses.values()))
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
    assert np.array_equal(labels, data.targets.labels[60:90])


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
    labels = data.targets.labels.copy()
    places = data.where(split)
    labels[places] = 1 - labels[places]
    return relabelled(data, labels)


def test_test_labels_have_no_say_in_what_is_chosen_or_in_which_head_is_best(place):
    data = place.data(noise=0.8)
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
    assert result.test == evaluate(data.targets.labels[90:], result.probabilities[90:])
    assert result.test.n == 30
    assert result.validation.n == 30
    flat = FeatureStore(place.folder / "cache", place.recipe).read(keys(data))
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
        assert result.test.accuracy > 0.8
    header = (run.folder / "predictions.csv").read_text().splitlines()[0]
    assert header.endswith("probability of blue,probability of green,probability of red")


def test_a_class_without_validation_images_is_no_obstacle(place):
    data = place.data(classes=("blue", "green", "red"))
    splits = data.splits.copy()
    splits[(data.targets.labels == 2) & (splits == "validation")] = "train"
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
        listener=Hears(judged=lambda result: told.append((result.head, place.runs.exists()))),
    )
    assert told == [("logistic", False), ("knn", False)]


def test_rows_that_are_missing_are_made_first_and_only_those(photos, recipe, backbone, tmp_path):
    data = load_dataset(photos)
    half = data.take(range(0, len(data), 2))
    where = {"recipe": recipe, "cache": tmp_path / "cache"}
    extract(half, extractor=Extractor(**where, forward=backbone))
    told = []
    for _ in range(2):
        run = classify(
            data,
            "rbf-svm",
            runs=tmp_path / "runs",
            forward=backbone,
            listener=Hears(rows_made=lambda done, total: told.append((done, total))),
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
            forward=backbone,
            splits=True,
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
            forward=backbone,
            splits=True,
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
            forward=backbone,
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
        "forward": backbone,
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


def test_ctrl_c_before_a_head_is_done_leaves_no_run(place, monkeypatch):
    data = place.data()
    with_judge_failing(monkeypatch, {"logistic": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt) as stopped:
        place.classify(data)
    assert not isinstance(stopped.value, run_module.Interrupted)
    assert not place.runs.exists()


def test_ctrl_c_keeps_the_heads_that_are_done(place, monkeypatch):
    data = place.data()
    with_judge_failing(monkeypatch, {"linear-svm": KeyboardInterrupt()})
    with pytest.raises(run_module.Interrupted, match="1 head is saved in") as stopped:
        place.classify(data, ["logistic", "linear-svm", "knn"])
    run = stopped.value.run
    assert [result.head for result in run.results] == ["logistic"]
    document = run_json(run)
    assert document["unfinished"] == ["linear-svm", "knn"]
    assert document["best"] == "logistic"
    assert find_model(run.folder) == run.folder / "models" / "logistic"
    assert "Stopped before these were done: linear-svm, knn" in str(run)
    said = " ".join(how_chosen(read_run(run.folder)))
    assert "Stopped before these were done: linear-svm, knn." in said
    assert "This run did not look for duplicates" in (run.folder / "report.html").read_text()


LOOKS = (
    "pipeline.classification.in_memory.find_problems_quickly",
    "pipeline.classification.extras.find_examples",
)


def with_judge_failing(monkeypatch, errors):
    """Make the judging of some heads raise."""
    judge = RowsInMemory.judge

    def judge_or_fail(rows, head):
        if head.name in errors:
            raise errors[head.name]
        return judge(rows, head)

    monkeypatch.setattr(RowsInMemory, "judge", judge_or_fail)


def test_a_head_that_cannot_be_fitted_costs_no_other(place, monkeypatch):
    small = PipelineError("Class 1 has a single training image.", fix="add images")
    errors = {"linear-svm": ValueError("no\nsuch thing"), "ridge": small, "lda": SystemExit(5)}
    with_judge_failing(monkeypatch, errors)
    run = place.classify(place.data(), ["linear-svm", "logistic", "ridge", "lda", "knn"])
    assert [result.head for result in run.results] == ["logistic", "knn"]
    failed = {
        "linear-svm": "ValueError: no such thing",
        "ridge": "Class red has a single training image.",
        "lda": "SystemExit: 5",
    }
    assert run.failed == run_json(run)["failed"] == failed
    assert run_json(run)["unfinished"] == []
    assert "linear-svm could not be fitted: ValueError: no such thing" in str(run)


def test_where_no_head_can_be_fitted_each_is_named_with_its_reason(place, monkeypatch):
    data = place.data()
    errors = {"knn": DataError("too few.", expected="more", fix="add"), "ridge": ValueError("no")}
    with_judge_failing(monkeypatch, errors)
    with pytest.raises(DataError) as caught:
        place.classify(data, ["knn", "ridge"])
    assert str(caught.value).splitlines() == [
        "the head knn cannot be fitted: too few; the head ridge cannot be fitted: ValueError: no",
        "Expected: more",
        "To do: add",
    ]
    assert not place.runs.exists()


def test_ctrl_c_after_a_failed_head_tells_both_apart(place, monkeypatch):
    with_judge_failing(monkeypatch, {"ridge": ValueError("no"), "lda": KeyboardInterrupt()})
    with pytest.raises(run_module.Interrupted) as stopped:
        place.classify(place.data(), ["ridge", "logistic", "lda", "knn"])
    run = stopped.value.run
    assert [result.head for result in run.results] == ["logistic"]
    assert run.unfinished == ("lda", "knn")
    assert list(run.failed) == ["ridge"]


@pytest.mark.parametrize("where", LOOKS)
def test_ctrl_c_while_the_run_is_looked_into_keeps_all_heads(place, monkeypatch, where):
    data = place.data()

    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stop)
    with pytest.raises(run_module.Interrupted, match="2 heads are saved in") as stopped:
        place.classify(data, ["logistic", "knn"])
    run = stopped.value.run
    assert run.unfinished == ()
    assert run.examples is None
    assert find_model(run.folder, "knn").exists()
    assert (run.folder / "report.html").exists()


@pytest.mark.parametrize("name", ["problems", "examples"])
def test_what_cannot_be_looked_into_is_left_out_with_its_reason(
    place_with_pictures, monkeypatch, name
):
    place = place_with_pictures
    data = place.data()

    def fail(*args, **options):
        raise ValueError("not so")

    where = dict(zip(("problems", "examples"), LOOKS))[name]
    monkeypatch.setattr(where, fail)
    run = place.classify(data, ["logistic"])
    assert run.left_out == run_json(run)["left_out"] == {name: "ValueError: not so"}
    assert (run.problems is None, run.examples is None) == (name == "problems", name == "examples")
    assert f"Left out of the run: {name}. ValueError: not so" in str(run)
    assert (run.folder / "report.html").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_stop_while_the_run_is_written_costs_nothing(place, monkeypatch, number):
    data = place.data()
    with_judge_failing(monkeypatch, {"knn": KeyboardInterrupt()})
    save = Model.save

    def interrupted(model, folder):
        signal.raise_signal(number)
        save(model, folder)

    monkeypatch.setattr(Model, "save", interrupted)
    before = signal.getsignal(number)
    with pytest.raises(run_module.Interrupted) as stopped:
        place.classify(data, ["logistic", "knn"])
    assert signal.getsignal(number) is before
    assert (stopped.value.run.folder / "report.html").exists()


def test_a_damaged_cache_is_an_error_and_leaves_no_run(place):
    data = place.data()
    (place.folder / "cache" / place.recipe.name / "recipe.json").write_text("{")
    with pytest.raises(StoreError):
        place.classify(data)
    assert not place.runs.exists()


@pytest.mark.filterwarnings("ignore:Got `batch_size`")  # of mlp: there are few images
def test_stage_two_never_changes_the_features(photos, recipe, tmp_path):
    data = load_dataset(photos)
    where = {"recipe": recipe, "cache": tmp_path / "cache"}
    before = extract(data, extractor=Extractor(**where, forward=CountingBackbone(recipe))).rows()
    shards = files_in(tmp_path / "cache")
    classify(data, SKLEARN, runs=tmp_path / "runs", forward=no_network, **where)
    assert files_in(tmp_path / "cache") == shards
    after = extract(data, extractor=Extractor(**where, forward=no_network)).rows()
    assert np.array_equal(after, before)


# --- what cannot be learned from ------------------------------------------------------------


def test_features_that_are_all_the_same_are_refused(place):
    data = place.data()
    store = FeatureStore(place.folder / "cache", place.recipe)
    same = dataclasses.replace(
        data, digests=tuple(bytes([1, number]) + bytes(30) for number in range(120))
    )
    rows = np.full((120, *place.recipe.shape), 0.5, np.float32)
    store.write(keys(same), rows)
    with pytest.raises(PipelineError, match=r"(?s)features of all 120 images are the same.*blank"):
        place.classify(same)
    assert not place.runs.exists()


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (1, r"(?s)class red \(1\).*add images"),
        (4, r"(?s)red has 4 images, too few for 5 folds.*add images"),
    ],
)
def test_too_few_images_of_a_class_for_a_cross_validation_are_refused(place, count, says):
    labels = np.zeros(120, np.int64)
    labels[:count] = 1
    with pytest.raises(DataError, match=says):
        place.classify(relabelled(place.data(), labels), cv=5)
    assert not place.runs.exists()


def test_a_class_that_is_tested_on_and_not_trained_on_is_refused(photos, recipe, backbone):
    root = photos.parent / "split"
    for split, names in (("train", ("blue", "red")), ("test", ("blue", "green", "red"))):
        for name in names:
            for number in range(3):
                seed = 100 * (split == "test") + 10 * len(name) + number
                paint(root / split / name / f"{number}.png", (90, 90, 90), seed)
    with pytest.raises(DataError, match=r"(?s)too few training images of the class green \(0\)"):
        classify(root, "logistic", recipe=recipe, forward=backbone)
    assert backbone.images == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"features": np.nan}, "rows are not finite, the first is 0"),
        ({"labels": 7}, "a label or a split has no name"),
        ({"labels": None}, "its arrays are not equally long"),
    ],
)
def test_a_features_file_that_does_not_fit_itself_is_refused(place, tmp_path, change, says):
    data = place.data()
    store = FeatureStore(place.folder / "cache", place.recipe)
    file = tmp_path / "features.h5"
    export_features(data, place.recipe, store.read(keys(data)), file)
    [(name, value)] = change.items()
    with h5py.File(file, "r+") as content:
        array = content[name][:]
        del content[name]
        if value is None:
            content[name] = array[:-1]
        else:
            array.flat[0] = value
            content[name] = array
    file.write_bytes(file.read_bytes()[512:])  # without the digest, as older files are
    with pytest.raises(DataError, match=says):
        place.classify(file)
    assert not place.runs.exists()


def test_groups_go_with_a_features_file(place, tmp_path):
    data = dataclasses.replace(place.data(), groups=tuple(f"é{n // 4}" for n in range(120)))
    store = FeatureStore(place.folder / "cache", place.recipe)
    file = tmp_path / "features.h5"
    export_features(data, place.recipe, store.read(keys(data)), file)
    run = place.classify(file, cv=3)
    assert run.dataset.groups == data.groups
    assert "groups of images" in run.best.test.interval_method


# --- views --------------------------------------------------------------------------------


def some_views(count, text="mild", *, everywhere=False):
    return Views(count=count, augmentation=get_augmentation(text), everywhere=everywhere)


def store_views(place, data, views, noise=1.0, of_class=lambda label: label):
    """Put rows of views into the cache; give them by view and image."""
    rng = np.random.default_rng(8)
    found = rng.exponential(size=(views.count, len(data), *place.recipe.shape)) * noise
    found[:, np.arange(len(data)), 0, 0, of_class(data.targets.labels)] += 1
    found[0] = FeatureStore(place.folder / "cache", place.recipe).read(keys(data))
    store = FeatureStore(place.folder / "cache", views.augmented(place.recipe))
    for view in range(1, views.count):
        store.write([(digest, view) for digest in data.digests], found[view].astype(np.float32))
    return found.astype(np.float32).reshape(*found.shape[:2], -1)


@pytest.mark.parametrize("everywhere", [False, True])
def test_heads_learn_from_all_views_of_training_images_and_of_no_others(
    place, recorded, everywhere
):
    data = place.data()
    views = some_views(3, everywhere=everywhere)
    rows = store_views(place, data, views)
    place.classify(data, ["one"], views=views)
    fits = [entry for entry in recorded["one"] if entry[0] == "fit"]
    assert len(fits) == 3 + 3 + 1  # with views, without for comparison, and the chosen one again
    for entry in fits[:3]:
        assert np.array_equal(entry[3], np.concatenate(rows[:, :60]))
        assert np.array_equal(entry[4], np.tile(data.targets.labels[:60], 3))
    for entry in fits[3:6]:
        assert np.array_equal(entry[3], rows[0, :60])
        assert np.array_equal(entry[4], data.targets.labels[:60])
    # Of validation images, there are more views only where they are asked for.
    last = rows[:, :90] if everywhere else [rows[0, :90], rows[1, :60], rows[2, :60]]
    assert np.array_equal(fits[6][3], np.concatenate(last))
    labels = [data.targets.labels[: len(part)] for part in last]
    assert np.array_equal(fits[6][4], np.concatenate(labels))
    # What is looked at before the choice is validation images alone.
    where = next(i for i, entry in enumerate(recorded["one"]) if entry is fits[6])
    looked_at = [entry[3] for entry in recorded["one"][:where] if entry[0] == "predict"]
    judged_by = np.concatenate(rows[:, 60:90]) if everywhere else rows[0, 60:90]
    expected = [judged_by] * 3 + [rows[0, 60:90]] * 3
    assert len(looked_at) == len(expected)
    assert all(np.array_equal(*pair) for pair in zip(looked_at, expected, strict=True))


def test_a_head_that_stops_by_validation_watches_images_as_they_are(place, recorded):
    data = place.data()
    views = some_views(2, everywhere=True)
    rows = store_views(place, data, views)
    place.classify(data, ["early"], views=views)
    fits = [entry for entry in recorded["early"] if entry[0] == "fit"]
    assert [len(entry[3]) for entry in fits] == [120, 60]
    for entry in fits:
        watched, labels = entry[5]["validation_data"]
        assert np.array_equal(watched, rows[0, 60:90])
        assert np.array_equal(labels, data.targets.labels[60:90])


def test_views_of_one_image_are_never_parted_where_a_head_calibrates(place, recorded):
    data = place.data()
    store_views(place, data, some_views(3, everywhere=True))
    place.classify(data, ["calibrated"], views=some_views(3, everywhere=True))
    fits = [entry for entry in recorded["calibrated"] if entry[0] == "fit"]
    assert len(fits) == 3 + 3 + 1
    images = [range(60)] * 3 + [None] * 3 + [range(90)]  # None: each row is alone
    for entry, belong in zip(fits, images, strict=True):
        groups = entry[5].get("groups")
        assert groups is None if belong is None else groups.tolist() == [*belong] * 3


def test_tta_gives_the_mean_of_the_probabilities_of_all_views(place):
    data = place.data()
    views = some_views(4, everywhere=True)
    rows = store_views(place, data, views)
    run = place.classify(data, ["logistic", "rbf-svm"], views=views)
    for result in run.results:
        by_view = np.array([result.model.probabilities(view) for view in rows])
        assert by_view.std(axis=0).max() > 0.01
        assert np.allclose(result.probabilities, by_view.mean(axis=0), rtol=0, atol=1e-12)
        assert result.test == evaluate(data.targets.labels[90:], result.probabilities[90:])
        assert (result.model.views, result.model.augmentation) == (4, PRESETS["mild"].name)
        assert result.parameters["averaged_over_views"] is True
        averaged = [parameters["averaged_over_views"] for parameters, _ in result.candidates]
        assert averaged == [True] * (len(averaged) // 2) + [False] * (len(averaged) // 2)


def test_without_tta_images_are_judged_as_they_are(place):
    data = place.data()
    views = some_views(3)
    rows = store_views(place, data, views)
    result = place.classify(data, views=views).results[0]
    assert np.array_equal(result.probabilities, result.model.estimator.predict_proba(rows[0]))
    assert (result.model.views, result.model.augmentation) == (1, "none")


@pytest.mark.filterwarnings("ignore:Got `batch_size`")  # of mlp: there are few images
@pytest.mark.parametrize(
    ("head", "everywhere"),
    [("logistic", False), *((name, True) for name in SKLEARN)],
)
def test_a_saved_model_says_of_an_image_file_what_the_run_said(
    photos, recipe, backbone, tmp_path, head, everywhere
):
    run = classify(
        photos,
        head,
        recipe=recipe,
        views=some_views(3, "textbook,brightness=0.3", everywhere=everywhere),
        cache=tmp_path / "cache",
        runs=tmp_path / "runs",
        forward=backbone,
    )
    model = Model.load(find_model(run.folder, head))
    assert model.views == (3 if everywhere else 1)
    elsewhere = Extractor(cache=tmp_path / "elsewhere", forward=backbone)
    before = backbone.images
    found = list(model.predict(run.dataset.paths, extractor=elsewhere))
    assert backbone.images - before == 40 * model.views
    for item, said in zip(found, run.best.probabilities, strict=True):
        assert list(item.probabilities.values()) == pytest.approx(said.tolist(), abs=1e-6)
        assert item.label == run.dataset.classes[said.argmax()]
    assert run.best.probabilities.std() > 0.01
    one = dataclasses.replace(model, views=1, augmentation="none")
    as_they_are = list(one.predict(run.dataset.paths, extractor=elsewhere))
    # Nearest neighbours may all be of one class, and trees of one mind, whatever the view.
    assert (as_they_are != found) == everywhere or head in ("knn", "random-forest")


@pytest.mark.parametrize("order", [("mild", "textbook"), ("textbook", "mild")])
def test_of_several_augmentations_the_one_best_on_validation_is_taken(place, order):
    data = place.data()
    store_views(place, data, some_views(3, "mild"), noise=0.3)
    store_views(place, data, some_views(3, "textbook"), of_class=lambda label: 1 - label)
    result = place.classify(data, views=[some_views(3, text) for text in order]).results[0]
    grid = len(HEADS["logistic"].grid)
    tried = [parameters["augmentation"] for parameters, _ in result.candidates]
    names = [PRESETS[text].name for text in order]
    assert tried == [names[0]] * grid + [names[1]] * grid + ["none"] * grid
    losses = {name: [] for name in tried}
    for parameters, loss in result.candidates:
        losses[parameters["augmentation"]].append(loss)
    best = min(names, key=lambda name: min(losses[name]))
    assert best == PRESETS["mild"].name
    assert result.parameters["augmentation"] == best
    assert result.parameters["views"] == 3
    assert result.validation.log_loss == pytest.approx(min(losses[best]))


def test_an_augmentation_asked_for_is_taken_even_where_none_is_better(place):
    data = place.data(noise=0.3)
    store_views(place, data, some_views(3), of_class=lambda label: 1 - label)
    run = place.classify(data, views=some_views(3))
    plain = place.classify(data)
    for result, alone in zip(run.results, plain.results, strict=True):
        assert result.parameters["augmentation"] == PRESETS["mild"].name
        by_none = [
            (parameters, loss)
            for parameters, loss in result.candidates
            if parameters["augmentation"] == "none"
        ]
        assert [loss for _, loss in by_none] == [loss for _, loss in alone.candidates]
        assert {parameters["views"] for parameters, _ in by_none} == {1}
        assert min(loss for _, loss in by_none) < result.validation.log_loss
    assert run_json(run)["heads"][0]["parameters"] == {
        **run.best.parameters,
        "views": 3,
        "augmentation": PRESETS["mild"].name,
        "averaged_over_views": False,
    }


def test_none_may_be_asked_for_too_and_is_then_taken_where_it_is_best(place):
    data = place.data(noise=0.3)
    store_views(place, data, some_views(3), of_class=lambda label: 1 - label)
    result = place.classify(data, views=[some_views(3), Views()]).results[0]
    assert (result.parameters["augmentation"], result.parameters["views"]) == ("none", 1)
    assert len(result.candidates) == 2 * len(HEADS["logistic"].grid)
    assert result.probabilities.tolist() == (place.classify(data).best.probabilities.tolist())


def test_the_same_views_named_twice_are_tried_once(place):
    data = place.data()
    store_views(place, data, some_views(2))
    result = place.classify(data, views=[some_views(2), some_views(2)]).results[0]
    assert len(result.candidates) == 2 * len(HEADS["logistic"].grid)
    assert place.classify(data, views=[]).best.parameters.keys() == {"C"}


def judged(losses, chosen):
    """Make a run of one head that had these log losses, by augmentation."""
    names = {text: get_augmentation(text).name for text in losses}
    candidates = [
        ({"C": c, "augmentation": names[text], "views": 3}, loss + c)
        for text, loss in losses.items()
        for c in (0.5, 0.0, 0.2)
    ]
    result = SimpleNamespace(
        head="logistic", parameters={"augmentation": names[chosen]}, candidates=candidates
    )
    return SimpleNamespace(results=[result])


@pytest.mark.parametrize(
    ("losses", "chosen", "hurts"),
    [
        ({"mild": 0.3, "none": 0.4}, "mild", False),
        ({"mild": 0.4, "none": 0.3}, "mild", True),
        ({"mild": 0.4, "none": 0.4}, "mild", True),
        ({"mild": 0.5, "textbook": 0.3, "none": 0.4}, "textbook", False),
        ({"mild": 0.5, "textbook": 0.42, "none": 0.41}, "textbook", True),
        ({"none": 0.3, "mild": 0.4}, "none", True),
        (
            {"none": 0.4, "rotation=5,horizontal_flip=yes": 0.39},
            "rotation=5,horizontal_flip=yes",
            0,
        ),
    ],
)
def test_that_augmentation_hurts_is_said_exactly_where_none_was_at_least_as_good(
    capsys, losses, chosen, hurts
):
    print_augmentation(judged(losses, chosen))
    shares = ", ".join(f"{text} {loss:.3f}" for text, loss in losses.items())
    verdict = "; augmentation hurts here" if hurts else ""
    assert capsys.readouterr().out == (
        f"logistic: log loss on validation by augmentation: {shares}{verdict}\n"
    )


def test_of_augmentation_nothing_is_said_where_there_was_none(place, capsys):
    print_augmentation(place.classify(place.data()))
    assert capsys.readouterr().out == ""


def test_what_could_not_be_read_is_listed_once_however_many_augmentations_there_are(
    photos, recipe, tmp_path, backbone
):
    good = (photos / "red" / "000.png").read_bytes()
    for number in range(4):
        (photos / "red" / f"cut {number}.png").write_bytes(good[: -200 - number])
    run = classify(
        photos,
        "logistic",
        recipe=recipe,
        views=[some_views(2), some_views(3, "textbook")],
        cache=tmp_path / "cache",
        runs=tmp_path / "runs",
        forward=backbone,
    )
    train = len(run.dataset.where("train"))
    assert backbone.images == 40 + train + 2 * train
    listed = [Path(bad["path"]).name for bad in run_json(run)["dataset"]["quarantined"]]
    assert sorted(listed) == [f"cut {number}.png" for number in range(4)]


def test_a_features_file_has_no_views_and_that_is_said_before_the_work(place, tmp_path):
    data = place.data()
    store = FeatureStore(place.folder / "cache", place.recipe)
    file = tmp_path / "features.h5"
    export_features(data, place.recipe, store.read(keys(data)), file)
    for views in (some_views(2), [Views(), some_views(2)]):
        with pytest.raises(PipelineError, match=r"(?s)features\.h5 holds no views.*--views"):
            place.classify(file, views=views)
    assert not place.runs.exists()
    assert place.classify(file, views=Views()).best.head == "logistic"
