"""Results of judged heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.classification.arrays import Floats, Places
from pipeline.classification.fitting import Candidate
from pipeline.classification.task import Setting, Task
from pipeline.evaluation.metrics import evaluate
from pipeline.evaluation.threshold import Threshold, choose_threshold
from pipeline.features.views import Views
from pipeline.heads.estimators import Classifier
from pipeline.heads.registry import Head
from pipeline.models.model import Model
from pipeline.runs.run import Result


def result_of(
    task: Setting,
    model: Model,
    *,
    parameters: dict[str, Any],
    candidates: tuple[tuple[dict[str, Any], float], ...],
    judged: Places,
    said: Floats,
    p: Floats,
    seconds: float,
) -> Result:
    """Judge on the test split; `said` was said of `judged` by fits that had not seen them."""
    labels, test = task.dataset.targets.labels, task.dataset.where("test")
    return Result(
        model,
        parameters,
        candidates,
        evaluate(labels[judged], said, model.call(said), groups=task.resampled_by(judged)),
        evaluate(labels[test], p[test], model.call(p[test]), groups=task.resampled_by(test)),
        seconds,
        p,
        getattr(model.estimator, "history_", {}),
        getattr(model.estimator, "best_epoch_", 0),
    )


def best_of(candidates: Sequence[Candidate], losses: Sequence[float]) -> int:
    """Find the best: what was not asked for is there to be compared with, not to be chosen."""
    allowed = [place for place, one in enumerate(candidates) if one.rows.asked_for]
    return min(allowed, key=losses.__getitem__)


def threshold_for(task: Setting, places: Places, p: Floats) -> Threshold | None:
    aim, data = task.protocol.aim, task.dataset
    if aim is None:
        return None
    return choose_threshold(
        data.targets.labels[places], p, aim, task.protocol.positive_of(data.classes)
    )


def model_of(
    task: Setting,
    head: Head,
    views: Views,
    estimator: Classifier,
    threshold: Threshold | None,
) -> Model:
    return Model(
        task.recipe,
        head.name,
        task.dataset.classes,
        estimator,
        views=views.count if views.everywhere else 1,
        augmentation=views.augmentation.name if views.everywhere else "none",
        trained_on=task.dataset.digest,
        threshold=threshold,
    )


def described(task: Task, candidate: Candidate) -> dict[str, Any]:
    if len(task.variants) == 1:
        return dict(candidate.parameters)
    views = candidate.rows.views
    return {
        **candidate.parameters,
        "views": views.count,
        "augmentation": views.augmentation.name,
        "averaged_over_views": views.everywhere,
    }
