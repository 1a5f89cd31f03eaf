"""The parts of a run that are not needed to use it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.analysis.examples import find_examples
from pipeline.analysis.problems import QUICK, Problems, find_problems_quickly, not_looked_for
from pipeline.backbones.registry import remake_recipe
from pipeline.classification.fitting import Places
from pipeline.classification.judging import judge
from pipeline.classification.rows import ViewedRows
from pipeline.classification.streaming.stream import Stream
from pipeline.classification.task import Task
from pipeline.features.keys import keys
from pipeline.features.store import FeatureStore
from pipeline.heads.registry import Head
from pipeline.runs.run import Result, Run, with_looks

Rows = npt.NDArray[np.float32]


def look_into(
    run: Run, task: Task, heads: Sequence[Head], cache: Path
) -> tuple[Run, KeyboardInterrupt | None]:
    """Add to a run all that is not needed to use it, as far as that can be had.

    That is what int8 cost, what may be wrong with the data, and some test images looked at
    closely. The heads are done by now, so that nothing that happens here may lose them.
    """
    dataset, best = run.dataset, run.best
    read, blocks = rows_of(task)
    looks: dict[str, Callable[[], Any]] = {
        "reference": lambda: tuple(_judge_more_exact(task, heads, cache)),
        "problems": lambda: _find_problems(task, best),
        "examples": lambda: find_examples(
            best.model,
            dataset,
            best.probabilities,
            read,
            blocks,
            predicted=best.predicted,
        ),
    }
    return with_looks(run, looks)


def _find_problems(task: Task, best: Result) -> Problems | None:
    if task.stream is not None:
        return None
    return find_problems_quickly(
        task.dataset,
        task.variants[0].first,
        best.predicted,
        # Of a cross-validation, each image's are by a fit without it and its copies.
        probabilities=None if task.protocol.cv is None else best.probabilities,
        neighbours=task.neighbours,
        seed=task.seed,
    )


def rows_of(
    task: Task,
) -> tuple[Callable[[Places], Rows], Iterable[tuple[Rows, Places]]]:
    """Give the rows of images by position, and those of all images, some at a time."""
    if task.stream is not None:
        return task.stream.read, task.stream.once()
    rows = task.variants[0].first
    return rows.__getitem__, [(rows, np.arange(len(rows)))]


def remarks_on(task: Task, *, stopped: bool) -> Iterator[str]:
    if task.why:
        yield f"Heads were trained on rows that were read shard by shard: {task.why}."
    if stopped or task.stream is not None or len(task.dataset) > QUICK:
        yield from not_looked_for(task.dataset)


def _judge_more_exact(task: Task, heads: Sequence[Head], cache: Path) -> list[Result]:
    """Judge heads on the features that int8 is to be held against, where they are there."""
    if task.recipe.precision == "int8" and len(task.variants) < 2:  # like is compared with like
        for precision in ("float32", "bfloat16"):
            exact = remake_recipe(task.recipe, precision=precision)
            store = FeatureStore(cache, exact)
            if not store.missing(zip(task.dataset.digests, repeat(0))):
                rows: dict[str, Any] = (
                    {"variants": [ViewedRows.plain(store.read(keys(task.dataset)))]}
                    if task.stream is None
                    else {"stream": Stream(store, task.dataset, seed=task.seed)}
                )
                like = replace(task, recipe=exact, spread=None, **rows)  # a cluster may be gone
                return [judge(like, head) for head in heads]
    return []
