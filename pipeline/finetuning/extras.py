"""The parts of a fine-tuned run that are not needed to use it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.analysis.examples import ExampleImages, find_examples
from pipeline.analysis.problems import QUICK, Problems, find_problems_quickly
from pipeline.analysis.sentences import not_looked_for
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import get_backbone, remake_recipe
from pipeline.data.dataset import Dataset
from pipeline.features.computing import Rows
from pipeline.features.keys import keys
from pipeline.features.store import FeatureStore
from pipeline.finetuning.sources import CachedRows, Source
from pipeline.models.network import Network
from pipeline.runs.run import Result, Run, with_optional_parts


def features_of(
    source: Source, dataset: Dataset, recipe: Recipe, cache: Path, weights: Path | None
) -> Rows | None:
    """Give features that no label has shaped, of the base as it was: what images are compared by.

    None where there are too many images to compare, or none to be had without the whole network.
    """
    if len(dataset) > QUICK:
        return None
    backbone = get_backbone(recipe.backbone)
    store = FeatureStore(cache, remake_recipe(recipe, layer=backbone.top))
    if not store.missing(keys(dataset)):
        return store.read(keys(dataset))
    if not isinstance(source, CachedRows):
        return None
    before = Network(recipe, len(dataset.classes), weights=backbone.load_weights(weights))
    return source.features(before.upper)


def look_into(
    run: Run,
    features: Callable[[], Rows | None],
    read: Callable[[npt.NDArray[np.int64]], Rows],
    seed: int,
) -> tuple[Run, KeyboardInterrupt | None]:
    """Add what may be wrong with the data, and some test images looked at closely."""
    dataset, result = run.dataset, run.best

    def find_problems() -> Problems | None:
        rows = features()
        if rows is None:
            return None
        return find_problems_quickly(dataset, rows, result.predicted, seed=seed)

    def find_some() -> ExampleImages:
        called = (result.model, dataset, result.probabilities, read)
        rows = None
        with contextlib.suppress(Exception):  # `find_problems` has said why
            rows = features()
        if rows is None:
            return find_examples(*called)
        blocks = [(rows, np.arange(len(rows)))]
        return find_examples(*called, blocks, read_features=rows.__getitem__)

    run, stopped = with_optional_parts(run, {"problems": find_problems, "examples": find_some})
    if run.problems is None and not run.left_out and not stopped:
        return replace(run, remarks=(*run.remarks, *not_looked_for(run.dataset))), None
    return run, stopped


def remarks_on(result: Result) -> Iterator[str]:
    """Say which weights were kept, and whether the last phase was worth it."""
    losses = result.history.get("val_loss", ())
    if not losses:
        return
    before = result.phases[-1] if result.phases else 0
    kept, frozen = losses[result.best_epoch - 1], losses[:before]
    found = f"Weights are those after epoch {result.best_epoch - before}"
    found += f"{' of fine-tuning' if before else ''}: log loss {kept:.3f} on validation"
    if before and min(frozen) < kept:
        best = int(np.argmin(frozen))
        found += f". It was lower, {frozen[best]:.3f}, on the frozen base after epoch {best + 1}"
        found += ", so fine-tuning did not help here"
    yield f"{found}."


def rows_read_by(source: Source, network: Network, places: npt.NDArray[np.int64]) -> Rows:
    """Give what the tail takes of some images."""
    read, before = source.inputs(network, "finetune")
    return np.concatenate([np.asarray(before(one), np.float32) for one in read(places, 64, -1)])
