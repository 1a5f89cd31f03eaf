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
    from pipeline.backbones.recipe import Recipe
    from pipeline.backbones.registry import make_recipe
    from pipeline.classification.experiment import classify
    from pipeline.data.augmentation import get_augmentation
    from pipeline.data.dataset import Dataset
    from pipeline.data.loading import load_dataset
    from pipeline.errors import PipelineError
    from pipeline.features.extractor import Extraction, extract
    from pipeline.features.store import FeatureStore
    from pipeline.features.transformer import FeatureExtractor
    from pipeline.features.views import Views
    from pipeline.finetuning.experiment import finetune
    from pipeline.finetuning.settings import Finetuning
    from pipeline.models.model import Model, Prediction
    from pipeline.runs.run import Run


_HOME = {
    "Dataset": "data.dataset",
    "Extraction": "features.extractor",
    "FeatureExtractor": "features.transformer",
    "FeatureStore": "features.store",
    "Finetuning": "finetuning.settings",
    "Model": "models.model",
    "PipelineError": "errors",
    "Prediction": "models.model",
    "Recipe": "backbones.recipe",
    "Run": "runs.run",
    "Views": "features.views",
    "classify": "classification.experiment",
    "extract": "features.extractor",
    "finetune": "finetuning.experiment",
    "get_augmentation": "data.augmentation",
    "load_dataset": "data.loading",
    "make_recipe": "backbones.registry",
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
    "make_recipe",
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
