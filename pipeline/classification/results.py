"""Results of judged heads: the best candidate, the threshold, the model, the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.backbones.choices import EVERY_LAYER, LAYERS
from pipeline.backbones.recipe import Recipe
from pipeline.classification.arrays import Floats, Places
from pipeline.classification.fitting import Candidate
from pipeline.classification.task import Setting, Task
from pipeline.evaluation.metrics import Metrics, evaluate
from pipeline.evaluation.threshold import Threshold, choose_threshold
from pipeline.features.views import Views
from pipeline.heads.estimators import Classifier
from pipeline.heads.registry import Head
from pipeline.models.model import Model
from pipeline.runs.run import Result


def result_of(
    setting: Setting,
    model: Model,
    *,
    parameters: dict[str, Any],
    candidates: tuple[tuple[dict[str, Any], float], ...],
    judged: Places,
    judged_p: Floats,
    p: Floats,
    seconds: float,
) -> Result:
    """Judge on the test split; `judged_p` comes from fits that had not seen the `judged` images."""
    test = setting.dataset.where("test")
    return Result(
        model,
        parameters,
        candidates,
        metrics_of(setting, judged, judged_p, model),
        metrics_of(setting, test, p[test], model),
        seconds,
        p,
        getattr(model.estimator, "history_", {}),
        getattr(model.estimator, "best_epoch_", 0),
        aim_cost=cost_of(setting, judged, model.call(judged_p)),
    )


def metrics_of(setting: Setting, places: Places, p: Floats, model: Model) -> Metrics:
    """Judge a model's probabilities of some images."""
    return evaluate(
        setting.dataset.targets.labels[places],
        p,
        model.call(p),
        groups=setting.resampled_by(places),
        positive=setting.positive,
    )


def cost_of(setting: Setting, places: Places, called: Places) -> float | None:
    """Give what heads are compared by where there is an aim, from what images are called."""
    aim = setting.protocol.aim
    labels = setting.dataset.targets.labels[places]
    return None if aim is None else aim.cost(labels, called, setting.positive)


def best_of(candidates: Sequence[Candidate], losses: Sequence[float]) -> int:
    """Find the lowest loss among those asked for; the others are there to be compared with."""
    allowed = [place for place, tried in enumerate(candidates) if tried.rows.asked_for]
    return min(allowed, key=losses.__getitem__)


def threshold_for(setting: Setting, places: Places, p: Floats) -> Threshold | None:
    """Choose the threshold that the protocol asks for, on some images and their probabilities."""
    protocol, targets = setting.protocol, setting.dataset.targets
    if protocol.aim is None:
        return None
    return choose_threshold(targets.labels[places], p, protocol.aim, setting.positive)


def model_of(
    setting: Setting,
    head: Head,
    estimator: Classifier,
    threshold: Threshold | None,
    *,
    recipe: Recipe,
    views: Views,
) -> Model:
    """Make the model that is kept of a head fitted to rows of a recipe."""
    return Model(
        recipe,
        head.name,
        setting.dataset.classes,
        estimator,
        views=views.count if views.everywhere else 1,
        augmentation=views.augmentation.name if views.everywhere else "none",
        trained_on=setting.dataset.digest,
        threshold=threshold,
        positive=setting.positive if len(setting.dataset.classes) == 2 else None,
    )


def named_rows(recipe: Recipe, among: Sequence[Recipe]) -> dict[str, str]:
    """Name what tells rows from the others that a head could have: their network and layers."""
    several = any(other.backbone != recipe.backbone for other in among)
    network = {"backbone": recipe.backbone} if several else {}
    if recipe.layer in EVERY_LAYER:
        return {**network, "pool": LAYERS}
    return {**network, "pool": "flatten"} if any(other != recipe for other in among) else network


def described(task: Task, candidate: Candidate) -> dict[str, Any]:
    """Give a candidate's parameters, with its rows and views where there were several."""
    recipe, views = candidate.rows.recipe, candidate.rows.views
    kind = named_rows(recipe, [rows.recipe for rows in task.variants])
    parameters = {**kind, **candidate.parameters}
    if all(rows.views == views for rows in task.variants):
        return parameters
    return {
        **parameters,
        "views": views.count,
        "augmentation": views.augmentation.name,
        "averaged_over_views": views.everywhere,
    }
