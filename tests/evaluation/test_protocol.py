"""Settings of how heads are trained, chosen and tested."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.dataset import SPLITS, Dataset
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
        ({"cv": 5, "splits": True}, "exclude each other"),
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


def test_the_positive_class_is_told_where_nobody_named_it():
    told = "The positive class is red, the rarer one; --positive names the other."
    assert Protocol().remarks_on(targets(300, 25)) == (told,)
    assert Protocol(positive="red").remarks_on(targets(300, 25)) == ()
    assert Protocol().remarks_on(targets(30, 30)) == ()


@pytest.mark.parametrize("settings", [{"threshold": "f1"}, {"positive": "a"}])
def test_a_threshold_or_a_positive_class_needs_two_classes(settings):
    with pytest.raises(PipelineError, match="there are 3 classes"):
        Protocol(**settings).positive_of(targets(3, 3, 3, classes=("a", "b", "c")))
    with pytest.raises(PipelineError, match=r"(?s)no class 'green'.*blue, red"):
        Protocol(threshold="f1", positive="green").positive_of(targets(3, 3))


def drawn(counts_of, *, splits=("train", "validation", "test"), groups=()):
    """Make a data set of so many images of each class in each split, of splits that were drawn."""
    names = [split for counts in counts_of for split, n in zip(SPLITS, counts) for _ in range(n)]
    labels = np.repeat(np.arange(len(counts_of)), [sum(counts) for counts in counts_of])
    return Dataset(
        "data",
        tuple(Path(f"{place}.png") for place in range(len(labels))),
        tuple(b"%032d" % place for place in range(len(labels))),
        Targets(labels, tuple("abcdefgh"[: len(counts_of)])),
        np.array(names, "<U10"),
        groups=groups,
        drawn=splits,
    )


@pytest.mark.parametrize(
    ("settings", "data", "cv", "said"),
    [
        ({}, drawn([(60, 15, 25), (60, 15, 25)]), None, ""),
        ({}, drawn([(180, 45, 75), (6, 2, 10)]), None, ""),
        ({}, drawn([(180, 45, 75), (13, 3, 9)]), 5, "only 9 images of b; --no-cv keeps"),
        ({}, drawn([(5, 2, 1), (5, 2, 1)]), 5, "only 1 image of a;"),
        ({"search": True}, drawn([(5, 2, 1), (5, 2, 1)]), 5, "--no-cv"),
        ({}, drawn([(60, 15, 25), (4, 0, 0)]), 4, "no images of b"),
        ({}, drawn([(60, 15, 25), (3, 0, 0)]), None, "no images of b, too few to judge"),
        ({"splits": True}, drawn([(5, 2, 1), (5, 2, 1)]), None, ""),
        ({"cv": 3}, drawn([(5, 2, 1), (5, 2, 1)]), 3, ""),
        ({}, drawn([(5, 2, 1), (5, 2, 1)], splits=()), None, ""),
        ({}, drawn([(5, 2, 1), (5, 2, 1)], splits=("validation",)), None, ""),
        ({}, drawn([(900, 100, 100), (5, 2, 1)]), None, "only 1 image of b; --cv 5"),
        (
            {},
            drawn([(5, 2, 1), (5, 2, 1)], groups=("x",) * 4 + ("y",) * 4 + ("z",) * 8),
            None,
            "too few to judge by",
        ),
    ],
)
def test_where_the_drawn_test_split_is_too_small_images_are_cross_validated(
    settings, data, cv, said
):
    protocol, remarks = Protocol(**settings).suited(data, 0)
    assert protocol.cv == cv
    assert said in " ".join(remarks)
    assert bool(said) == bool(remarks)
    assert not (cv and protocol.search)
