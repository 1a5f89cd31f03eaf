"""What is trained on: cached rows and images give the same, in the same order."""

import dataclasses
import errno
import gc
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CountingBackbone, paint, paint_classes

from pipeline.backbones.vgg16 import VGG16
from pipeline.data.augmentation import PRESETS
from pipeline.data.images import decode
from pipeline.data.loading import load_dataset
from pipeline.data.views import apply, draw
from pipeline.errors import DataError, PipelineError
from pipeline.features.extractor import Extractor, extract
from pipeline.features.views import Views
from pipeline.finetuning import sources
from pipeline.finetuning.batches import OrderedBatches
from pipeline.finetuning.sources import CachedRows, Images
from pipeline.system import tensorflow

MILD = PRESETS["mild"]
TAIL_ONLY = SimpleNamespace(upper=None)


@pytest.fixture
def recipe(recipe):
    return dataclasses.replace(recipe, shape=(2, 2, 12))


@pytest.fixture
def dataset(photos):
    return load_dataset(photos)


@pytest.fixture
def network(recipe):
    """Stands for a network of which only the frozen part is asked for."""
    frozen = CountingBackbone(recipe)
    return SimpleNamespace(upper=None, trunk=frozen, base=frozen, backbone=VGG16())


@pytest.fixture
def cached(dataset, recipe, backbone, tmp_path):
    backbone.shape = recipe.shape

    def make(**views):
        extractor = Extractor(recipe, cache=tmp_path / "cache", forward=backbone)
        extraction = extract(dataset, extractor=extractor, views=Views(**views))
        return CachedRows(extraction, tmp_path)

    return make


def ordered(source, *, phase="finetune", network=TAIL_ONLY, **options):
    return OrderedBatches(source, network, phase, **{"batch_size": 4, "seed": 0, **options})


def inputs_of(pairs):
    return np.concatenate([np.asarray(inputs) for inputs, _ in pairs])


def labels_of(pairs):
    return np.concatenate([labels for _, labels in pairs])


def plain(dataset, places, recipe):
    return np.stack([decode(dataset.paths[place].read_bytes(), recipe.size) for place in places])


def places_of(pixels, dataset, recipe):
    """Find out which images some pixels are of."""
    known = plain(dataset, range(len(dataset)), recipe)
    return [int(np.flatnonzero((known == one).all(axis=(1, 2, 3)))[0]) for one in pixels]


# --- order ------------------------------------------------------------------------------------


def test_rows_and_images_come_in_the_same_order_with_the_same_labels(
    cached, dataset, recipe, network
):
    from_rows = ordered(cached())
    from_images = ordered(Images(dataset, recipe, Views()), network=network)
    backbone = CountingBackbone(recipe)
    assert from_rows.images == from_images.images == len(dataset.where("train"))
    for number in (0, 1, 7):
        rows, pixels = (list(one.epoch(number)) for one in (from_rows, from_images))
        assert np.array_equal(inputs_of(rows), backbone(inputs_of(pixels)))
        assert np.array_equal(labels_of(rows), labels_of(pixels))
        assert [len(labels) for _, labels in rows] == [len(labels) for _, labels in pixels]
    rows, pixels = (list(one.validation()) for one in (from_rows, from_images))
    assert np.array_equal(inputs_of(rows), backbone(inputs_of(pixels)))
    assert np.array_equal(labels_of(rows), labels_of(pixels))


def test_an_epoch_is_every_training_image_once_with_its_own_label(dataset, recipe, network):
    source = Images(dataset, recipe, Views())
    pairs = list(ordered(source, network=network).epoch(3))
    places = places_of(inputs_of(pairs), dataset, recipe)
    assert sorted(places) == dataset.where("train").tolist() != places
    assert labels_of(pairs).tolist() == dataset.targets.labels[places].tolist()
    assert [len(labels) for _, labels in pairs[:-1]] == [4] * (len(pairs) - 1)


def test_in_the_final_training_validation_images_take_part_and_nothing_is_held_out(
    dataset, recipe, network
):
    source = Images(dataset, recipe, Views())
    found = ordered(source, network=network, final=True)
    places = places_of(inputs_of(found.epoch(0)), dataset, recipe)
    assert sorted(places) == dataset.where("train", "validation").tolist()
    assert found.images == len(places)
    assert list(found.validation()) == []


def test_each_epoch_and_each_seed_has_an_order_of_its_own(cached, dataset):
    rows = cached()
    orders = [
        inputs_of(ordered(rows, seed=seed, epochs_before=before).epoch(number))
        for seed, before, number in [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1), (0, 2, 0)]
    ]
    for place, one in enumerate(orders):
        assert not any(np.array_equal(one, other) for other in orders[:place])


def test_a_later_phase_goes_on_where_the_earlier_one_ended(cached, dataset):
    """So it neither repeats the first orders, nor the first views."""
    rows = cached(count=5, augmentation=MILD)
    early, late = (ordered(rows, epochs_before=before) for before in (0, 3))
    assert np.array_equal(inputs_of(early.epoch(4)), inputs_of(late.epoch(1)))


def test_the_order_follows_from_the_bytes_of_the_images_and_not_from_their_names(
    cached, dataset, recipe, network, tmp_path
):
    """As the name of an unfinished training does, which another order must not go on with."""
    order = np.random.default_rng(0).permutation(len(dataset))
    moved = dataset.take(order)
    assert moved.digest == dataset.digest
    one, other = (
        list(ordered(Images(data, recipe, Views()), network=network).epoch(0))
        for data in (dataset, moved)
    )
    assert np.array_equal(inputs_of(one), inputs_of(other))
    assert np.array_equal(labels_of(one), labels_of(other))


# --- cached rows ------------------------------------------------------------------------------


def test_cached_rows_of_an_epoch_are_those_of_its_view(cached, dataset, recipe):
    """Epoch e has view e modulo their number, view 0 the image itself."""
    found = ordered(cached(count=3, augmentation=MILD))
    by_itself = ordered(cached())
    backbone = CountingBackbone(recipe)
    for number in range(5):
        images = inputs_of(by_itself.epoch(number))
        rows = inputs_of(found.epoch(number))
        assert np.array_equal(rows, images) == (number % 3 == 0)
        # The order is that of the images, so each row can be told from its neighbours.
        places = [
            int(place)
            for image in images
            for place in dataset.where("train")
            if np.array_equal(backbone(plain(dataset, [place], recipe))[0], image)
        ]
        expected = [
            apply(picture, draw(MILD, dataset.digests[place], number % 3))
            if number % 3
            else picture
            for place, picture in zip(places, plain(dataset, places, recipe))
        ]
        assert np.array_equal(rows, backbone(np.stack(expected)))


@pytest.mark.parametrize("everywhere", [False, True])
def test_validation_is_the_images_themselves_in_their_order(cached, dataset, recipe, everywhere):
    found = ordered(cached(count=2, augmentation=MILD, everywhere=everywhere))
    pairs = list(found.validation())
    held_out = dataset.where("validation")
    expected = CountingBackbone(recipe)(plain(dataset, held_out, recipe))
    assert np.array_equal(inputs_of(pairs), expected)
    assert labels_of(pairs).tolist() == dataset.targets.labels[held_out].tolist()


def test_rows_in_bfloat16_take_half_the_space_and_lose_nothing(dataset, recipe, tmp_path):
    tf, _ = tensorflow.load()

    def backbone(pixels):
        rows = CountingBackbone(recipe)(pixels) * 1e4  # too large for float16
        return tf.cast(tf.cast(rows, tf.bfloat16), tf.float32).numpy()

    short = dataclasses.replace(recipe, precision="bfloat16")
    extraction = extract(
        dataset, extractor=Extractor(short, cache=tmp_path / "cache", forward=backbone)
    )
    [(inputs, _), *_] = ordered(CachedRows(extraction, tmp_path)).epoch(0)
    assert inputs.dtype.itemsize == 2
    exact = inputs_of(ordered(CachedRows(extraction, tmp_path)).validation())
    expected = extraction.rows(0, dataset.where("validation").tolist())
    assert np.array_equal(exact.astype(np.float32), expected)


def test_a_head_alone_sees_what_the_frozen_layers_make_of_rows_and_they_run_once(cached, dataset):
    calls = []

    def upper(rows, training):
        assert not training
        calls.append(len(rows))
        return rows.max(axis=(1, 2), keepdims=True) + 1

    upper.output = SimpleNamespace(shape=(None, 1, 1, 12))
    rows = cached(count=3, augmentation=MILD)
    frozen = ordered(rows, phase="frozen", network=SimpleNamespace(upper=upper))
    assert not calls, "an unfinished training may need none"
    below = ordered(rows)
    for number in range(3):
        expected = inputs_of(below.epoch(number)).max(axis=(1, 2), keepdims=True) + 1
        assert np.array_equal(inputs_of(frozen.epoch(number)), expected)
    expected = inputs_of(below.validation()).max(axis=(1, 2), keepdims=True) + 1
    assert np.array_equal(inputs_of(frozen.validation()), expected)
    assert sum(calls) == len(dataset) + 2 * len(dataset.where("train"))


def test_probabilities_run_no_row_that_is_not_asked_for(cached, dataset):
    seen = []

    def tail(rows, training):
        assert not training
        seen.append(len(rows))
        return rows.mean(axis=(1, 2))[:, :1] / 255

    plain_rows = cached().probabilities(SimpleNamespace(tail=tail))
    assert sum(seen) == len(dataset)
    assert plain_rows.shape == (len(dataset), 2)
    np.testing.assert_allclose(plain_rows.sum(axis=1), 1)
    seen.clear()
    views = cached(count=3, augmentation=MILD).probabilities(SimpleNamespace(tail=tail))
    assert sum(seen) == len(dataset)
    assert np.array_equal(views, plain_rows)


def test_probabilities_are_the_mean_over_all_views_where_that_is_asked_for(cached, dataset, recipe):
    tail = lambda rows, training: rows.mean(axis=(1, 2))[:, :1] / 255  # noqa: E731
    found = cached(count=3, augmentation=MILD, everywhere=True).probabilities(
        SimpleNamespace(tail=tail)
    )
    backbone = CountingBackbone(recipe)
    for place in (0, 7, len(dataset) - 1):
        picture = plain(dataset, [place], recipe)[0]
        views = [apply(picture, draw(MILD, dataset.digests[place], view)) for view in (1, 2)]
        each = tail(backbone(np.stack([picture, *views])), training=False)
        np.testing.assert_allclose(found[place, 1], each.mean(), rtol=1e-6)


# --- the scratch file -------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux")
def test_the_scratch_file_has_no_name_and_its_space_is_given_back(tmp_path):
    def held():
        maps = Path("/proc/self/maps").read_text()
        return sum(str(tmp_path) in line for line in maps.splitlines())

    array = sources.scratch_array(tmp_path, (100, 1000), np.float32)
    array[:] = np.arange(100)[:, None]
    assert list(tmp_path.iterdir()) == []
    assert array[99, 5] == 99
    assert held() == 1
    del array
    gc.collect()
    assert held() == 0


def test_a_disk_that_is_too_small_for_the_scratch_file_is_one_error(tmp_path, monkeypatch):
    """Asked of the system before anything is written: later it would be a SIGBUS."""

    def full(descriptor, offset, size):
        assert size == 100 * 1000 * 4
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(PipelineError, match=r"100 rows, 0.0 GB.*No space left(.|\n)*--views"):
        sources.scratch_array(tmp_path, (100, 1000), np.float32)


def test_a_folder_that_cannot_hold_the_scratch_file_is_one_error(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(PipelineError, match="cannot unpack 1 rows"):
        sources.scratch_array(tmp_path / "taken", (1, 1), np.float32)


# --- images -----------------------------------------------------------------------------------


def test_images_are_augmented_in_training_only_and_by_another_view_each_epoch(
    dataset, recipe, network
):
    source = Images(dataset, recipe, Views(augmentation=MILD))
    found = ordered(source, network=network)
    itself = ordered(Images(dataset, recipe, Views()), network=network)
    for number in (0, 1, 12):
        order = places_of(inputs_of(itself.epoch(number)), dataset, recipe)
        expected = [
            apply(picture, draw(MILD, dataset.digests[place], number + 1))
            for place, picture in zip(order, plain(dataset, order, recipe))
        ]
        assert np.array_equal(inputs_of(found.epoch(number)), np.stack(expected))
    held_out = dataset.where("validation")
    for _ in range(2):
        pixels = inputs_of(found.validation())
        assert np.array_equal(pixels, plain(dataset, held_out, recipe))


def test_a_later_phase_sees_views_that_no_earlier_one_has_seen(dataset, recipe, network):
    source = Images(dataset, recipe, Views(augmentation=MILD))
    frozen = ordered(source, phase="frozen", network=network)
    joint = ordered(source, network=network, epochs_before=2)
    epochs = [frozen.epoch(0), frozen.epoch(1), joint.epoch(0), joint.epoch(1)]
    views = [{one.tobytes() for one in inputs_of(epoch)} for epoch in epochs]
    assert len(set.union(*views)) == 4 * len(dataset.where("train"))


def test_augmented_images_are_the_same_each_time(dataset, recipe, network):
    one, other = (
        inputs_of(
            ordered(Images(dataset, recipe, Views(augmentation=MILD)), network=network).epoch(3)
        )
        for _ in range(2)
    )
    assert np.array_equal(one, other)


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core decodes one image at a time")
def test_images_are_decoded_by_the_workers_of_tf_data_several_at_once(
    dataset, recipe, network, monkeypatch
):
    workers, lock, another = set(), threading.Lock(), threading.Event()

    def watched(*arguments, **options):
        with lock:
            first = not workers
            workers.add(threading.get_ident())
        if first:
            another.wait(30)  # until an image is decoded beside the first
        else:
            another.set()
        return decode(*arguments, **options)

    monkeypatch.setattr("pipeline.backbones.recipe.decode", watched)
    list(ordered(Images(dataset, recipe, Views()), network=network).epoch(0))
    assert threading.main_thread().ident not in workers
    assert another.is_set()
    assert len(workers) > 1


@pytest.mark.parametrize("change", ["other bytes", "gone", "cut"])
def test_an_image_that_changes_while_it_is_trained_on_is_one_clear_error(
    dataset, recipe, network, change, capfd
):
    found = ordered(Images(dataset, recipe, Views()), network=network)
    list(found.epoch(0))
    victim = dataset.paths[dataset.where("train")[0]]
    if change == "gone":
        victim.unlink()
    elif change == "cut":
        victim.write_bytes(victim.read_bytes()[:100])
    else:
        paint(victim, (0, 0, 0), seed=99)
    with pytest.raises(
        DataError, match=r"(?s)cannot be read any more.*leave the images alone"
    ) as e:
        list(found.epoch(1))
    assert str(victim) in str(e.value)
    assert capfd.readouterr().err == ""


def test_a_defect_in_reading_an_image_is_not_taken_for_a_damaged_image(
    dataset, recipe, network, monkeypatch
):
    def broken(*arguments, **options):
        raise ZeroDivisionError

    monkeypatch.setattr("pipeline.backbones.recipe.decode", broken)
    tf, _ = tensorflow.load()
    with pytest.raises(tf.errors.OpError, match="ZeroDivisionError"):
        list(ordered(Images(dataset, recipe, Views()), network=network).epoch(0))


def test_probabilities_of_images_are_averaged_over_the_views_that_were_asked_for(recipe, tmp_path):
    dataset = load_dataset(paint_classes(tmp_path / "few", 8))
    seen = []

    def whole(pixels, training):
        seen.append(np.asarray(pixels))
        return seen[-1].mean(axis=(1, 2))[:, :1] / np.float32(255)

    network = SimpleNamespace(whole=lambda: whole)
    views = Views(count=3, augmentation=MILD, everywhere=True)
    found = Images(dataset, recipe, views).probabilities(network)
    for place, picture in enumerate(plain(dataset, range(len(dataset)), recipe)):
        drawn = [apply(picture, draw(MILD, dataset.digests[place], view)) for view in (1, 2)]
        expected = whole(np.stack([picture, *drawn]), training=False).mean()
        np.testing.assert_allclose(found[place], [1 - expected, expected], rtol=1e-6)
    seen.clear()
    Images(dataset, recipe, Views(augmentation=MILD)).probabilities(network)
    assert np.array_equal(np.concatenate(seen), plain(dataset, range(len(dataset)), recipe))
