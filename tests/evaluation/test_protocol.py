"""Settings of how heads are trained, chosen and tested."""

import numpy as np
import pytest

from pipeline.data.targets import Targets
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
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(PipelineError, match=message):
        Protocol(**settings)


def targets(*counts, classes=CLASSES):
    return Targets(np.repeat(np.arange(len(counts)), counts), classes)


@pytest.mark.parametrize(
    ("settings", "counts", "positive"),
    [
        ({}, (300, 25), 1),
        ({}, (25, 300), 0),
        ({}, (30, 30), 1),
        ({"threshold": "f1"}, (25, 300), 0),
        ({"positive": "red"}, (25, 300), 1),
        ({"positive": "blue"}, (300, 25), 0),
        ({"positive": "blue", "threshold": "f1"}, (300, 25), 0),
    ],
)
def test_the_rarer_of_two_classes_is_positive_unless_another_is_named(settings, counts, positive):
    assert Protocol(**settings).positive_of(targets(*counts)) == positive


@pytest.mark.parametrize("settings", [{"threshold": "f1"}, {"positive": "a"}])
def test_a_threshold_or_a_positive_class_needs_two_classes(settings):
    with pytest.raises(PipelineError, match="there are 3 classes"):
        Protocol(**settings).positive_of(targets(3, 3, 3, classes=("a", "b", "c")))
    with pytest.raises(PipelineError, match=r"(?s)no class 'green'.*blue, red"):
        Protocol(threshold="f1", positive="green").positive_of(targets(3, 3))
