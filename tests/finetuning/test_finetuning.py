"""Fine-tuning as a whole: from pictures to a model, from rows and end to end; what goes wrong."""

import csv
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import time

import numpy as np
import pytest
from conftest import paint, paint_classes, run_json

from pipeline.backbones.registry import BACKBONES, DEFAULT, make_recipe
from pipeline.classification.experiment import classify
from pipeline.data.augmentation import PRESETS
from pipeline.data.loading import load_dataset
from pipeline.data.splits import Shares
from pipeline.errors import DataError, ModelError, PipelineError, StoreError
from pipeline.evaluation.groups import find_units
from pipeline.evaluation.metrics import evaluate
from pipeline.evaluation.protocol import Protocol
from pipeline.features.extractor import Extractor
from pipeline.features.views import Views
from pipeline.finetuning import course, experiment, extras, sources, training
from pipeline.finetuning.experiment import finetune
from pipeline.finetuning.settings import PHASES, Finetuning, Training
from pipeline.finetuning.sources import CachedRows
from pipeline.heads.dense import DenseHead
from pipeline.models.model import Model
from pipeline.models.network import Network
from pipeline.runs.listener import RunListener
from pipeline.runs.reading import read_run
from pipeline.runs.run import Interrupted
from pipeline.system import tensorflow

SIZE = 64
RECIPE = make_recipe(size=SIZE, precision="float32")
SMALL = make_recipe(size=32, precision="float32")
FROZEN, JOINT = Training(epochs=2, learning_rate=1e-3), Training(epochs=2, learning_rate=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures and a cache that the tests share, each with runs of its own."""
    folder = tmp_path_factory.mktemp("finetuning")
    paint_classes(folder / "photos", 14, ("blue", "red", "green"))
    shutil.copytree(folder / "photos", folder / "two")
    shutil.rmtree(folder / "two" / "green")
    return folder


@pytest.fixture
def tune(folder, tmp_path):
    def run(data="two", *, recipe=RECIPE, extractor=None, options=None, **settings):
        wanted = {"units": 16, "batch_size": 8, "frozen": FROZEN, "joint": JOINT, **settings}
        return finetune(
            folder / data if isinstance(data, str) else data,
            Finetuning(**wanted),
            extractor=Extractor(recipe, **{"cache": folder / "cache", **(extractor or {})}),
            **{"runs": tmp_path / "runs", **(options or {})},
        )

    return run


def predictions(run):
    with (run.folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [f"probability of {name}" for name in run.dataset.classes]
    return [row["path"] for row in rows], np.array([[float(row[n]) for n in names] for row in rows])


def unfinished(tmp_path):
    return sorted((tmp_path / "runs").glob(".finetune-*"))


class Killed(BaseException):
    """Stands for the end of the process."""


class Notes(RunListener):
    """Notes the epochs, and does something after each."""

    def __init__(self, after_epoch=lambda phase, epoch: None):
        self.epochs, self.figures = [], []
        self.after_epoch = after_epoch

    def epoch_ended(self, phase, epoch, figures):
        self.epochs.append((phase, epoch))
        self.figures.append(figures)
        self.after_epoch(phase, epoch)


def kill_after(phase, epoch):
    def after_epoch(*ended):
        if ended == (phase, epoch):
            raise Killed

    return Notes(after_epoch)


# --- the same result from both sources ---------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "unfreeze", "below"),
    [
        (SMALL, "block4_conv3", "block4_conv2"),
        (make_recipe("efficientnet-lite0", size=64, precision="float32"), None, "block5c_add"),
    ],
    ids=["vgg16", "efficientnet-lite0"],
)
def test_images_and_cached_rows_give_the_same_curves_and_probabilities(
    tune, recipe, unfreeze, below
):
    rows, images = (
        tune(recipe=recipe, source=source, unfreeze=unfreeze) for source in ("cache", "images")
    )
    assert rows.recipe.layer == images.recipe.layer == below
    [ours], [theirs] = rows.results, images.results
    assert list(ours.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    for name, curve in ours.history.items():
        assert len(curve) == 4
        assert curve == pytest.approx(theirs.history[name], rel=1e-4), name
    assert ours.phases == theirs.phases == (2,)
    assert ours.best_epoch == theirs.best_epoch > 2
    np.testing.assert_allclose(predictions(rows)[1], predictions(images)[1], atol=1e-4)


def test_augmented_training_from_images_gives_the_same_bits_each_time(tune):
    settings = {"recipe": SMALL, "source": "images", "phase": "frozen", "dropout": 0.3}
    views = Views(augmentation=PRESETS["mild"])
    one, same = (tune(**settings, options={"views": views}).results[0] for _ in range(2))
    assert one.history == same.history
    assert np.array_equal(one.probabilities, same.probabilities)


def test_the_final_training_has_the_validation_images_too_and_is_judged_on_test_alone(tune):
    notes = Notes()
    frozen = dataclasses.replace(FROZEN, patience=1)
    settings = {"recipe": SMALL, "unfreeze": "block5_conv3", "frozen": frozen}
    run = tune(**settings, final=True, options={"listener": notes})
    [result] = run.results
    assert notes.epochs == [(phase, epoch) for phase in ("frozen", "finetune") for epoch in (1, 2)]
    assert result.validation is None
    assert result.test.n == len(run.dataset.where("test"))
    assert result.best_epoch == 4
    ordinary = tune(**settings).results[0]
    assert result.history["loss"] != ordinary.history["loss"]


@pytest.mark.parametrize("final", [False, True])
def test_figures_on_grouped_images_are_resampled_by_group(tune, folder, final, monkeypatch):
    dataset = load_dataset(folder / "two")
    groups = tuple(f"{split} {place // 3}" for place, split in enumerate(dataset.splits))
    dataset = dataclasses.replace(dataset, groups=groups)
    judged = []
    monkeypatch.setattr(
        experiment,
        "evaluate",
        lambda truth, *of, **by: judged.append(len(truth)) or evaluate(truth, *of, **by),
    )
    run = tune(dataset, phase="frozen", recipe=SMALL, final=final)
    [result] = run.results
    for split, metrics in (("test", result.test), ("validation", result.validation)):
        places = dataset.where(split)
        expected = evaluate(
            dataset.targets.labels[places],
            result.probabilities[places],
            groups=find_units(dataset)[places],
            positive=result.test.positive,
        )
        assert expected.recall_counts
        assert metrics == (None if final and split == "validation" else expected)
    assert len(judged) == (1 if final else 2)  # no figures are made that nobody sees


# --- the stitched model -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "scaling", "pool", "precision", "views", "tolerance"),
    [
        ("two", "caffe", "flatten", "float32", 1, 1e-4),
        ("photos", "unit", "average", "float32", 1, 1e-4),
        ("photos", "caffe", "max", "float32", 2, 1e-4),
        # bfloat16 has 8 bits, and layers that are fused are rounded less often: 0.013 was seen.
        ("two", "caffe", "flatten", "bfloat16", 1, 0.03),
    ],
)
def test_saved_models_predict_what_the_run_predicted(
    tune, data, scaling, pool, precision, views, tolerance
):
    """`Model.load` on the files, and the Keras file on pixels, loaded by Keras alone."""
    _, keras = tensorflow.load()
    recipe = make_recipe(size=SIZE, scaling=scaling, precision=precision)
    wanted = (
        Views(count=views, augmentation=PRESETS["mild"], everywhere=True) if views > 1 else Views()
    )
    settings = {"phase": "finetune", "pool": pool, "joint": Training(epochs=1, learning_rate=1e-6)}
    run = tune(data, recipe=recipe, **settings, options={"views": wanted})
    paths, expected = predictions(run)
    assert np.ptp(expected, axis=0).max() > 0.04
    assert np.mean((expected > 0.01) & (expected < 0.99)) > 0.2
    model = run.folder / "models" / "finetuned"

    found = [one.probabilities for one in Model.load(model).predict(paths)]
    values = np.array([[one[name] for name in run.dataset.classes] for one in found])
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)

    if views == 1:
        whole = keras.models.load_model(model / "model.keras")
        pixels = np.stack([decode_by_hand(path) for path in paths])
        output = whole.predict(pixels, verbose=0)
        if len(run.dataset.classes) == 2:
            output = np.hstack([1 - output, output])
        np.testing.assert_allclose(output, expected, rtol=0, atol=tolerance)


def decode_by_hand(path):
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        return np.asarray(small, np.float32)


def test_a_loaded_model_saved_again_is_the_same_model(tune, tmp_path):
    run = tune(phase="finetune", unfreeze="block5_conv3")
    first = run.folder / "models" / "finetuned"
    Model.load(first).save(tmp_path / "again")
    _, keras = tensorflow.load()
    one, other = (
        keras.models.load_model(place / "model.keras").get_weights()
        for place in (first, tmp_path / "again")
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_mistakes_are_mapped_alike_from_rows_and_from_images(tune):
    found = []
    for source in ("cache", "images"):
        run = tune(source=source)
        document = json.loads((run.folder / "examples.json").read_text())
        assert (document["head"], document["maps"]) == ("finetuned", "gradient")
        assert bool(document["images"][0]["neighbours"]) == (source == "cache")
        found.append({one["path"]: np.array(one["map"]) for one in document["images"]})
    assert len(found[0]) > 2
    assert found[0].keys() == found[1].keys()
    for path, values in found[0].items():
        assert np.abs(values).max() > 0
        np.testing.assert_allclose(found[1][path], values, atol=0.02 * np.abs(values).max())


def test_problems_in_the_data_are_found_with_features_of_the_base_before_training(
    tune, folder, tmp_path
):
    shutil.copytree(folder / "two", tmp_path / "photos")
    first = next((tmp_path / "photos" / "red").iterdir())
    shutil.copy(first, first.with_stem("copy"))
    dataset = load_dataset(tmp_path / "photos")
    by_rows = tune(dataset)  # nothing at block5_pool is stored: frozen layers make it of the rows
    classify(
        dataset,
        "logistic",
        protocol=Protocol(splits=True),
        extractor=Extractor(RECIPE, cache=folder / "cache"),
        runs=tmp_path / "runs",
    )
    stored = tune(dataset)
    from_images = tune(dataset, source="images")
    there, *others = (
        json.loads((run.folder / "problems.json").read_text())
        for run in (by_rows, stored, from_images)
    )
    assert there["duplicates"]["pairs"]
    for other in others:
        other["leakage"] = there["leakage"]
        assert [pair["second"] for pair in other["duplicates"]["pairs"]] == [
            pair["second"] for pair in there["duplicates"]["pairs"]
        ]
        np.testing.assert_allclose(
            [one["score"] for one in other["outliers"]],
            [one["score"] for one in there["outliers"]],
            rtol=1e-3,
        )


def test_a_run_says_if_the_data_was_not_searched_for_problems(tune, monkeypatch):
    monkeypatch.setattr(extras, "QUICK", 5)
    run = tune()
    assert run.problems is None
    assert "did not look for" in str(run)
    assert not (run.folder / "problems.json").exists()


def test_a_run_says_which_weights_it_kept_and_when_fine_tuning_did_not_help(tune):
    tune = functools.partial(tune, recipe=SMALL)
    good = tune()
    losses, best = good.best.history["val_loss"], good.best.best_epoch
    [said] = good.remarks
    assert said == f"The weights are those after epoch {best}, epoch {best - 2} of fine-tuning."
    [bad] = tune(joint=Training(epochs=1, learning_rate=0.3, optimizer="adam")).remarks
    frozen = min(losses[:2])
    assert f"The log loss on validation was lower on the frozen base ({frozen:.3f} after " in bad
    assert bad.endswith("so fine-tuning did not help here.")
    [alone] = tune(phase="frozen").remarks
    assert alone.startswith("The weights are those after epoch ")
    assert "of fine-tuning" not in alone
    assert tune(final=True).remarks == ()  # nothing was held out to tell it by


def test_the_positive_class_may_be_named(tune):
    tune = functools.partial(tune, phase="frozen", recipe=SMALL)
    default, named = tune(), tune(options={"positive": "blue"})
    assert (default.best.test.positive, named.best.test.positive) == (1, 0)
    assert named.best.model.positive_class == "blue"
    assert "The positive class" not in str(named)
    assert " *" not in str(named)  # there is no other to be better than
    assert read_run(named.folder).positive == 0
    with pytest.raises(PipelineError, match="there is no class 'green'"):
        tune(options={"positive": "green"})


def test_features_that_cannot_be_read_cost_neighbours_and_no_more(tune, tmp_path, monkeypatch):
    def fail(*_):
        raise StoreError("a shard is gone")

    monkeypatch.setattr(CachedRows, "features", fail)
    run = tune(extractor={"cache": tmp_path / "cache"})
    assert run.left_out == {"problems": "a shard is gone"}
    document = json.loads((run.folder / "examples.json").read_text())
    assert document["images"]
    assert not any(one["neighbours"] for one in document["images"])


def test_ctrl_c_while_the_data_is_looked_at_keeps_the_run(tune, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(extras, "find_problems_quickly", stop)
    with pytest.raises(Interrupted) as stopped:
        tune()
    assert (stopped.value.run.folder / "models" / "finetuned").is_dir()
    assert not unfinished(tmp_path)


# --- what is frozen ---------------------------------------------------------------------------


def test_a_run_notes_the_digest_of_the_weights_that_were_frozen_all_the_time(tune):
    """It is that of ImageNet's weights, up to the layer below the first that is trained."""
    run = tune(phase="both", unfreeze="block5_conv2")
    published = hashlib.sha256()
    for array in BACKBONES[DEFAULT].load_weights()[: 2 * 11]:
        published.update(array.tobytes())
    [head] = run_json(run)["heads"]
    assert head["parameters"]["frozen_weights"] == published.hexdigest()


@pytest.mark.parametrize("phase", ["frozen", "finetune"])
def test_a_frozen_weight_that_changes_is_an_error_and_no_run_is_written(
    tune, phase, tmp_path, monkeypatch
):
    train = course.train

    def meddling(model, batches, *arguments, **options):
        trained = train(model, batches, *arguments, **options)
        if options["phase"] == phase:
            layer = "block5_conv1" if phase == "frozen" else "block4_conv3"
            bias = networks[0].base.get_layer(layer).bias
            bias.assign(bias + 1e-6)
        return trained

    class Noted(Network):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            networks.append(self)

    networks = []
    monkeypatch.setattr(experiment, "Network", Noted)
    monkeypatch.setattr(course, "train", meddling)
    with pytest.raises(PipelineError, match=f"frozen weights changed in phase {phase}"):
        tune()
    assert not list((tmp_path / "runs").glob("[!.]*"))


# --- what classify made before -----------------------------------------------------------------


@pytest.fixture
def no_work(monkeypatch):
    """Make it an error to run a network or to decode an image."""

    def fail(*_, **__):
        raise AssertionError("nothing is to be computed")

    monkeypatch.setattr("pipeline.features.computing.load_backbone", fail)
    monkeypatch.setattr("pipeline.backbones.recipe.decode", fail)


@pytest.fixture(scope="module")
def classified(folder):
    settings = {
        "extractor": Extractor(RECIPE, cache=folder / "cache"),
        "runs": folder / "classified",
    }
    return classify(
        folder / "two",
        ("dense", "logistic"),
        pools=("flatten",),
        **settings,
        protocol=Protocol(splits=True),
    )


def test_the_frozen_phase_reuses_the_rows_of_classify(tune, classified, no_work):
    run = tune(phase="frozen")
    assert run.recipe.layer == "block5_pool"
    assert run.recipe == classified.recipe
    assert len(run.results[0].history["loss"]) == 2
    assert run.results[0].phases == ()


def test_training_starts_from_the_head_that_classify_trained(tune, classified):
    """Before the first step that changes anything, the network says what the head said."""
    head = Model.load(classified.folder / "models" / "dense")
    nothing = Training(epochs=1, learning_rate=1e-30)
    notes = Notes()
    run = tune(units=256, joint=nothing, options={"head": head, "listener": notes})
    dense = classified.results[0]
    assert dense.head == "dense"
    np.testing.assert_allclose(run.results[0].probabilities, dense.probabilities, atol=1e-5)
    held_out = run.dataset.where("validation")
    likelihoods = dense.probabilities[held_out, run.dataset.targets.labels[held_out]]
    assert notes.epochs == [("finetune", 1)]
    assert notes.figures[0]["val_loss"] == pytest.approx(-np.log(likelihoods).mean(), abs=1e-5)
    assert run.results[0].parameters["units"] == 256
    assert run.results[0].parameters["dropout"] == 0.5


@pytest.mark.parametrize("named", [{}, {"pool": "average"}], ids=["by default", "named"])
def test_a_head_that_was_trained_on_pooled_rows_keeps_its_pool(tune, folder, tmp_path, named):
    [dense] = classify(
        folder / "two",
        "dense",
        pools=("average",),
        extractor=Extractor(RECIPE, cache=folder / "cache"),
        runs=tmp_path / "classified",
        name="pooled",
        protocol=Protocol(splits=True),
    ).results
    nothing = Training(epochs=1, learning_rate=1e-30)
    run = tune(joint=nothing, options={"head": tmp_path / "classified" / "pooled"}, **named)
    np.testing.assert_allclose(run.results[0].probabilities, dense.probabilities, atol=1e-5)
    assert run_json(run)["heads"][0]["parameters"]["pool"] == "average"


def test_a_head_of_another_kind_is_refused(tune, classified):
    head = Model.load(classified.folder / "models" / "logistic")
    with pytest.raises(ModelError, match=r"(?s)of the kind logistic.*--head dense"):
        tune(options={"head": head})


@pytest.mark.parametrize(
    ("recipe", "classes", "message"),
    [
        ({}, ("cat", "dog"), r"(?s)classes are cat, dog; the data has blue, red"),
        ({}, ("red", "blue"), "the same classes"),
        ({"size": 96}, ("blue", "red"), r"(?s)the size 96.*Expected: the size 64"),
        ({"scaling": "unit"}, ("blue", "red"), r"(?s)scaling unit.*Expected: .*scaling caffe"),
        (
            {"resize": "bicubic"},
            ("blue", "red"),
            r"(?s)resizing bicubic.*Expected: .*resizing bilinear",
        ),
        ({"layer": "block4_pool"}, ("blue", "red"), r"(?s)block4_pool.*Expected: .*block5_pool"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_before_the_work(
    tune, recipe, classes, message, no_work
):
    recipe = make_recipe(**{"size": SIZE, "precision": "float32", **recipe})
    with pytest.raises(ModelError, match=message):
        tune(options={"head": Model(recipe, "dense", classes, DenseHead())})


@pytest.mark.parametrize(
    ("trained", "settings", "message"),
    [
        ({}, {"phase": "frozen"}, "nothing is left to do in phase frozen"),
        ({}, {"pool": "average"}, r"(?s)pool 'flatten', not 'average'.*Expected: pool 'flatten'"),
        ({"pool": "max"}, {"pool": "flatten"}, r"(?s)pool 'max', not 'flatten'.*pool 'max'"),
    ],
)
def test_settings_that_contradict_a_trained_head_are_refused(tune, trained, settings, message):
    dense = DenseHead(**trained, shape=RECIPE.shape)
    with pytest.raises(PipelineError, match=message):
        tune(**settings, options={"head": Model(RECIPE, "dense", ("blue", "red"), dense)})


# --- killed and started again -----------------------------------------------------------------


def test_killed_in_either_phase_it_goes_on_to_the_same_bits_and_removes_its_checkpoints(
    tune, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    settings = {"recipe": SMALL, "unfreeze": "block5_conv3", "dropout": 0.3}
    undisturbed = tune(**settings)
    assert unfinished(tmp_path) == []
    for listener in (kill_after("frozen", 1), kill_after("finetune", 1)):
        with pytest.raises(Killed):
            tune(**settings, options={"listener": listener})
        assert len(unfinished(tmp_path)) == 1
    assert listener.epochs == [("frozen", 2), ("finetune", 1)]
    notes = Notes()
    run = tune(**settings, options={"listener": notes})
    assert notes.epochs == [("finetune", 2)]
    assert unfinished(tmp_path) == []
    assert run.results[0].history == undisturbed.results[0].history
    assert run.results[0].best_epoch == undisturbed.results[0].best_epoch
    for one, other in zip(
        run.results[0].model.estimator.network.tail.get_weights(),
        undisturbed.results[0].model.estimator.network.tail.get_weights(),
        strict=True,
    ):
        assert np.array_equal(one, other)


def test_only_the_same_training_goes_on_from_a_checkpoint(tune, tmp_path, folder, monkeypatch):
    """All that decides a training's course is in the name of its folder."""
    shape = [np.zeros(one.shape, np.float32) for one in BACKBONES[DEFAULT].load_weights()]
    monkeypatch.setattr(type(BACKBONES[DEFAULT]), "load_weights", lambda self, file, digest: shape)
    fitted = DenseHead(units=4)
    fitted.model_ = Network(RECIPE, 2, weights=None, units=4).dense
    changed = DenseHead(units=4)
    changed.model_ = Network(RECIPE, 2, weights=None, units=4, seed=1).dense

    def head(dense):
        digest = load_dataset(folder / "two").digest
        return Model(RECIPE, "dense", ("blue", "red"), dense, trained_on=digest)

    class KilledAtOnce(RunListener):
        def images_trained(self, phase, done, total):
            raise Killed

    trainings = [
        {},
        {"source": "images"},
        {"phase": "finetune"},
        {"unfreeze": "block5_conv2"},
        {"dropout": 0.1},
        {"batch_size": 9},
        {"joint": dataclasses.replace(JOINT, learning_rate=2e-4)},
        {"frozen": dataclasses.replace(FROZEN, epochs=3)},
        {"data": load_dataset(folder / "two"), "options": {"seed": 1}},
        {"options": {"head": head(fitted)}},
        {"options": {"head": head(changed)}},
        {"options": {"views": Views(count=2, augmentation=PRESETS["mild"])}},
        {"final": True},
        {"data": "photos"},
    ]
    folders = set()
    for number, settings in enumerate(trainings, 1):
        for _ in range(1 + (number == 1)):
            options = {**settings.get("options", {}), "listener": KilledAtOnce()}
            with pytest.raises(Killed):
                tune(**{**settings, "options": options})
        folders.update(unfinished(tmp_path))
        assert len(folders) == number, settings


def test_what_killed_trainings_left_is_removed_but_not_their_checkpoints(tune, tmp_path):
    places = [tmp_path / "runs" / f".finetune-{name}" for name in ("begun", "empty", "cut")]
    for place in places:
        place.mkdir(parents=True)
    begun, _, cut = places
    (begun / "frozen.npz").write_text("a checkpoint")
    for place, hours in ((begun, 0), (cut, 2)):
        (place / ".pipeline-1.tmp").write_text("half a checkpoint")
        before = time.time() - 3600 * hours
        os.utime(place / ".pipeline-1.tmp", (before, before))
    tune()
    assert unfinished(tmp_path) == [begun]
    assert sorted(path.name for path in begun.iterdir()) == [".pipeline-1.tmp", "frozen.npz"]


def test_a_head_that_was_trained_on_other_splits_is_refused(tune):
    """It may have learned from what are test images here."""
    head = Model(RECIPE, "dense", ("blue", "red"), DenseHead(), trained_on="of seed 1")
    with pytest.raises(ModelError, match="trained on other images, labels or splits"):
        tune(options={"head": head})


# --- images that cannot be read ----------------------------------------------------------------


@pytest.mark.parametrize("source", ["cache", "images"])
def test_an_image_that_cannot_be_decoded_is_listed_and_the_others_are_trained_on(
    tune, source, folder, tmp_path
):
    shutil.copytree(folder / "two", tmp_path / "two")
    bad = tmp_path / "two" / "red" / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n and no picture")
    run = tune(load_dataset(tmp_path / "two"), source=source, phase="frozen")
    assert [one.path for one in run.dataset.quarantined] == [bad]
    assert len(run.dataset) == 28
    with pytest.raises(DataError, match=r"(?s)1 file cannot be used.*bad\.png"):
        tune(load_dataset(tmp_path / "two"), source=source, extractor={"strict": True})


def test_an_image_that_changes_while_it_is_trained_on_is_an_error_and_the_checkpoint_stays(
    tune, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    shutil.copytree(folder / "two", tmp_path / "two")
    dataset = load_dataset(tmp_path / "two")
    victim = dataset.paths[dataset.where("train")[0]]
    with pytest.raises(DataError, match=f"the image {victim} cannot be read any more"):
        tune(
            dataset,
            source="images",
            phase="frozen",
            options={"listener": Notes(lambda *_: paint(victim, (0, 0, 0), seed=1))},
        )
    assert (unfinished(tmp_path)[0] / "frozen.npz").exists()


# --- settings that make no sense ----------------------------------------------------------------


@pytest.mark.parametrize("layer", ["nope", "block1_conv1", "block5_pool"])
def test_a_layer_that_cannot_be_the_first_to_be_trained_is_refused_with_those_that_can(layer):
    with pytest.raises(PipelineError, match=r"one of block1_conv2, block2_conv1, .*block5_conv3"):
        Finetuning(unfreeze=layer).cut(RECIPE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "disk"}, "cache, images"),
        ({"phase": "all"}, ", ".join(PHASES)),
        ({"batch_size": 0}, "at least 1 image"),
        ({"units": 0}, "at least 1 unit"),
        ({"dropout": 1.0}, "below 1"),
        ({"dropout": float("nan")}, "below 1"),
        ({"pool": "sum"}, "flatten, average, max"),
        ({"pool": ""}, "flatten, average, max"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_what_would(tune, settings, message):
    with pytest.raises(PipelineError, match=message):
        tune(**settings)


@pytest.mark.parametrize(
    ("source", "views", "message"),
    [
        ("cache", Views(augmentation=PRESETS["mild"]), "would do nothing"),
        ("images", Views(count=3, augmentation=PRESETS["mild"]), r"(?s)without --tta.*or neither"),
        ("images", Views(augmentation=PRESETS["mild"], everywhere=True), "1 views .*with --tta"),
    ],
)
def test_views_that_would_do_nothing_are_refused(tune, source, views, message):
    with pytest.raises(PipelineError, match=message):
        tune(source=source, options={"views": views})


def test_int8_is_for_cached_rows(tune):
    recipe = make_recipe(size=SIZE, precision="int8")
    with pytest.raises(PipelineError, match="int8 is for cached rows"):
        tune(source="images", recipe=recipe)


def test_data_without_validation_images_is_refused_before_the_work(tune, folder, no_work):
    dataset = load_dataset(folder / "two", shares=Shares(validation=0))
    with pytest.raises(DataError, match="the validation split of two is empty"):
        tune(dataset)


def test_a_taken_name_is_an_error_before_the_work(tune, tmp_path, no_work):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    with pytest.raises(PipelineError, match=r"the run .*mine exists already"):
        tune(options={"name": "mine"})


def test_space_for_the_unpacked_rows_is_checked_before_any_is_made(
    tune, tmp_path, monkeypatch, no_work
):
    monkeypatch.setattr(sources, "free_space", lambda folder: 28 * 4 * 4 * 512 * 4 - 1)
    with pytest.raises(PipelineError, match=r"28 rows, 0.0 GB, in .*runs: 0.0 GB are free"):
        tune(extractor={"cache": tmp_path / "empty"})
    assert not list((tmp_path / "empty").glob("*/*.h5"))


@pytest.mark.parametrize("source", ["cache", "images"])
def test_runs_that_cannot_be_written_are_one_error(tune, source, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(PipelineError, match=r"(?s)no run can be written .*not a folder.*--runs"):
        tune(source=source, options={"runs": tmp_path / "file"})


def test_a_disk_that_is_full_at_the_end_keeps_the_training(tune, tmp_path, monkeypatch):
    """The run is written by the next start, which has nothing left to train."""

    def full(*_, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.runs.writing._write_contents", full)
        with pytest.raises(PipelineError, match=r"cannot write the run .*No space left"):
            tune(recipe=SMALL, phase="frozen")
    notes = Notes()
    run = tune(recipe=SMALL, phase="frozen", options={"listener": notes})
    assert notes.epochs == []
    assert len(run.results[0].history["loss"]) == 2
