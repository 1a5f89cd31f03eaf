"""Training that can be stopped at any moment, against Keras's own, and on what goes wrong."""

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.finetuning import training
from pipeline.finetuning.training import OPTIMIZERS, SCHEDULES, Training, train
from pipeline.heads.dense import build_dense
from pipeline.system import tensorflow

STEPS = 3  # of an epoch: 4, 4 and 2 images


class Rows:
    """Ten rows to train on, in another order each epoch, and six that are held out."""

    images = 10

    def __init__(self, n_classes=2):
        rng = np.random.default_rng(0)
        self.rows = rng.normal(size=(16, 6)).astype(np.float32)
        self.labels = np.arange(16) % n_classes
        self.rows[np.arange(16), self.labels] += 2

    def epoch(self, number, first):
        order = np.random.default_rng(number).permutation(self.images)
        for start in range(4 * first, self.images, 4):
            places = order[start : start + 4]
            yield self.rows[places], self.labels[places]

    def validation(self):
        yield self.rows[10:14], self.labels[10:14]
        yield self.rows[14:], self.labels[14:]


class Stopped(BaseException):
    """Stands for the end of the process: nothing may catch it."""


class StoppedRows(Rows):
    """The same rows, until a step where the process ends."""

    def __init__(self, stop_at):
        super().__init__()
        self.left = stop_at

    def epoch(self, number, first):
        for batch in super().epoch(number, first):
            if self.left == 0:
                raise Stopped
            self.left -= 1
            yield batch


class PoisonedRows(Rows):
    """The same rows, which are no numbers from a step on, or on validation."""

    def __init__(self, step=math.inf, *, validation=False):
        super().__init__()
        self.step = step
        if validation:
            self.rows[10:] = np.nan

    def epoch(self, number, first):
        for step, (rows, labels) in enumerate(super().epoch(number, first), first):
            yield np.where(STEPS * number + step >= self.step, np.nan, rows), labels


def head(n_classes=2, dropout=0.0):
    return build_dense(6, n_classes, units=8, dropout=dropout, seed=1)


def linear():
    """A network without a relu, which hides what is no number."""
    _, keras = tensorflow.load()
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, activation="sigmoid")])


def weights_of(model):
    return [array.copy() for array in model.get_weights()]


def assert_same(ours, theirs):
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "unfinished" / "phase.npz"


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)


# --- against Keras ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_training_does_what_keras_does(n_classes, optimizer, schedule, checkpoint):
    """Weights and learning curves, against `train_on_batch` and `evaluate`."""
    ours, theirs, rows = head(n_classes), head(n_classes), Rows(n_classes)
    progress = train(
        ours,
        rows,
        Training(epochs=4, learning_rate=0.01, optimizer=optimizer, schedule=schedule, patience=4),
        checkpoint=checkpoint,
    )
    _, keras = tensorflow.load()
    theirs.compile(
        {"rmsprop": keras.optimizers.RMSprop, "adam": keras.optimizers.Adam}[optimizer](0.01),
        "binary_crossentropy" if n_classes == 2 else "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    for epoch in range(4):
        sums = np.zeros(2)
        for step, (batch, labels) in enumerate(rows.epoch(epoch, 0)):
            if schedule == "cosine":
                share = (10 * epoch + 4 * step) / 40  # of all images
                theirs.optimizer.learning_rate = 0.01 * (1 + math.cos(math.pi * share)) / 2
            sums += len(labels) * np.array(theirs.train_on_batch(batch, labels[:, None]))
        on_validation = theirs.evaluate(rows.rows[10:], rows.labels[10:, None], verbose=0)
        figures = [progress.history[name][epoch] for name in progress.history]
        assert figures == pytest.approx([*(sums / rows.images), *on_validation], rel=1e-5)
        if epoch + 1 == progress.best_epoch:
            best = weights_of(theirs)
    for one, other in zip(ours.get_weights(), best, strict=True):
        # A step changes weights by up to 0.01; TensorFlow takes Adam's 1 - 0.999 in float32.
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_weights_of_the_best_epoch_are_kept_and_training_ends_when_it_was_long_ago(checkpoint):
    model, seen = head(), {}
    rows = Rows()
    rows.labels[10:] = 1 - rows.labels[10:]  # what is learned is wrong there
    rows.rows[10:] *= 0.5
    progress = train(
        model,
        rows,
        Training(epochs=30, learning_rate=0.01, patience=3),
        checkpoint=checkpoint,
        on_epoch=lambda epoch, figures: seen.update({epoch: (weights_of(model), figures)}),
    )
    losses = progress.history["val_loss"]
    assert progress.best_epoch == 1 + int(np.argmin(losses))
    assert len(losses) == progress.best_epoch + 3 < 30
    assert_same(model.get_weights(), seen[progress.best_epoch][0])
    assert not np.array_equal(model.get_weights()[0], seen[len(losses)][0][0])
    for name, curve in progress.history.items():
        assert curve == [seen[epoch + 1][1][name] for epoch in range(len(losses))]


def test_where_nothing_is_held_out_all_epochs_are_trained_and_the_last_is_kept(checkpoint):
    class Unjudged(Rows):
        def validation(self):
            return iter(())

    model, seen = head(), {}
    progress = train(
        model,
        Unjudged(),
        Training(epochs=4, learning_rate=0.01, patience=1),
        checkpoint=checkpoint,
        on_epoch=lambda epoch, figures: seen.update({epoch: (weights_of(model), figures)}),
    )
    assert (progress.epoch, progress.best_epoch) == (4, 4)
    assert progress.history["val_loss"] == progress.history["val_accuracy"] == []
    assert [list(figures) for _, figures in seen.values()] == [["loss", "accuracy"]] * 4
    assert_same(model.get_weights(), seen[4][0])
    again = head()
    train(again, Unjudged(), Training(epochs=4, patience=1), checkpoint=checkpoint)
    assert_same(again.get_weights(), seen[4][0])


def test_what_is_done_is_reported_from_the_start_to_the_end(checkpoint):
    seen = []
    train(
        head(),
        Rows(),
        Training(epochs=2),
        checkpoint=checkpoint,
        on_images=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, 20) for done in (0, 4, 8, 10, 14, 18, 20)]


# --- stopped and gone on with -----------------------------------------------------------------


SETTINGS = Training(epochs=3, learning_rate=0.01, patience=3, schedule="cosine")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    model = head(dropout=0.3)
    file = tmp_path_factory.mktemp("undisturbed") / "phase.npz"
    progress = train(model, Rows(), SETTINGS, checkpoint=file)
    return model.get_weights(), progress


def test_dropout_takes_part_in_what_is_compared(undisturbed, checkpoint):
    without = head()
    train(without, Rows(), SETTINGS, checkpoint=checkpoint)
    assert not np.array_equal(without.get_weights()[0], undisturbed[0][0])


@pytest.mark.parametrize(
    ("stop_at", "seconds"),
    [*((step, 0.0) for step in range(3 * STEPS)), (2, math.inf), (7, math.inf)],
)
def test_stopped_before_any_step_it_goes_on_to_the_same_bits(
    stop_at, seconds, undisturbed, checkpoint, monkeypatch
):
    """With a checkpoint after each step, and with one after each epoch."""
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", seconds)
    monkeypatch.setattr(training, "_CHECKPOINT_SHARE", math.inf)
    with pytest.raises(Stopped):
        train(head(dropout=0.3), StoppedRows(stop_at), SETTINGS, checkpoint=checkpoint)
    model, done = head(dropout=0.3), []
    progress = train(
        model,
        Rows(),
        SETTINGS,
        checkpoint=checkpoint,
        on_images=lambda so_far, total: done.append(so_far),
    )
    epochs, steps = divmod(stop_at, STEPS)
    assert done[0] == 10 * epochs + (4 * steps if seconds == 0 else 0)
    assert_same(model.get_weights(), undisturbed[0])
    assert progress == undisturbed[1]


def test_of_short_epochs_only_the_first_and_the_last_are_kept(checkpoint, monkeypatch):
    """What a checkpoint costs is known from the first; the share of time allowed here is none."""
    monkeypatch.setattr(training, "_CHECKPOINT_SHARE", 0.0)
    kept = []
    train(
        head(),
        Rows(),
        SETTINGS,
        checkpoint=checkpoint,
        on_epoch=lambda *_: kept.append(json.loads(str(np.load(checkpoint)["progress"]))["epoch"]),
    )
    assert kept == [1] * (SETTINGS.epochs - 1) + [SETTINGS.epochs]


@pytest.mark.parametrize("name", ["savez", "fsync", "replace"])
@pytest.mark.parametrize("at", [0, 1, 5])
def test_stopped_while_a_checkpoint_is_written_it_goes_on_to_the_same_bits(
    name, at, undisturbed, checkpoint, monkeypatch, often
):
    """The one before it is whole, and the new one counts only when it is, too."""
    owner = {"savez": np, "fsync": os, "replace": Path}[name]
    calls, original = [], getattr(owner, name)

    def stop(*arguments, **options):
        calls.append(1)
        if len(calls) > at:
            if name == "savez":
                arguments[0].write(b"PK\3\4 and half of the rest")
            raise Stopped
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises(Stopped):
            train(head(dropout=0.3), Rows(), SETTINGS, checkpoint=checkpoint)
    assert [file.name for file in checkpoint.parent.iterdir()] == ["phase.npz"] * bool(at)
    model = head(dropout=0.3)
    train(model, Rows(), SETTINGS, checkpoint=checkpoint)
    assert_same(model.get_weights(), undisturbed[0])


def test_a_training_that_is_over_gives_its_result_again_without_a_step(undisturbed, checkpoint):
    train(head(dropout=0.3), Rows(), SETTINGS, checkpoint=checkpoint)
    model = head(dropout=0.3)
    progress = train(model, StoppedRows(0), SETTINGS, checkpoint=checkpoint)
    assert_same(model.get_weights(), undisturbed[0])
    assert progress == undisturbed[1]


def test_an_equal_training_that_ends_and_clears_up_does_no_harm(undisturbed, checkpoint, often):
    """Its folder vanishes between two checkpoints, and in the middle of one."""

    def clear_up(*_):
        for file in checkpoint.parent.iterdir():
            file.unlink()
        checkpoint.parent.rmdir()

    model = head(dropout=0.3)
    train(
        model,
        Rows(),
        SETTINGS,
        checkpoint=checkpoint,
        on_images=lambda done, total: clear_up() if done == 14 else None,
        on_epoch=lambda epoch, figures: clear_up() if epoch == 2 else None,
    )
    assert_same(model.get_weights(), undisturbed[0])


def test_a_folder_that_vanishes_under_a_checkpoint_does_no_harm(
    undisturbed, checkpoint, monkeypatch, often
):
    fsync = os.fsync

    def clear_up(descriptor):
        fsync(descriptor)
        for file in checkpoint.parent.iterdir():
            file.unlink()
        checkpoint.parent.rmdir()

    monkeypatch.setattr(os, "fsync", clear_up)
    model = head(dropout=0.3)
    train(model, Rows(), SETTINGS, checkpoint=checkpoint)
    assert_same(model.get_weights(), undisturbed[0])
    assert not checkpoint.parent.exists()


# --- checkpoints that cannot be used, or written -----------------------------------------------


def test_every_cut_and_flipped_byte_of_a_checkpoint_is_an_error_or_does_no_harm(checkpoint):
    model = linear()
    train(model, Rows(), Training(epochs=1), checkpoint=checkpoint)
    right = weights_of(model)
    whole = checkpoint.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:length] for length in rng.choice(len(whole), 30, replace=False)]
    # Half in the archive's directory, where flips make many kinds of errors.
    directory = whole.index(b"PK\1\2")
    for place in (*rng.integers(directory, len(whole), 150), *rng.integers(directory, size=150)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    messages = []
    for content in damaged:
        checkpoint.write_bytes(content)
        model.set_weights([np.zeros_like(array) for array in right])
        try:
            progress = train(model, StoppedRows(0), Training(epochs=1), checkpoint=checkpoint)
        except PipelineError as error:
            messages.append(str(error))
            left_alone = not np.any(model.get_weights()[0])
            assert left_alone
        else:
            assert_same(model.get_weights(), right)
            assert progress.epoch == 1
    assert len(messages) > 150
    assert all(str(checkpoint) in one and "delete it" in one for one in messages)


def test_a_checkpoint_of_another_network_is_refused(checkpoint):
    train(head(), Rows(), Training(epochs=1), checkpoint=checkpoint)
    with pytest.raises(PipelineError, match="of another network"):
        train(head(3), Rows(3), Training(epochs=1), checkpoint=checkpoint)


def test_a_full_disk_is_one_error_and_the_checkpoint_before_it_stays(
    checkpoint, undisturbed, monkeypatch, often
):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(Stopped):
        train(head(dropout=0.3), StoppedRows(4), SETTINGS, checkpoint=checkpoint)
    before = checkpoint.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PipelineError, match=r"phase\.npz: No space left(.|\n)*free space"):
            train(head(dropout=0.3), Rows(), SETTINGS, checkpoint=checkpoint)
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
    assert checkpoint.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(PipelineError, match=r"cannot write the checkpoint .*phase\.npz"):
        train(head(), Rows(), Training(epochs=1), checkpoint=tmp_path / "taken" / "x" / "phase.npz")


# --- losses that are no numbers ---------------------------------------------------------------


def test_a_loss_that_is_no_number_says_step_and_epoch_and_keeps_the_last_good_checkpoint(
    checkpoint, often
):
    with pytest.raises(Stopped):
        train(linear(), StoppedRows(4), SETTINGS, checkpoint=checkpoint)
    good = checkpoint.read_bytes()
    with pytest.raises(PipelineError, match="loss was nan at step 2 of epoch 2") as caught:
        train(linear(), PoisonedRows(4), SETTINGS, checkpoint=checkpoint)
    assert f"the last good checkpoint is {checkpoint}" in str(caught.value)
    assert "lower the learning rate" in str(caught.value)
    assert checkpoint.read_bytes() == good


def test_a_loss_that_is_no_number_at_once_says_that_there_is_no_checkpoint(checkpoint):
    with pytest.raises(PipelineError, match=f"step 1 of epoch 1; there is no {checkpoint} yet"):
        train(linear(), PoisonedRows(0), SETTINGS, checkpoint=checkpoint)


def test_a_validation_loss_that_is_no_number_is_an_error_and_never_the_best(checkpoint):
    with pytest.raises(PipelineError, match="loss on validation was not finite after epoch 1"):
        train(linear(), PoisonedRows(validation=True), SETTINGS, checkpoint=checkpoint)
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("seconds", "where"), [(0.0, "at step 2 of epoch 2"), (math.inf, "after epoch 2")]
)
def test_weights_that_are_no_numbers_are_noticed_where_the_loss_stays_finite(
    seconds, where, checkpoint, monkeypatch
):
    """Compiled, a relu makes 0 of what is no number: the loss does not show it."""
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", seconds)
    with pytest.raises(PipelineError, match=f"weights were not finite {where}"):
        train(head(), PoisonedRows(4), SETTINGS, checkpoint=checkpoint)
    with np.load(checkpoint) as content:
        assert all(np.isfinite(content[name]).all() for name in content if name != "progress")


def test_a_learning_rate_that_makes_weights_overflow_is_an_error(checkpoint):
    with pytest.raises(PipelineError, match=r"(?s)not finite|loss was .*lower the learning rate"):
        train(head(3), Rows(3), Training(learning_rate=1e38), checkpoint=checkpoint)
    assert not checkpoint.exists()


def test_a_checkpoint_says_in_plain_text_how_far_the_training_is(checkpoint):
    train(head(), Rows(), SETTINGS, checkpoint=checkpoint)
    with np.load(checkpoint) as content:
        assert json.loads(str(content["progress"]))["epoch"] == 3


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"patience": 0},
        {"learning_rate": 0.0},
        {"learning_rate": -1e-5},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
    ],
)
def test_settings_that_make_no_sense_are_refused_with_what_would(options):
    [value] = options.values()
    with pytest.raises(PipelineError, match=rf"(?s){value}.*at least 1 epoch.*positive learning"):
        Training(**options)


def test_an_unknown_optimizer_or_schedule_is_refused_with_what_there_is():
    with pytest.raises(PipelineError, match=r"(?s)optimizer 'sgd'.*rmsprop, adam"):
        Training(optimizer="sgd")
    with pytest.raises(PipelineError, match=r"(?s)schedule 'step'.*constant, cosine"):
        Training(schedule="step")
