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
    from pipeline.analysis.heat_maps import HeatMap as HeatMap
    from pipeline.analysis.heat_maps import heat_map as heat_map
    from pipeline.analysis.image_map import map_images as map_images
    from pipeline.analysis.image_table import ImageTable as ImageTable
    from pipeline.analysis.similarity import Gallery as Gallery
    from pipeline.app.labelling import Labelling as Labelling
    from pipeline.backbones.recipe import Recipe as Recipe
    from pipeline.backbones.registry import make_recipe as make_recipe
    from pipeline.classification.experiment import classify as classify
    from pipeline.data.augmentation import get_augmentation as get_augmentation
    from pipeline.data.dataset import Dataset as Dataset
    from pipeline.data.loading import load_dataset as load_dataset
    from pipeline.errors import PipelineError as PipelineError
    from pipeline.evaluation.protocol import Protocol as Protocol
    from pipeline.features.extractor import Extraction as Extraction
    from pipeline.features.extractor import Extractor as Extractor
    from pipeline.features.extractor import extract as extract
    from pipeline.features.store import FeatureStore as FeatureStore
    from pipeline.features.transformer import FeatureExtractor as FeatureExtractor
    from pipeline.features.views import Views as Views
    from pipeline.finetuning.experiment import finetune as finetune
    from pipeline.finetuning.settings import Finetuning as Finetuning
    from pipeline.models.model import Model as Model
    from pipeline.models.model import Prediction as Prediction
    from pipeline.models.opening import load_model as load_model
    from pipeline.runs.exporting import export_run as export_run
    from pipeline.runs.images import open_images as open_images
    from pipeline.runs.listener import RunListener as RunListener
    from pipeline.runs.run import Run as Run

_HOME = {
    "Dataset": "data.dataset",
    "Extraction": "features.extractor",
    "Extractor": "features.extractor",
    "FeatureExtractor": "features.transformer",
    "FeatureStore": "features.store",
    "Finetuning": "finetuning.settings",
    "Gallery": "analysis.similarity",
    "HeatMap": "analysis.heat_maps",
    "ImageTable": "analysis.image_table",
    "Labelling": "app.labelling",
    "Model": "models.model",
    "PipelineError": "errors",
    "Prediction": "models.model",
    "Protocol": "evaluation.protocol",
    "Recipe": "backbones.recipe",
    "Run": "runs.run",
    "RunListener": "runs.listener",
    "Views": "features.views",
    "classify": "classification.experiment",
    "export_run": "runs.exporting",
    "extract": "features.extractor",
    "finetune": "finetuning.experiment",
    "get_augmentation": "data.augmentation",
    "heat_map": "analysis.heat_maps",
    "load_dataset": "data.loading",
    "load_model": "models.opening",
    "make_recipe": "backbones.registry",
    "map_images": "analysis.image_map",
    "open_images": "runs.images",
}

__all__ = [*_HOME]  # noqa: PLE0604 -- all of them are texts


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: some of it takes seconds."""
    if name not in _HOME:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"pipeline.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
