"""Training that can be killed and started again, against Keras's own, and what goes wrong."""

import errno
import json
import math
import os

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.finetuning import training
from pipeline.finetuning.settings import OPTIMIZERS, SCHEDULES, Training
from pipeline.finetuning.training import train
from pipeline.heads.dense import build_dense
from pipeline.runs.listener import RunListener
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

    def before(self, inputs):
        return inputs

    def epoch(self, number):
        order = np.random.default_rng(number).permutation(self.images)
        for start in range(0, self.images, 4):
            places = order[start : start + 4]
            yield self.rows[places], self.labels[places]

    def validation(self):
        yield self.rows[10:14], self.labels[10:14]
        yield self.rows[14:], self.labels[14:]


class RowsWithoutValidation(Rows):
    def validation(self):
        return iter(())


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


class KilledRows(Rows):
    """The same rows, until a step where the process ends."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def epoch(self, number):
        for batch in super().epoch(number):
            if self.left == 0:
                raise Killed
            self.left -= 1
            yield batch


class NanRows(Rows):
    """The same rows, which are NaN from a step on, or on validation."""

    def __init__(self, step=math.inf, *, validation=False):
        super().__init__()
        self.step = step
        if validation:
            self.rows[10:] = np.nan

    def epoch(self, number):
        for step, (rows, labels) in enumerate(super().epoch(number)):
            yield np.where(STEPS * number + step >= self.step, np.nan, rows), labels


class Notes(RunListener):
    """Notes what it is told, and does something after each epoch."""

    def __init__(self, after_epoch=lambda epoch: None):
        self.images, self.figures = [], []
        self.after_epoch = after_epoch

    def images_trained(self, phase, done, total):
        self.images.append((done, total))

    def epoch_ended(self, phase, epoch, figures):
        self.figures.append(figures)
        self.after_epoch(epoch)


def head(n_classes=2, dropout=0.0):
    return build_dense(6, n_classes, units=8, dropout=dropout, seed=1)


def linear():
    """A network without a relu, which hides NaN."""
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
def each_epoch(monkeypatch):
    """Write a checkpoint after each epoch, however short."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)


# --- against Keras ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_training_does_what_keras_does(n_classes, optimizer, schedule, checkpoint):
    """Weights and learning curves, against `train_on_batch` and `evaluate`."""
    ours, theirs, rows = head(n_classes), head(n_classes), Rows(n_classes)
    trained = train(
        ours,
        rows,
        Training(epochs=4, learning_rate=0.01, optimizer=optimizer, schedule=schedule, patience=4),
        file=checkpoint,
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
        for step, (batch, labels) in enumerate(rows.epoch(epoch)):
            if schedule == "cosine":
                share = (10 * epoch + 4 * step) / 40  # of all images
                theirs.optimizer.learning_rate = 0.01 * (1 + math.cos(math.pi * share)) / 2
            sums += len(labels) * np.array(theirs.train_on_batch(batch, labels[:, None]))
        on_validation = theirs.evaluate(rows.rows[10:], rows.labels[10:, None], verbose=0)
        figures = [curve[epoch] for curve in trained.curves.values()]
        assert figures == pytest.approx([*(sums / rows.images), *on_validation], rel=1e-5)
        if epoch + 1 == trained.best_epoch:
            best = weights_of(theirs)
    for one, other in zip(ours.get_weights(), best, strict=True):
        # A step changes weights by up to 0.01; TensorFlow takes Adam's 1 - 0.999 in float32.
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_training_ends_after_patience_and_the_weights_of_the_best_epoch_are_kept(checkpoint):
    model, rows, seen = head(), Rows(), {}
    rows.labels[10:] = 1 - rows.labels[10:]  # what is learned is wrong there
    rows.rows[10:] *= 0.5
    notes = Notes(lambda epoch: seen.update({epoch: weights_of(model)}))
    settings = Training(epochs=30, learning_rate=0.01, patience=3)
    trained = train(model, rows, settings, file=checkpoint, listener=notes)
    losses = trained.curves["val_loss"]
    assert trained.best_epoch == 1 + int(np.argmin(losses))
    assert len(losses) == trained.epochs == trained.best_epoch + 3 < 30
    assert_same(model.get_weights(), seen[trained.best_epoch])
    assert not np.array_equal(model.get_weights()[0], seen[len(losses)][0])
    for name, curve in trained.curves.items():
        assert curve == [figures[name] for figures in notes.figures]


def test_without_validation_images_all_epochs_are_trained_and_the_last_is_kept(checkpoint):
    model, rows, seen = head(), RowsWithoutValidation(), {}
    notes = Notes(lambda epoch: seen.update({epoch: weights_of(model)}))
    settings = Training(epochs=4, learning_rate=0.01, patience=1)
    trained = train(model, rows, settings, file=checkpoint, listener=notes)
    assert (trained.epochs, trained.best_epoch) == (4, 4)
    assert trained.curves["val_loss"] == trained.curves["val_accuracy"] == []
    assert [list(figures) for figures in notes.figures] == [["loss", "accuracy"]] * 4
    assert_same(model.get_weights(), seen[4])
    again = head()
    train(again, rows, settings, file=checkpoint)
    assert_same(again.get_weights(), seen[4])


def test_the_listener_is_told_of_every_step_from_the_start_to_the_end(checkpoint):
    notes = Notes()
    train(head(), Rows(), Training(epochs=2), file=checkpoint, listener=notes)
    assert notes.images == [(done, 20) for done in (0, 4, 8, 10, 14, 18, 20)]


# --- killed and started again -----------------------------------------------------------------


SETTINGS = Training(epochs=3, learning_rate=0.01, patience=3, schedule="cosine")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    model = head(dropout=0.3)
    file = tmp_path_factory.mktemp("undisturbed") / "phase.npz"
    trained = train(model, Rows(), SETTINGS, file=file)
    return model.get_weights(), trained


def assert_goes_on(checkpoint, undisturbed, rows=None):
    """Start again, and compare with the training that nobody disturbed."""
    model, notes = head(dropout=0.3), Notes()
    trained = train(model, rows or Rows(), SETTINGS, file=checkpoint, listener=notes)
    assert_same(model.get_weights(), undisturbed[0])
    assert trained == undisturbed[1]
    return notes


def test_dropout_takes_part_in_what_is_compared(undisturbed, checkpoint):
    without = head()
    train(without, Rows(), SETTINGS, file=checkpoint)
    assert not np.array_equal(without.get_weights()[0], undisturbed[0][0])


@pytest.mark.parametrize("step", range(3 * STEPS))
def test_killed_before_any_step_it_goes_on_after_the_last_epoch_to_the_same_bits(
    step, undisturbed, checkpoint, each_epoch
):
    with pytest.raises(Killed):
        train(head(dropout=0.3), KilledRows(step), SETTINGS, file=checkpoint)
    notes = assert_goes_on(checkpoint, undisturbed)
    assert notes.images[0][0] == 10 * (step // STEPS)


def test_after_short_epochs_a_checkpoint_is_written_at_the_end_only(checkpoint):
    there = []
    notes = Notes(lambda epoch: there.append(checkpoint.exists()))
    train(head(), Rows(), SETTINGS, file=checkpoint, listener=notes)
    assert there == [False, False, True]


@pytest.mark.parametrize(("owner", "name"), [(np, "savez"), (os, "fsync")])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_killed_while_a_checkpoint_is_written_it_goes_on_to_the_same_bits(
    owner, name, at, undisturbed, checkpoint, monkeypatch, each_epoch
):
    """The checkpoint before it is whole, and the new one counts only when it is, too."""
    calls, original = [], getattr(owner, name)

    def kill(*arguments, **options):
        calls.append(1)
        if len(calls) > at:
            if name == "savez":
                arguments[0].write(b"PK\3\4 and half of the rest")
            raise Killed
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, kill)
        with pytest.raises(Killed):
            train(head(dropout=0.3), Rows(), SETTINGS, file=checkpoint)
    assert [file.name for file in checkpoint.parent.iterdir()] == ["phase.npz"] * bool(at)
    assert_goes_on(checkpoint, undisturbed)


def test_a_training_that_is_over_gives_its_result_again_without_a_step(undisturbed, checkpoint):
    train(head(dropout=0.3), Rows(), SETTINGS, file=checkpoint)
    assert_goes_on(checkpoint, undisturbed, rows=KilledRows(0))


def test_the_same_training_in_another_process_may_end_and_remove_the_folder(
    undisturbed, checkpoint, monkeypatch, each_epoch
):
    """Between two checkpoints, and in the middle of one."""
    fsync = os.fsync

    def remove(*_):
        for file in checkpoint.parent.iterdir():
            file.unlink()
        checkpoint.parent.rmdir()

    model = head(dropout=0.3)
    notes = Notes(lambda epoch: remove() if epoch == 1 else None)
    train(model, Rows(), SETTINGS, file=checkpoint, listener=notes)
    assert_same(model.get_weights(), undisturbed[0])
    remove()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (fsync(descriptor), remove()))
    train(model := head(dropout=0.3), Rows(), SETTINGS, file=checkpoint)
    assert_same(model.get_weights(), undisturbed[0])
    assert not checkpoint.parent.exists()


# --- checkpoints that cannot be used, or written -----------------------------------------------


def test_every_cut_and_flipped_byte_of_a_checkpoint_is_an_error_or_does_no_harm(checkpoint):
    model = linear()
    train(model, Rows(), Training(epochs=1), file=checkpoint)
    right = weights_of(model)
    whole = checkpoint.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:length] for length in rng.choice(len(whole), 15, replace=False)]
    # Half in the archive's directory, where flips make many kinds of errors.
    directory = whole.index(b"PK\1\2")
    for place in (*rng.integers(directory, len(whole), 60), *rng.integers(directory, size=60)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    messages = []
    for content in damaged:
        checkpoint.write_bytes(content)
        model.set_weights([np.zeros_like(array) for array in right])
        try:
            trained = train(model, KilledRows(0), Training(epochs=1), file=checkpoint)
        except PipelineError as error:
            messages.append(str(error))
            left_alone = not np.any(model.get_weights()[0])
            assert left_alone
        else:
            assert_same(model.get_weights(), right)
            assert trained.epochs == 1
    assert len(messages) > 60
    assert all(str(checkpoint) in message and "delete it" in message for message in messages)


def test_a_checkpoint_of_another_network_is_refused(checkpoint):
    train(head(), Rows(), Training(epochs=1), file=checkpoint)
    with pytest.raises(PipelineError, match="belongs to another network"):
        train(head(3), Rows(3), Training(epochs=1), file=checkpoint)


def test_a_full_disk_is_one_error_and_the_checkpoint_before_it_stays(
    checkpoint, monkeypatch, each_epoch
):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(Killed):
        train(head(dropout=0.3), KilledRows(4), SETTINGS, file=checkpoint)
    before = checkpoint.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PipelineError, match=r"phase\.npz: No space left(.|\n)*free space"):
            train(head(dropout=0.3), Rows(), SETTINGS, file=checkpoint)
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
    assert checkpoint.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(PipelineError, match=r"cannot write the checkpoint .*phase\.npz"):
        train(head(), Rows(), Training(epochs=1), file=tmp_path / "taken" / "x" / "phase.npz")


def test_a_checkpoint_says_in_plain_text_how_far_the_training_is(checkpoint):
    train(head(), Rows(), SETTINGS, file=checkpoint)
    with np.load(checkpoint) as content:
        assert len(json.loads(str(content["curves"]))["loss"]) == 3


# --- numbers that are not finite ----------------------------------------------------------------


def test_a_loss_that_is_nan_is_an_error_that_names_step_and_epoch_and_the_checkpoint_stays(
    checkpoint, each_epoch
):
    with pytest.raises(Killed):
        train(linear(), KilledRows(4), SETTINGS, file=checkpoint)
    good = checkpoint.read_bytes()
    with pytest.raises(PipelineError, match=r"(?s)loss was nan at step 2 of epoch 2\..*lower the"):
        train(linear(), NanRows(4), SETTINGS, file=checkpoint)
    assert checkpoint.read_bytes() == good


def test_a_validation_loss_that_is_nan_is_an_error_and_never_the_best(checkpoint):
    with pytest.raises(PipelineError, match="validation loss was not finite after epoch 1"):
        train(linear(), NanRows(validation=True), SETTINGS, file=checkpoint)
    assert not checkpoint.exists()


def test_weights_that_are_nan_are_noticed_even_if_the_loss_is_finite(checkpoint, each_epoch):
    """A compiled relu turns NaN into 0, so the loss does not show it."""
    with pytest.raises(PipelineError, match="weights were not finite after epoch 2"):
        train(head(), NanRows(4), SETTINGS, file=checkpoint)
    with np.load(checkpoint) as content:
        assert all(np.isfinite(content[name]).all() for name in content if name != "curves")


def test_a_learning_rate_that_makes_weights_overflow_is_an_error(checkpoint):
    with pytest.raises(PipelineError, match=r"(?s)not finite|loss was .*lower the learning rate"):
        train(head(3), Rows(3), Training(learning_rate=1e38), file=checkpoint)
    assert not checkpoint.exists()


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


def test_an_unknown_optimizer_or_schedule_is_refused_with_the_known():
    with pytest.raises(PipelineError, match=r"(?s)optimizer 'sgd'.*rmsprop, adam"):
        Training(optimizer="sgd")
    with pytest.raises(PipelineError, match=r"(?s)schedule 'step'.*constant, cosine"):
        Training(schedule="step")
