"""Whether an aim was reached on what was tested, and what the data can support."""

import numpy as np
import pytest

from pipeline.evaluation.aims import judge_aim
from pipeline.evaluation.metrics import evaluate
from pipeline.evaluation.threshold import Threshold

CLASSES = ("defect", "ok")


def metrics_of(found, positives, alarms, negatives, groups=None):
    """Make the metrics of so many of the first class found, and so many false alarms."""
    truth = np.repeat([0, 1], [positives, negatives])
    called = np.concatenate(
        [
            np.repeat([0, 1], [found, positives - found]),
            np.repeat([0, 1], [alarms, negatives - alarms]),
        ]
    )
    p = np.where(called[:, None] == [[0, 1]], 0.9, 0.1)
    return evaluate(truth, p, called, groups=groups, resamples=0, positive=0)


@pytest.mark.parametrize(
    ("aim", "counts", "verdict", "supported"),
    [
        ("recall=0.95", (3, 6, 5, 75), "missed", False),
        ("recall=0.95", (6, 6, 5, 75), "unclear", False),
        ("recall=0.95", (24, 25, 5, 75), "unclear", False),
        ("recall=0.95", (72, 72, 5, 75), "unclear", False),
        ("recall=0.95", (73, 73, 5, 75), "reached", True),
        ("recall=0.95", (96, 100, 5, 75), "unclear", True),
        ("recall=0.95", (990, 1000, 5, 75), "reached", True),
        ("recall=0.95", (940, 1000, 5, 75), "missed", True),
        ("recall=0.5", (6, 6, 5, 75), "reached", True),
        ("recall=1", (6000, 6000, 5, 75), "unclear", True),
        ("precision=0.9", (30, 40, 0, 75), "unclear", True),
        ("precision=0.9", (40, 40, 0, 75), "reached", True),
        ("precision=0.9", (20, 20, 5, 75), "missed", False),
        ("precision=0.9", (0, 40, 0, 75), "missed", True),
        ("f1", (3, 6, 5, 75), "", True),
        ("youden", (3, 6, 5, 75), "", True),
    ],
)
def test_nothing_is_called_reached_that_the_interval_does_not_show(aim, counts, verdict, supported):
    outcome = judge_aim(Threshold(0, 0.5, aim), metrics_of(*counts), CLASSES, nested=False)
    assert outcome.verdict == verdict
    assert outcome.supported == supported
    assert ("Aim reached" in " ".join(outcome.sentences)) == (verdict == "reached")


def test_the_sentences_say_how_many_of_how_many_chosen_on_how_many_at_what_cost():
    threshold = Threshold(0, 0.51, "recall=0.95", images=241, positives=19)
    outcome = judge_aim(threshold, metrics_of(3, 6, 5, 75), CLASSES, nested=False)
    headline, support = outcome.sentences
    assert outcome.rule == (
        "called defect when P(defect) ≥ 0.510, chosen for recall 0.95 on 19 of defect among 241 "
        "images."
    )
    assert headline == (
        "Aim missed on test: recall 0.95. 3 of 6 defect found (recall 0.500, 95 % interval 0.188 "
        "to 0.812), with 5 false alarms among 75 ok (precision 0.375, 95 % interval 0.137 to "
        "0.694)."
    )
    assert support == (
        "These data cannot show a recall of 0.95: that takes 73 or more tested images of defect, "
        "and there are 6. Add images of defect; with --cv 5 all images are tested on."
    )


def test_images_in_groups_count_as_fewer():
    alone = metrics_of(90, 100, 0, 100)
    groups = np.arange(200) // 10
    grouped = metrics_of(90, 100, 0, 100, groups)
    assert grouped.recall(0).hits == 90
    low, high = grouped.recall(0).interval
    assert high - low > 1.5 * np.diff(alone.recall(0).interval)


def test_there_is_no_outcome_without_a_threshold():
    assert judge_aim(None, metrics_of(3, 6, 5, 75), CLASSES, nested=True) is None


def test_where_each_fold_has_its_own_threshold_the_intervals_are_wider():
    plain = metrics_of(20, 25, 30, 300)
    wider = plain.with_thresholds_of(5)
    assert wider.recall(0).effective == pytest.approx(25 * 4 / 9)
    assert wider.precision(0).effective == pytest.approx(50 * 4 / 9)
    for share in (type(plain).recall, type(plain).precision):
        (low, high), (wide_low, wide_high) = share(plain, 0).interval, share(wider, 0).interval
        assert wide_low < low < high < wide_high
    outcome = judge_aim(Threshold(0, 0.5, "recall=0.95"), wider, CLASSES, nested=True)
    assert "73 or more tested images of defect, and there are 25. Add" in outcome.support
    assert "--cv" not in outcome.support


def test_enough_images_that_come_in_groups_are_said_to_tell_less_than_their_number():
    many = metrics_of(95, 100, 30, 300).with_thresholds_of(5)
    outcome = judge_aim(Threshold(0, 0.5, "recall=0.95"), many, CLASSES, nested=True)
    assert "there are 100, which come in groups or folds and tell as much as 44" in outcome.support
