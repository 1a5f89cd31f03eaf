"""Starting from a head that `classify` has trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.backbones.choices import EVERY_LAYER
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import get_backbone
from pipeline.data.dataset import Dataset
from pipeline.errors import ModelError, PipelineError
from pipeline.finetuning.settings import Finetuning
from pipeline.heads.dense import DenseHead
from pipeline.models.files import find_model
from pipeline.models.model import Model

# What decides what a value of a row means, and what it is called. Not the precision: a head
# learned nearly the same from rows in another.
_DECISIVE = {
    "backbone": "the network",
    "weights": "the weights",
    "layer": "the layer",
    "size": "the size",
    "scaling": "the scaling",
    "resize": "the resizing",
    "decoding": "the decoding",
    "augmentation": "the augmentation",
}


def load_head(folder: Path) -> Model:
    """Load the head in a run's folder, or in a model's own."""
    is_run = (folder / "run.json").exists()
    return Model.load(find_model(folder, "dense" if is_run else None))


def dense_of(head: Model) -> DenseHead:
    """Return a model's dense head; another kind of head is an error."""
    if not isinstance(head.estimator, DenseHead):
        raise ModelError(
            f"fine-tuning cannot start from a head of the kind {head.head}.",
            expected="a head named dense, the only one that can be trained together with the base",
            fix="train one: pipeline classify DATA --head dense",
        )
    return head.estimator


def settings_of(head: Model, settings: Finetuning) -> Finetuning:
    """Return the settings that follow from starting with a trained head."""
    dense = dense_of(head)
    if settings.phase == "frozen":
        raise PipelineError("with a trained head, nothing is left to do in phase frozen.")
    if settings.pool not in (None, dense.pool):
        raise PipelineError(
            f"the head was trained with pool {dense.pool!r}, not {settings.pool!r}.",
            expected=f"pool {dense.pool!r}, or none named",
        )
    return replace(
        settings, phase="finetune", pool=dense.pool, units=dense.units, dropout=dense.dropout
    )


def check_features(head: Model, classes: tuple[str, ...], recipe: Recipe) -> None:
    """Refuse a head that was trained on other classes or other features."""
    if head.classes != classes:
        raise ModelError(
            f"the head's classes are {', '.join(head.classes)}; the data has {', '.join(classes)}.",
            expected="the same classes",
        )
    if head.recipe.layer in EVERY_LAYER:
        raise ModelError(
            "the head was trained on the maxima of every layer.",
            expected="features of the last layer",
            fix="train one on them: pipeline classify DATA --head dense --pool flatten",
        )
    top = replace(recipe, layer=get_backbone(recipe.backbone).top)
    different = [name for name in _DECISIVE if getattr(head.recipe, name) != getattr(top, name)]
    if different:
        trained_on, expected = (
            ", ".join(f"{_DECISIVE[name]} {getattr(features, name)}" for name in different)
            for features in (head.recipe, top)
        )
        raise ModelError(
            f"the head was trained on features of {trained_on}.",
            expected=expected,
            fix="give the options that were given when the head was trained",
        )


def check_images(head: Model, dataset: Dataset) -> None:
    """Refuse a head that may have learned from images that it would be judged on."""
    if head.trained_on != dataset.digest:
        raise ModelError(
            "the head was trained on other images, labels or splits than these.",
            expected="the same: else it may have learned from images that it is judged on here",
            fix="train it again: pipeline classify DATA --head dense --no-cv, with the same --seed",
        )
