"""Settings of how heads are trained, chosen and tested."""

import pytest

from pipeline.errors import PipelineError
from pipeline.evaluation.protocol import Protocol

CLASSES = ("blue", "red")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cv": 1}, "1 fold is too few"),
        ({"cv": 2}, r"(?s)2 folds are too few.*3 or more"),
        ({"repeats": 2}, r"(?s)2 repeats.*--cv"),
        ({"cv": 5, "repeats": 0}, "0 repeats"),
        ({"threshold": "best"}, "'best' is not something"),
        ({"positive": "red"}, "only with a threshold"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(PipelineError, match=message):
        Protocol(**settings)


def test_a_threshold_needs_two_classes_and_one_of_them_is_positive():
    protocol = Protocol(threshold="f1")
    assert protocol.positive_of(CLASSES) == 1
    assert Protocol(threshold="f1", positive="blue").positive_of(CLASSES) == 0
    with pytest.raises(PipelineError, match="there are 3 classes"):
        protocol.positive_of(("a", "b", "c"))
    with pytest.raises(PipelineError, match=r"(?s)no class 'green'.*blue, red"):
        Protocol(threshold="f1", positive="green").positive_of(CLASSES)
