"""Transfer learning on a laptop: images are looked at once, and every experiment is cheap.

>>> from pipeline import classify, extract, load_dataset
>>> dataset = load_dataset("photos")  # doctest: +SKIP
>>> run = classify(dataset, ["logistic", "rbf-svm"])  # doctest: +SKIP
>>> run.best.test.accuracy  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.augment import get_augmentation
    from pipeline.backbone import vgg16_recipe
    from pipeline.classification import classify
    from pipeline.dataset import Dataset, load_dataset
    from pipeline.errors import PipelineError
    from pipeline.extraction import Extraction, Views, extract
    from pipeline.finetuning import Finetuning, finetune
    from pipeline.model import Model, Prediction
    from pipeline.recipe import Recipe
    from pipeline.run import Run
    from pipeline.store import FeatureStore
    from pipeline.transformer import FeatureExtractor

_HOME = {
    "Dataset": "dataset",
    "Extraction": "extraction",
    "FeatureExtractor": "transformer",
    "FeatureStore": "store",
    "Finetuning": "finetuning",
    "Model": "model",
    "PipelineError": "errors",
    "Prediction": "model",
    "Recipe": "recipe",
    "Run": "run",
    "Views": "extraction",
    "classify": "classification",
    "extract": "extraction",
    "finetune": "finetuning",
    "get_augmentation": "augment",
    "load_dataset": "dataset",
    "vgg16_recipe": "backbone",
}

__all__ = [
    "Dataset",
    "Extraction",
    "FeatureExtractor",
    "FeatureStore",
    "Finetuning",
    "Model",
    "PipelineError",
    "Prediction",
    "Recipe",
    "Run",
    "Views",
    "classify",
    "extract",
    "finetune",
    "get_augmentation",
    "load_dataset",
    "vgg16_recipe",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: some of it takes seconds."""
    if name not in _HOME:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"pipeline.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
