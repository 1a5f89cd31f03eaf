"""Choose what there is to choose of a head, fit it, and judge it, as `pipeline.evaluation.protocol` says.

Candidates are compared by their log loss on images that they were not fitted on: the validation
split, the folds of a search, or, nested in a cross-validation, the folds that are not tested on.
What is tested on has no say in it, nor in the threshold.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from pipeline.classification.fitting import apply, fit, try_candidates
from pipeline.classification.nested import judge_nested
from pipeline.classification.results import best_of, described, model_of, result_of, threshold_for
from pipeline.classification.streaming.heads import STREAMED, fit_streamed
from pipeline.classification.streaming.stream import Stream
from pipeline.classification.task import Pair, Task
from pipeline.errors import PipelineError
from pipeline.features.views import Views
from pipeline.heads.registry import Head
from pipeline.runs.run import Result


def judge(task: Task, head: Head) -> Result:
    """Choose a head's parameters, fit it, and judge it.

    Raises
    ------
    PipelineError
        The head cannot be fitted to these images.
    """
    started = time.perf_counter()
    if task.stream is not None:
        return _judge_streamed(task, task.stream, head, started)
    if task.protocol.cv is None:
        return _judge_on_test(task, head, started)
    return judge_nested(task, head, started)


def _judge_on_test(task: Task, head: Head, started: float) -> Result:
    """Choose on the validation split, or by a search; judge on the test split."""
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


def _judge_streamed(task: Task, stream: Stream, head: Head, started: float) -> Result:
    """Do so where rows are read shard by shard; nothing but the splits can be chosen on."""
    if head.name not in STREAMED:
        raise PipelineError(f"it takes rows in memory; they are read shard by shard: {task.why}")
    fitted = fit_streamed(
        head,
        stream,
        balanced=task.protocol.balanced,
        on_epoch=task.on_epoch and partial(task.on_epoch, head.name),
    )
    seconds = time.perf_counter() - started
    judged = task.dataset.where("validation")
    [p] = stream.apply([fitted.classifier.predict_proba])
    threshold = threshold_for(task, judged, fitted.held_out)
    return result_of(
        task,
        model_of(task, head, Views(), fitted.classifier, threshold),
        parameters=dict(fitted.parameters),
        candidates=tuple((dict(tried), loss) for tried, loss in fitted.candidates),
        judged=judged,
        said=fitted.held_out,
        p=p,
        seconds=seconds,
    )
