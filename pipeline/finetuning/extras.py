"""The parts of a fine-tuned run that are not needed to use it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.analysis.examples import ExampleImages, find_examples
from pipeline.analysis.problems import QUICK, Problems, find_problems_quickly
from pipeline.analysis.sentences import not_looked_for
from pipeline.backbones.registry import get_backbone, remake_recipe
from pipeline.features.computing import Rows
from pipeline.features.extractor import Extractor
from pipeline.features.keys import keys
from pipeline.finetuning.course import Course
from pipeline.finetuning.sources import CachedRows
from pipeline.models.network import Network
from pipeline.runs.run import Result, Run, with_optional_parts


def add_extras(
    run: Run, course: Course, extractor: Extractor
) -> tuple[Run, KeyboardInterrupt | None]:
    """Add what may be wrong with the data, and some test images looked at closely."""
    dataset, result = run.dataset, run.best
    compared: list[Rows] = []
    read, before = course.source.inputs(course.network, "finetune")

    def read_rows(places: npt.NDArray[np.int64]) -> Rows:
        batches = [np.asarray(before(batch), np.float32) for batch in read(places, 64, -1)]
        return np.concatenate(batches)

    def find_problems() -> Problems | None:
        rows = _features(course, extractor)
        if rows is None:
            return None
        compared.append(rows)
        return find_problems_quickly(dataset, rows, result.predicted, seed=course.seed)

    def find_some() -> ExampleImages:
        arguments = (result.model, dataset, result.probabilities, read_rows)
        if not compared:
            return find_examples(*arguments)
        [rows] = compared
        blocks = [(rows, np.arange(len(rows)))]
        return find_examples(*arguments, blocks, read_features=rows.__getitem__)

    run, stopped = with_optional_parts(run, {"problems": find_problems, "examples": find_some})
    if run.problems is None and not run.left_out and not stopped:
        run = replace(run, remarks=(*run.remarks, *not_looked_for(run.dataset)))
    return run, stopped


def _features(course: Course, extractor: Extractor) -> Rows | None:
    """Return features of the base before training, by which images are compared.

    None for too many images to compare, or if they would need the whole network.
    """
    source = course.source
    if len(source.dataset) > QUICK:
        return None
    backbone = get_backbone(source.recipe.backbone)
    top = replace(extractor, recipe=remake_recipe(source.recipe, layer=backbone.top))
    plan = top.plan(source.dataset)
    if not plan.missing:
        return plan.store.read(keys(source.dataset))
    if not isinstance(source, CachedRows):
        return None
    weights = backbone.load_weights(extractor.weights)
    untrained = Network(source.recipe, len(source.dataset.classes), weights=weights)
    return source.features(untrained.upper)


def remarks_on(result: Result) -> Iterator[str]:
    """Say which weights were kept, and whether the last phase helped."""
    losses = result.history.get("val_loss", ())
    if not losses:
        return
    before = result.phases[-1] if result.phases else 0
    kept, frozen = losses[result.best_epoch - 1], losses[:before]
    phase = f", epoch {result.best_epoch - before} of fine-tuning" if before else ""
    remark = f"The weights are those after epoch {result.best_epoch}{phase}"
    if before and min(frozen) < kept:
        best = int(np.argmin(frozen))
        remark += f". The log loss on validation was lower on the frozen base ({frozen[best]:.3f} "
        remark += f"after epoch {best + 1}), so fine-tuning did not help here"
    yield f"{remark}."
