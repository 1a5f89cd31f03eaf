"""Judging a head on the test split: candidates are compared on validation images, or by a search.

Candidates are compared by their log loss on images that they were not fitted on. The images that
are tested on decide neither that nor the threshold.
"""

from __future__ import annotations

import time

import numpy as np

from pipeline.classification.fitting import apply, fit, try_in_turn
from pipeline.classification.results import best_of, described, model_of, result_of, threshold_for
from pipeline.classification.search import Fold
from pipeline.classification.task import Task
from pipeline.heads.registry import Head
from pipeline.runs.run import Result


def judge_on_test(task: Task, head: Head) -> Result:
    """Choose on the validation split, or by a search; judge on the test split."""
    started = time.perf_counter()
    data, labels = task.dataset, task.dataset.targets.labels
    train, validation = data.where("train"), data.where("validation")
    seen = np.concatenate([train, validation])
    searched = [Fold(np.setdiff1d(seen, fold), fold) for folds in task.folds for fold in folds]
    splits = searched or [Fold(train, validation)]
    candidates = try_in_turn(task, head, splits, task.seed)
    losses = [candidate.log_loss(labels) for candidate in candidates]
    chosen = candidates[best_of(candidates, losses)]
    if head.early_stopping and not searched:
        [estimator] = chosen.fitted  # the validation images are spent on stopping
    else:
        estimator = fit(task, head, chosen, seen, task.seed)
    seconds = time.perf_counter() - started
    judged, judged_p = chosen.judged, chosen.p[chosen.judged]
    threshold = threshold_for(task, judged, judged_p)
    return result_of(
        task,
        model_of(
            task, head, estimator, threshold, recipe=chosen.rows.recipe, views=chosen.rows.views
        ),
        parameters=described(task, chosen),
        candidates=tuple((described(task, tried), loss) for tried, loss in zip(candidates, losses)),
        judged=judged,
        judged_p=judged_p,
        p=apply(task, estimator, chosen.rows, np.arange(len(data))),
        seconds=seconds,
    )
