"""Where the threshold lies, for each aim, and what is said where it cannot be had."""

import json

import numpy as np
import pytest
from sklearn import metrics

from pipeline.errors import PipelineError
from pipeline.evaluation.threshold import Aim, Threshold, choose_threshold


def two_columns(p):
    p = np.asarray(p, dtype=float)
    return np.stack([1 - p, p], axis=1)


def overlapping(n=300, seed=0, levels=None):
    """Labels, and probabilities that lean to them."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.3).astype(np.int64)
    p = np.clip(rng.normal(0.35 + 0.3 * truth, 0.2), 0, 1)
    return truth, two_columns(np.round(p * levels) / levels if levels else p)


def worth(aim, truth, called):
    """What is aimed at, by scikit-learn; -1 where it falls short of the least."""
    precision = metrics.precision_score(truth, called, zero_division=0)
    recall = metrics.recall_score(truth, called)
    if aim.name == "f1":
        return metrics.f1_score(truth, called)
    if aim.name == "youden":
        return 2 * metrics.balanced_accuracy_score(truth, called) - 1
    if aim.name == "precision":
        return recall if precision >= aim.least else -1
    return precision if recall >= aim.least else -1


@pytest.mark.parametrize("levels", [None, 10])
@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("text", ["f1", "youden", "precision=0.8", "recall=0.95", "recall=1"])
def test_no_other_threshold_serves_the_aim_better(text, positive, levels):
    truth, p = overlapping(levels=levels)
    aim = Aim.from_text(text)
    found = choose_threshold(truth, p, aim, positive)
    is_positive = (truth == positive).astype(int)
    reached = worth(aim, is_positive, found.apply(p) == positive)
    others = [worth(aim, is_positive, p[:, positive] >= value) for value in np.unique(p)]
    assert found.reached
    assert found.positive == positive
    assert reached == pytest.approx(max(others))
    assert reached > 0


def test_a_threshold_lies_between_probabilities_so_that_rounding_moves_no_image():
    truth, p = np.array([0, 0, 1, 1]), two_columns([0.1, 0.2, 0.6, 0.8])
    found = choose_threshold(truth, p, Aim("f1"))
    assert found.value == pytest.approx(0.4)
    assert found.apply(p).tolist() == [0, 0, 1, 1]


def test_a_precision_that_no_threshold_has_is_not_reached():
    truth, p = np.array([0, 1, 0, 1]), two_columns([0.9, 0.8, 0.2, 0.1])
    found = choose_threshold(truth, p, Aim("precision", 0.95))
    assert found == Threshold(1, 0.5, "precision=0.95", reached=False)


@pytest.mark.parametrize("label", [0, 1])
def test_images_of_one_class_alone_give_no_threshold(label):
    found = choose_threshold(np.full(4, label), two_columns([0.1, 0.4, 0.6, 0.9]), Aim("f1"))
    assert not found.reached
    assert found.value == 0.5


@pytest.mark.parametrize(
    "text", ["", "f2", "f1=0.5", "precision", "recall=", "recall=0", "precision=1.1", "recall=nan"]
)
def test_what_is_no_aim_is_refused_with_those_there_are(text):
    with pytest.raises(PipelineError, match=r"(?s)no aim for a threshold.*youden"):
        Aim.from_text(text)


@pytest.mark.parametrize("text", ["f1", "youden", "precision=0.95", "recall=1"])
def test_an_aim_is_written_as_it_was_typed(text):
    assert str(Aim.from_text(text)) == text


def test_a_threshold_survives_json_and_what_is_none_does_not():
    threshold = Threshold(0, 0.25, "f1")
    assert Threshold.from_dict(json.loads(json.dumps(threshold.to_dict()))) == threshold
    for change in ({"value": 2}, {"value": "nan"}, {"positive": 2}):
        with pytest.raises(ValueError, match="no probability"):
            Threshold.from_dict({**threshold.to_dict(), **change})
