"""The textbook's densely connected head."""

import itertools
import logging
import random
import warnings

import numpy as np
import pytest
from rows import rows_like_features
from sklearn.base import clone

from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import log_loss
from pipeline.heads.cross_fitted import CrossFitted
from pipeline.heads.dense import (
    DenseHead,
    as_probabilities,
    build_dense,
    shuffled_batches,
)
from pipeline.heads.registry import get_head
from pipeline.system import tensorflow


@pytest.fixture(scope="module")
def dense():
    X, y = rows_like_features(120, 2)
    V, w = rows_like_features(60, 2, seed=1)
    return fast().fit(X, y, validation_data=(V, w))


def fast(**params):
    return DenseHead(**{"epochs": 12, "learning_rate": 3e-3, "units": 32} | params)


def test_one_output_becomes_a_column_for_each_of_two_classes():
    one = np.array([[0.25], [1.0]], np.float32)
    assert as_probabilities(one).tolist() == [[0.75, 0.25], [0.0, 1.0]]
    three = np.array([[0.2, 0.3, 0.5]], np.float32)
    assert as_probabilities(three) is three


def test_the_network_has_the_textbooks_parameters():
    network = build_dense(8192, 2)
    sizes = [layer.count_params() for layer in network.layers]
    assert sizes == [8192 * 256 + 256, 0, 256 + 1]
    # With VGG16's convolutional base: the textbook's 16,812,353.
    assert network.count_params() + 14_714_688 == 16_812_353


def test_the_network_for_several_classes_ends_in_a_softmax():
    network = build_dense(10, 4, units=3)
    assert network.output_shape == (None, 4)
    assert network.count_params() == 10 * 3 + 3 + 3 * 4 + 4
    np.testing.assert_allclose(np.sum(network(np.ones((2, 10), "float32")), axis=1), 1, rtol=1e-5)


def test_the_textbooks_own_is_trained_at_the_textbooks_rate_for_a_row():
    settings = get_head("textbook-dense").build(0).get_params()
    assert settings["learning_rate"] / 64 == pytest.approx(2e-5 / 20)
    assert settings == {
        "epochs": 30,
        "batch_size": 64,
        "learning_rate": 6.4e-5,
        "units": 256,
        "dropout": 0.5,
        "patience": 5,
        "random_state": 0,
        "balanced": False,
        "pool": "flatten",
        "shape": None,
    }


@pytest.mark.parametrize("k", [2, 3])
def test_the_textbooks_own_has_the_weights_of_its_training_written_out(k):
    _, keras = tensorflow.load()
    X, y = rows_like_features(133, k)
    head = get_head("textbook-dense").build(5, epochs=3).fit(X, y)

    weights, order = (int(s) for s in np.random.SeedSequence(5).generate_state(2))
    network = build_dense(X.shape[1], k, seed=weights)
    kind = "binary" if k == 2 else "sparse_categorical"
    network.compile(keras.optimizers.RMSprop(6.4e-5), f"{kind}_crossentropy", jit_compile=False)
    for batch in shuffled_batches(X, y, batch_size=64, epochs=3, seed=order):
        network.train_on_batch(*batch)

    for ours, theirs in zip(head.model_.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**-7, 1.0, 2.0**8, 2.0**60])
@pytest.mark.parametrize("offset", [0.0, 4.0])
def test_it_learns_the_same_whatever_the_scale_of_rows(scale, offset):
    X, y = rows_like_features(280, 7)
    unseen, truth = rows_like_features(140, 7, seed=1)
    head = DenseHead().fit(X, y)
    moved = DenseHead().fit((X + offset) * np.float32(scale), y)
    p = moved.predict_proba((unseen + offset) * np.float32(scale))
    np.testing.assert_allclose(p, head.predict_proba(unseen), atol=2e-3)
    assert np.mean(p.argmax(axis=1) == truth) > 0.7


@pytest.mark.parametrize("size", ["hundreds", "as features are", "of length one"])
def test_on_few_rows_of_several_classes_its_log_loss_is_near_that_of_logistic_regression(size):
    scale = {"hundreds": 100, "as features are": 1, "of length one": 0.03}[size]
    losses = []
    for seed, name in itertools.product(range(2), ("dense", "logistic")):
        X, y = rows_like_features(420, 7, d=1024, seed=3 * seed)
        V, w = rows_like_features(140, 7, d=1024, seed=3 * seed + 1)
        unseen, truth = rows_like_features(140, 7, d=1024, seed=3 * seed + 2)
        watched = {"validation_data": (V * scale, w)} if name == "dense" else {}
        head = get_head(name).build(seed).fit(X * scale, y, **watched)
        losses.append(log_loss(truth, head.predict_proba(unseen * scale)))
    assert sum(losses[::2]) < 2 * sum(losses[1::2])


def test_a_step_of_fine_tuning_on_rows_as_they_are_does_not_undo_it():
    _, keras = tensorflow.load()
    X, y = rows_like_features(420, 7, d=1024)
    unseen, _ = rows_like_features(280, 7, d=1024, seed=1)
    head = DenseHead(epochs=10).fit(X * 20, y)
    before = head.predict_proba(unseen * 20)
    head.model_.compile(keras.optimizers.RMSprop(2e-5), "sparse_categorical_crossentropy")
    head.model_.train_on_batch(X[:20] * 20, y[:20])
    np.testing.assert_allclose(head.predict_proba(unseen * 20), before, atol=0.1)


def test_what_is_done_to_rows_is_in_the_weights():
    X, y = rows_like_features(60, 2)
    still = fast(learning_rate=0.0, epochs=1).fit(X, y)
    kernel, bias, outputs, last = still.model_.get_weights()
    fresh = build_dense(128, 2, units=32, seed=still._seeds()[0]).get_weights()
    length = np.sqrt(np.mean(np.sum((X - X.mean(axis=0)) ** 2, axis=1)))
    np.testing.assert_array_equal(kernel, fresh[0])
    np.testing.assert_allclose(bias, -X.mean(axis=0) @ kernel, atol=1e-5)
    np.testing.assert_allclose(outputs, fresh[2] * 8 / length, rtol=1e-4)
    np.testing.assert_array_equal(last, fresh[3])
    assert [layer.name for layer in still.model_.layers] == ["hidden", "dropout", "probability"]


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
def test_rows_that_are_all_the_same_are_no_error(value):
    X = np.full((20, 5), value, np.float32)
    p = fast(epochs=1).fit(X, np.arange(20) % 2).predict_proba(X)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)


def test_each_epoch_has_every_row_once_in_a_new_order():
    rows = np.arange(7, dtype=np.float32)[:, None]
    batches = list(shuffled_batches(rows, np.arange(7), batch_size=3, epochs=2, seed=0))
    assert [len(labels) for _, labels in batches] == [3, 3, 1] * 2
    seen = np.concatenate([labels for _, labels in batches])
    np.testing.assert_array_equal(seen, np.concatenate([x[:, 0] for x, _ in batches]))
    first, second = seen[:7].tolist(), seen[7:].tolist()
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second


def test_the_same_seed_gives_the_same_weights_and_global_seeds_are_neither_read_nor_changed():
    tf, _ = tensorflow.load()
    X, y = rows_like_features(60, 2)
    kinds = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        tf.random.set_seed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        kinds.append(fast(epochs=2).fit(X, y).model_.get_weights())
        assert before == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    for a, b in zip(*kinds, strict=True):
        np.testing.assert_array_equal(a, b)

    other = clone(fast(epochs=2)).set_params(random_state=1).fit(X, y)
    assert not np.array_equal(other.model_.get_weights()[0], kinds[0][0])


def test_it_keeps_the_weights_of_the_best_epoch_on_validation():
    # Validation labels are wrong on purpose: each epoch of learning makes validation worse.
    X, y = rows_like_features(80, 2)
    head = fast(epochs=30, patience=2).fit(X, y, validation_data=(X, 1 - y))
    losses = head.history_["val_loss"]
    assert len(losses) < 30
    assert head.best_epoch_ == np.argmin(losses) + 1
    p = head.predict_proba(X)[np.arange(80), 1 - y]
    assert -np.log(p).mean() == pytest.approx(min(losses), rel=1e-3)


def test_its_history_has_one_figure_an_epoch(dense):
    assert set(dense.history_) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    lengths = {len(values) for values in dense.history_.values()}
    assert len(lengths) == 1
    assert all(type(v) is float for values in dense.history_.values() for v in values)
    assert dense.history_["loss"][-1] < dense.history_["loss"][0]


def test_it_takes_labels_of_any_kind_in_training_and_validation():
    X, y = rows_like_features(40, 2)
    names = np.array(["functional", "defective"])[y]
    head = fast().fit(X, names, validation_data=(X, names))
    best = head.history_["val_accuracy"][head.best_epoch_ - 1]
    assert best == pytest.approx(np.mean(head.predict(X) == names), abs=1e-6)
    assert best > 0.8


def test_it_trains_for_all_epochs_without_validation_rows():
    X, y = rows_like_features(40, 2)
    head = fast(epochs=3).fit(X, y)
    assert {name: len(v) for name, v in head.history_.items()} == {"loss": 3, "accuracy": 3}
    assert head.best_epoch_ == 3


def test_it_reports_each_epoch_with_its_figures_and_prints_nothing(capfd, caplog):
    X, y = rows_like_features(40, 2)
    seen = []
    # TensorFlow logs that this process made many networks; that is the other tests' doing.
    caplog.set_level(logging.ERROR, logger="tensorflow")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head = fast(epochs=3).fit(
            X, y, validation_data=(X, y), on_epoch=lambda *event: seen.append(event)
        )
    assert [(epoch, epochs) for epoch, epochs, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert [figures["val_loss"] for *_, figures in seen] == head.history_["val_loss"]
    assert capfd.readouterr() == ("", "")


def test_it_can_be_rebuilt_from_its_weights(dense, tmp_path):
    X, _ = rows_like_features(10, 2, seed=3)
    dense.model_.save_weights(tmp_path / "head.weights.h5")

    again = clone(dense)
    again.classes_, again.n_features_in_ = dense.classes_, dense.n_features_in_
    again.model_ = build_dense(128, 2, units=again.units, dropout=again.dropout, seed=7)
    again.model_.load_weights(tmp_path / "head.weights.h5")

    np.testing.assert_array_equal(again.predict_proba(X), dense.predict_proba(X))


def test_it_predicts_more_rows_than_one_chunk_in_order(dense):
    X, _ = rows_like_features(1030, 2, seed=4)
    p = dense.predict_proba(X)
    assert len(p) == 1030
    np.testing.assert_allclose(p[1020:], dense.predict_proba(X[1020:]), atol=1e-6)


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_epoch():
    X, y = rows_like_features(40, 3)
    with pytest.raises(PipelineError, match=r"(nan|inf) in epoch \d+"):
        fast(learning_rate=1e30).fit(X, y)


def test_it_refuses_validation_rows_of_a_class_it_never_saw():
    X, y = rows_like_features(40, 2)
    with pytest.raises(PipelineError, match=r"no training row has: \[2\]"):
        fast().fit(X, y, validation_data=(X[:1], [2]))


def test_it_refuses_rows_of_another_length(dense):
    with pytest.raises(ValueError, match="128 features"):
        dense.predict_proba(np.ones((2, 127), dtype=np.float32))


# --- rows that decide when training stops -------------------------------------------------------


def test_rows_that_stop_the_training_are_judged_by_the_epoch_that_suits_the_other_half():
    codes = np.tile([0, 1], 10)
    judged = CrossFitted(codes, seed=3)
    order = np.random.default_rng(3).permutation(20)
    one, other = order[::2], order[1::2]
    for half, p in ((one, 0.9), (other, 0.8), (one, 0.7)):  # of the own class, else 0.5
        said = np.full((20, 2), 0.5)
        said[half, codes[half]], said[half, 1 - codes[half]] = p, 1 - p
        judged.see(said)
    # The first epoch suits one half, the second the other: each is judged by the other's.
    np.testing.assert_allclose(judged.p, 0.5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_rows_can_stop_the_training(count):
    judged = CrossFitted(np.zeros(count, int), seed=0)
    judged.see(np.full((count, 2), 0.5))
    judged.see(np.tile([0.9, 0.1], (count, 1)))
    judged.see(np.tile([0.2, 0.8], (count, 1)))
    np.testing.assert_allclose(judged.p, np.tile([0.9, 0.1], (count, 1)))


def test_rows_that_stop_the_training_do_not_look_better_than_they_are():
    """Labels by chance: what is learned of them cannot be better than to guess."""
    own, cross = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        rows, labels = rng.normal(size=(120, 40)).astype(np.float32), rng.integers(0, 2, 120)
        head = DenseHead(units=8, learning_rate=5e-3, random_state=seed)
        head.fit(rows[:60], labels[:60], validation_data=(rows[60:], labels[60:]))
        own.append(log_loss(labels[60:], head.predict_proba(rows[60:])))
        cross.append(log_loss(labels[60:], head.validation_p_))
    assert np.mean(cross) > np.log(2) - 0.01
    assert np.mean(cross) > np.mean(own) + 0.01
