"""Choose what there is to choose of a head, fit it, and judge it, as the protocol says.

Candidates are compared by their log loss on images that they were not fitted on: the validation
split, the folds of a search, or, nested in a cross-validation, the folds that are not tested on.
What is tested on has no say in it, nor in the threshold.
"""

from __future__ import annotations

import time

import numpy as np

from pipeline.classification.fitting import apply, fit, try_candidates
from pipeline.classification.results import best_of, described, model_of, result_of, threshold_for
from pipeline.classification.task import Pair, Task
from pipeline.heads.registry import Head
from pipeline.runs.run import Result


def judge_on_test(task: Task, head: Head) -> Result:
    """Choose on the validation split, or by a search; judge on the test split."""
    started = time.perf_counter()
    data, labels = task.dataset, task.dataset.targets.labels
    train, validation = data.where("train"), data.where("validation")
    seen = np.concatenate([train, validation])
    pairs = [Pair(np.setdiff1d(seen, fold), fold) for folds in task.folds for fold in folds]
    [candidates] = try_candidates(task, head, [pairs or [Pair(train, validation)]], task.seed)
    losses = [one.log_loss(labels) for one in candidates]
    chosen = candidates[best_of(candidates, losses)]
    if head.early_stopping and not pairs:
        [estimator] = chosen.fitted  # the validation images are spent on stopping
    else:
        estimator = fit(task, head, chosen, seen, task.seed)
    seconds = time.perf_counter() - started
    judged, said = chosen.judged, chosen.p[chosen.judged]
    return result_of(
        task,
        model_of(task, head, chosen.rows.views, estimator, threshold_for(task, judged, said)),
        parameters=described(task, chosen),
        candidates=tuple((described(task, one), loss) for one, loss in zip(candidates, losses)),
        judged=judged,
        said=said,
        p=apply(task, estimator, chosen.rows, np.arange(len(data))),
        seconds=seconds,
    )
