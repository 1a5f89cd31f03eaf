"""Problems and examples as documents: files and classes by name, and nothing lost."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.analysis.class_maps import ClassMaps
from pipeline.analysis.classes import find_class_problems
from pipeline.analysis.duplicates import DuplicatePair, Duplicates, DuplicateThresholds
from pipeline.analysis.examples import ExampleImages, SimilarImage
from pipeline.analysis.labels import LabelProblems, SuspectLabel
from pipeline.analysis.leakage import Leakage
from pipeline.analysis.learning_curve import LearningCurve, LearningCurvePoint
from pipeline.analysis.outliers import OutlierImage
from pipeline.analysis.problems import Problems
from pipeline.data.dataset import Dataset
from pipeline.data.targets import Targets
from pipeline.runs.describing import describe_examples, describe_problems
from pipeline.runs.documents import ExamplesDocument, ProblemsDocument
from pipeline.system.documents import read_document, to_json


@pytest.fixture
def dataset():
    return Dataset(
        name="photos",
        paths=[Path(f"{number}.png") for number in range(6)],
        digests=[b"%032d" % number for number in range(6)],
        targets=Targets(np.array([0, 1, 0, 1, 0, 1]), ("cat", "dog")),
        splits=np.repeat(["train", "test"], 3),
    )


def test_problems_are_read_as_they_were_written(dataset):
    points = (LearningCurvePoint(50, 0.8, 0.7, 0.9), LearningCurvePoint(100, 0.81, 0.71, 0.91))
    problems = Problems(
        dataset,
        Duplicates(
            (DuplicatePair(0, 4, 0.99, "near", ("train", "test"), same_label=True),),
            np.array([0, 1, 2, 3, 0, 4]),
            DuplicateThresholds(),
        ),
        Leakage(1, 3, 1.0, 0.5, 16.7, -20.0, 40.0),
        LabelProblems(
            (SuspectLabel(3, 1, 0, -0.6, likely=True), SuspectLabel(2, 0, 1, -0.1, likely=False)),
            estimated=1,
            judged=6,
        ),
        (OutlierImage(5, 1, 0.4, 4.5),),
        find_class_problems(dataset.targets.labels, dataset.splits, dataset.classes),
        LearningCurve(points, 1.0, -2.5, 4.5),
    )
    document = read_document(to_json(describe_problems(problems)), ProblemsDocument)
    assert document.summary == list(problems.summary())
    assert (document.images, document.digest) == (6, dataset.digest)
    [pair] = document.duplicates.pairs
    assert (pair.paths, pair.kind, pair.similarity) == (("0.png", "4.png"), "near", 0.99)
    assert (pair.splits, pair.labels) == (("train", "test"), ("cat", "cat"))
    assert document.duplicates.thresholds == DuplicateThresholds()
    [suspect] = document.likely_wrong
    assert (suspect.path, suspect.split) == ("3.png", "test")
    assert (suspect.label, suspect.suggested, suspect.score) == ("dog", "cat", -0.6)
    [outlier] = document.outliers
    assert (outlier.path, outlier.label, outlier.score) == ("5.png", "dog", 4.5)
    assert document.leakage == problems.leakage
    assert document.classes == problems.classes
    assert document.learning_curve == problems.curve


def test_examples_are_read_as_they_were_written(dataset):
    examples = ExampleImages(
        dataset,
        SimpleNamespace(head="logistic", recipe=SimpleNamespace(size=64)),
        probabilities=np.array([[0.9, 0.1], [0.2, 0.8]]),
        predicted=np.array([0, 1]),
        places=np.array([5, 3]),
        neighbours=((SimilarImage(0, 0.75),), ()),
        maps=ClassMaps("weights", np.array([[[0.123456, -1.0]], [[0.0, 2.0]]])),
    )
    document = read_document(to_json(describe_examples(examples)), ExamplesDocument)
    assert (document.head, document.maps, document.size) == ("logistic", "weights", 64)
    first, second = document.images
    assert (first.path, first.label, first.predicted) == ("5.png", "dog", "cat")
    assert (first.probability, second.probability) == (0.9, 0.8)
    [similar] = first.neighbours
    assert (similar.path, similar.label, similar.similarity) == ("0.png", "cat", 0.75)
    np.testing.assert_allclose(first.map, examples.maps.values[0], rtol=1e-3)
