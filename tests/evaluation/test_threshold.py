"""The threshold chosen for each aim, and what happens if the aim cannot be reached."""

import numpy as np
import pytest
from rows import two_columns
from sklearn import metrics

from pipeline.errors import PipelineError
from pipeline.evaluation.threshold import Aim, Threshold, choose_threshold
from pipeline.system.documents import convert, parse, to_json


def overlapping(n=200, seed=0, levels=None):
    """Make labels, and probabilities that favour them but overlap."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.3).astype(np.int64)
    p = np.clip(rng.normal(0.35 + 0.3 * truth, 0.2), 0, 1)
    return truth, two_columns(np.round(p * levels) / levels if levels else p)


def worth(aim, truth, called):
    """Compute with scikit-learn how well an aim is met; -1 if the least value is not reached."""
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
@pytest.mark.parametrize("text", ["f1", "youden", "precision=0.7", "recall=0.95", "recall=1"])
def test_no_other_threshold_meets_the_aim_better(text, positive, levels):
    truth, p = overlapping(levels=levels)
    aim = Aim.from_text(text)
    threshold = choose_threshold(truth, p, aim, positive)
    is_positive = (truth == positive).astype(int)
    reached = worth(aim, is_positive, threshold.apply(p) == positive)
    others = [
        worth(aim, is_positive, p[:, positive] >= value) for value in np.unique(p[:, positive])
    ]
    assert threshold.reached
    assert threshold.positive == positive
    assert reached == pytest.approx(max(others))
    assert reached > 0


def test_a_threshold_lies_midway_between_probabilities():
    truth, p = np.array([0, 0, 1, 1]), two_columns([0.1, 0.2, 0.6, 0.8])
    threshold = choose_threshold(truth, p, Aim("f1"))
    assert threshold.value == pytest.approx(0.4)
    assert threshold.apply(p).tolist() == [0, 0, 1, 1]


def test_if_no_threshold_reaches_the_precision_it_stays_at_one_half():
    truth, p = np.array([0, 1, 0, 1]), two_columns([0.9, 0.8, 0.2, 0.1])
    threshold = choose_threshold(truth, p, Aim("precision", 0.95))
    assert threshold == Threshold(1, 0.5, "precision=0.95", False, images=4, positives=2)


@pytest.mark.parametrize("label", [0, 1])
def test_images_of_a_single_class_give_no_threshold(label):
    threshold = choose_threshold(np.full(4, label), two_columns([0.1, 0.4, 0.6, 0.9]), Aim("f1"))
    assert not threshold.reached
    assert threshold.value == 0.5


@pytest.mark.parametrize(
    ("threshold", "sentence"),
    [
        (
            Threshold(1, 0.5151, "recall=0.95"),
            "called defect when P(defect) ≥ 0.515, chosen for recall 0.95",
        ),
        (
            Threshold(1, 0.5, "recall=0.95", images=240, positives=19),
            (
                "called defect when P(defect) ≥ 0.500, chosen for recall 0.95 on 19 of defect "
                "among 240 images"
            ),
        ),
        (Threshold(0, 0.25, "f1"), "called fine when P(fine) ≥ 0.250, chosen for F1"),
        (
            Threshold(1, 0.5, "precision=1", reached=False),
            (
                "called defect when P(defect) ≥ 0.500, the default: precision 1 cannot be reached "
                "on validation"
            ),
        ),
    ],
)
def test_the_rule_says_when_an_image_is_called_positive(threshold, sentence):
    assert threshold.rule(("fine", "defect")) == sentence


@pytest.mark.parametrize(
    "text", ["", "f2", "f1=0.5", "precision", "recall=", "recall=0", "precision=1.1", "recall=nan"]
)
def test_an_unknown_aim_is_refused_with_the_valid_ones(text):
    with pytest.raises(PipelineError, match=r"(?s)not something that a threshold.*youden"):
        Aim.from_text(text)


@pytest.mark.parametrize("text", ["f1", "youden", "precision=0.95", "recall=1"])
def test_an_aim_is_written_as_the_user_typed_it(text):
    assert str(Aim.from_text(text)) == text


def test_a_threshold_survives_json_and_invalid_fields_are_refused():
    threshold = Threshold(0, 0.25, "f1")
    fields = parse(to_json(threshold))
    assert convert(fields, Threshold) == threshold
    for change in ({"value": 2}, {"value": "nan"}, {"positive": 2}):
        with pytest.raises(ValueError, match=r"a probability|Expected `float`"):
            convert({**fields, **change}, Threshold)
