"""Training shard by shard: as good as in memory, in memory that does not grow with the rows."""

import dataclasses
import gc
import hashlib
import string
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import relabelled
from sklearn.utils.class_weight import compute_class_weight

from pipeline.backbones.registry import make_recipe
from pipeline.classification.streaming import linear
from pipeline.classification.streaming.heads import fit_streamed
from pipeline.classification.streaming.stream import Stream
from pipeline.data.dataset import Dataset
from pipeline.data.targets import Targets
from pipeline.errors import PipelineError, StoreError
from pipeline.evaluation.metrics import log_loss
from pipeline.features.store import FeatureStore
from pipeline.heads.registry import get_head


def make(folder, recipe, count, classes=2, per_shard=64):
    """Write rows of classes that overlap; return their store and data set."""
    rng = np.random.default_rng(0)
    digests = [hashlib.sha256(b"%d" % number).digest() for number in range(count)]
    labels = rng.integers(0, classes, count)
    rows = rng.exponential(size=(count, *recipe.shape)).astype(np.float32)
    rows[np.arange(count), 0, 0, labels] += 1.5
    store = FeatureStore(folder, recipe)
    for start in range(0, count, per_shard):
        part = slice(start, start + per_shard)
        store.write([(digest, 0) for digest in digests[part]], rows[part])
    dataset = Dataset(
        name="photos",
        paths=[Path(f"{number}.png") for number in range(count)],
        digests=digests,
        targets=Targets(labels, tuple(string.ascii_lowercase[:classes])),
        splits=rng.choice(["train", "validation", "test"], count, p=[0.6, 0.2, 0.2]),
    )
    return store, dataset, rows.reshape(count, -1)


@pytest.fixture
def narrow(recipe):
    return dataclasses.replace(recipe, shape=(1, 1, 12))


def test_an_epoch_gives_each_row_of_a_split_once_in_an_order_of_its_own(tmp_path, narrow):
    store, dataset, rows = make(tmp_path, narrow, 1000)
    stream = Stream(store, dataset, seed=3)
    epochs = [list(stream.epoch(number, "train")) for number in (0, 1, 0)]
    seen = [np.concatenate([part for part, _ in epoch]) for epoch in epochs]
    labels = [np.concatenate([part for _, part in epoch]) for epoch in epochs]
    train = dataset.where("train")
    known = {row.tobytes(): label for row, label in zip(rows[train], dataset.targets.labels[train])}
    assert np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[1])
    for given, truth in zip(seen, labels):
        assert len(given) == len(train)
        assert [known.pop(row.tobytes()) for row in given] == truth.tolist()
        known = {
            row.tobytes(): label for row, label in zip(rows[train], dataset.targets.labels[train])
        }
    assert len(epochs[0]) == 2  # 16 shards, 8 mixed at a time


def test_copies_of_an_image_count_as_often_as_they_are_listed(tmp_path, narrow):
    store, dataset, rows = make(tmp_path, narrow, 100)
    twice = dataclasses.replace(
        dataset,
        paths=[*dataset.paths, Path("copy.png")],
        digests=[*dataset.digests, dataset.digests[7]],
        targets=Targets(
            np.append(dataset.targets.labels, 1 - dataset.targets.labels[7]), dataset.classes
        ),
        splits=np.append(dataset.splits, dataset.splits[7]),
    )
    split = dataset.splits[7]
    found = list(Stream(store, twice).epoch(0, split))
    seen = np.concatenate([part for part, _ in found])
    labels = np.concatenate([part for _, part in found])
    both = (seen == rows[7]).all(axis=1)
    assert sorted(labels[both]) == [0, 1]
    assert len(seen) == len(dataset.where(split)) + 1


def test_rows_that_are_gone_are_an_error(tmp_path, narrow):
    store, dataset, _ = make(tmp_path, narrow, 300)
    stream = Stream(store, dataset)
    (tmp_path / narrow.name / list(store.shards)[2]).unlink()
    with pytest.raises(StoreError, match="of the images of photos have no row"):
        list(stream.epoch(0, "train"))


def test_other_views_of_an_image_are_left_out(tmp_path, narrow):
    store, dataset, rows = make(tmp_path, narrow, 100)
    store.write([(digest, 1) for digest in dataset.digests], np.zeros((100, 1, 1, 12), np.float32))
    seen = np.concatenate([part for part, _ in Stream(store, dataset).once()])
    assert len(seen) == 100
    assert seen.sum() == pytest.approx(rows.sum(), rel=1e-5)


def test_shards_of_other_images_are_read_once_and_mixed_with_nothing(tmp_path, narrow, monkeypatch):
    store, dataset, _ = make(tmp_path, narrow, 1000)
    for number in range(48):
        store.write([(bytes([number] * 32), 0)], np.zeros((1, *narrow.shape), np.float32))
    read = []
    load = FeatureStore._load

    def noted(self, name, *args):
        read.append(name)
        return load(self, name, *args)

    monkeypatch.setattr(FeatureStore, "_load", noted)
    stream = Stream(store, dataset)
    for shards in (16 + 48, 16):
        read.clear()
        seen = [len(part) for part, _ in stream.epoch(0, "train")]
        assert sum(seen) == len(dataset.where("train"))
        assert len(seen) == 2  # 16 shards of ours, 8 mixed at a time
        assert len(read) == shards


def test_functions_are_applied_to_a_splits_images_in_their_order(tmp_path, narrow):
    store, dataset, rows = make(tmp_path, narrow, 300)
    stream = Stream(store, dataset)
    test = dataset.where("test")
    first, sums = stream.apply([lambda x: x[:, :2], lambda x: x.sum(axis=1)], test)
    assert np.array_equal(first, rows[test, :2])
    assert np.array_equal(sums, rows[test].sum(axis=1))


def test_balanced_classes_weigh_what_scikit_learn_gives_them(tmp_path, narrow):
    store, dataset, _ = make(tmp_path, narrow, 100, classes=3)
    labels = dataset.targets.labels[dataset.where("train")]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    stream = Stream(store, dataset)
    assert stream.class_weights("train", balanced=True) == pytest.approx(expected)
    assert stream.class_weights("train", balanced=False).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "classes"),
    [("logistic", 2), ("logistic", 3), ("linear-svm", 2), ("linear-svm", 3), ("dense", 2)],
)
def test_a_streamed_head_is_about_as_good_as_one_in_memory(tmp_path, narrow, name, classes):
    store, dataset, rows = make(tmp_path, narrow, 2000, classes)
    head = get_head(name)
    done = []
    fit = fit_streamed(head, Stream(store, dataset), on_epoch=lambda *epoch: done.append(epoch))
    train, test = dataset.where("train"), dataset.where("test")
    held_out = dataset.where("validation")
    truth = dataset.targets.labels
    watched = {"validation_data": (rows[held_out], truth[held_out])} if head.early_stopping else {}
    whole = head.build(0).fit(rows[train], truth[train], **watched)
    accuracy = [(one.predict(rows[test]) == truth[test]).mean() for one in (fit.classifier, whole)]
    assert accuracy[0] > accuracy[1] - 0.04
    assert accuracy[1] > 1.3 / classes
    loss = [log_loss(truth[test], one.predict_proba(rows[test])) for one in (fit.classifier, whole)]
    assert loss[0] < loss[1] + 0.05
    probabilities = fit.classifier.predict_proba(rows[test])
    assert probabilities.shape == (len(test), classes)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert [parameters for parameters, _ in fit.candidates] == list(head.grid)
    losses = [loss for _, loss in fit.candidates]
    assert fit.parameters == head.grid[int(np.argmin(losses))]
    assert log_loss(truth[held_out], fit.held_out) == pytest.approx(min(losses))
    assert [number for number, _ in done] == list(range(1, len(done) + 1))
    assert done[-1][0] <= done[-1][1]


@pytest.mark.parametrize("name", ["dense", "textbook-dense"])
def test_the_curves_of_a_network_are_means_over_all_of_an_epochs_rows(tmp_path, narrow, name):
    store, dataset, rows = make(tmp_path, narrow, 600)
    as_it_began = {"learning_rate": 0.0, "dropout": 0.0, "epochs": 2}
    head = dataclasses.replace(get_head(name), grid=(as_it_began,))
    network = fit_streamed(head, Stream(store, dataset)).classifier
    for curves, split in (("", "train"), ("val_", "validation")):
        places = dataset.where(split)
        truth, p = dataset.targets.labels[places], network.predict_proba(rows[places])
        accuracy = np.mean(p.argmax(axis=1) == truth)
        assert network.history_[f"{curves}loss"] == pytest.approx([log_loss(truth, p)] * 2)
        assert network.history_[f"{curves}accuracy"] == pytest.approx([accuracy] * 2)
    watched = rows[dataset.where("validation")], dataset.targets.labels[dataset.where("validation")]
    train = dataset.where("train")
    whole = head.build(0, **as_it_began)
    whole.fit(rows[train], dataset.targets.labels[train], validation_data=watched)
    for streamed, expected in zip(network.model_.get_weights(), whole.model_.get_weights()):
        np.testing.assert_allclose(streamed, expected, rtol=1e-5, atol=1e-6)


def test_the_calibration_is_fitted_to_scores_of_images_not_trained_on(tmp_path, narrow):
    store, dataset, rows = make(tmp_path, narrow, 600)
    head = dataclasses.replace(get_head("linear-svm"), grid=({"C": 1.0},))
    fit = fit_streamed(head, Stream(store, dataset))
    held_out = dataset.where("validation")
    seen_all = fit.classifier.predict_proba(rows[held_out])
    assert not np.allclose(seen_all, fit.held_out)  # the final fit knows them
    # Turning the labels of validation turns the sigmoid, so these decide it.
    turned = dataset.targets.labels.copy()
    turned[held_out] = 1 - turned[held_out]
    other = fit_streamed(head, Stream(store, relabelled(dataset, turned)))
    assert np.corrcoef(fit.held_out[:, 1], other.held_out[:, 1])[0, 1] < -0.9


def test_held_out_probabilities_are_calibrated_without_the_image(tmp_path, narrow):
    store, dataset, _ = make(tmp_path, narrow, 200)
    head = dataclasses.replace(get_head("linear-svm"), grid=({"C": 1.0},))
    worse = []
    for seed in range(5):  # labels that rows tell nothing of
        labels = np.random.default_rng(seed).permutation(dataset.targets.labels)
        guessed = relabelled(dataset, labels)
        fit = fit_streamed(head, Stream(store, guessed, seed=seed))
        truth = labels[dataset.where("validation")]
        shares = np.bincount(truth) / len(truth)
        worse.append(log_loss(truth, fit.held_out) + np.sum(shares * np.log(shares)))
    # A sigmoid fitted to these labels does no worse than their shares do.
    assert np.mean(worse) > 0.01


@pytest.mark.parametrize(("left", "said"), [(0, "no"), (1, "one")])
def test_a_class_with_too_few_images_to_calibrate_on_is_named(tmp_path, narrow, left, said):
    store, dataset, _ = make(tmp_path, narrow, 300, classes=3)
    splits = dataset.splits.copy()
    splits[np.flatnonzero((dataset.targets.labels == 2) & (splits == "validation"))[left:]] = (
        "train"
    )
    without = dataclasses.replace(dataset, splits=splits)
    done = []
    with pytest.raises(PipelineError, match=f"validation split has {said} image of the class c"):
        fit_streamed(
            get_head("linear-svm"),
            Stream(store, without),
            on_epoch=lambda *epoch: done.append(epoch),
        )
    assert not done


def test_a_loss_that_is_not_finite_is_an_error(tmp_path, narrow):
    _, dataset, rows = make(tmp_path / "good", narrow, 100)
    rows[dataset.where("train")[0]] = np.nan
    store = FeatureStore(tmp_path / "bad", narrow)
    store.write([(digest, 0) for digest in dataset.digests], rows.reshape(-1, *narrow.shape))
    with pytest.raises(PipelineError, match="loss of the head dense was nan in epoch 1"):
        fit_streamed(get_head("dense"), Stream(store, dataset))


def test_images_without_rows_are_refused_before_training(tmp_path, narrow):
    store, dataset, _ = make(tmp_path, narrow, 100)
    (tmp_path / narrow.name / next(iter(store.shards))).unlink()
    with pytest.raises(StoreError, match="64 of the images of photos have no row"):
        Stream(FeatureStore(tmp_path, narrow), dataset)


def bytes_of_an_image(folder, head, channels):
    """How much the peak memory of training grows by an image."""
    recipe = dataclasses.replace(make_recipe(precision="float32"), shape=(1, 1, channels))
    few, many = 768, 2304
    peaks = {few: [], many: []}
    # The first is to load what loads late. Then twice, and the lower: a thread that an earlier test
    # left may take memory of its own meanwhile.
    for count in (few, few, many, few, many):
        store, dataset, _ = make(folder / str(count), recipe, count, per_shard=48)
        gc.collect()
        tracemalloc.start()
        try:
            stream = Stream(store, dataset)
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            fit_streamed(head, stream)
            peaks[count].append(tracemalloc.get_traced_memory()[1] - before)
        finally:
            tracemalloc.stop()
    return (min(peaks[many]) - min(peaks[few])) / (many - few)


@pytest.mark.parametrize("name", ["logistic", "linear-svm", "dense"])
def test_memory_of_training_does_not_grow_by_rows(tmp_path, monkeypatch, name):
    monkeypatch.setattr(linear, "_EPOCHS", (1, 1))
    head = get_head(name)
    if head.early_stopping:
        head = dataclasses.replace(head, grid=({"epochs": 1},))
    assert bytes_of_an_image(tmp_path, head, channels=256) < 4 * 256 / 3
