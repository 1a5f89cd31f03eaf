"""Stage two: train heads on cached rows, choose, judge, keep the run.

By default candidates are fitted on the training split and compared by their log loss on the
validation split. The best is fitted again on both, or, where training itself stops by validation,
kept as it is. The test split is looked at once, by what was chosen. Other ways: `Protocol`.

Where rows do not fit into memory, heads that can be trained shard by shard are: see `size`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import make_recipe
from pipeline.backbones.running import Forward
from pipeline.classification.extras import look_into, remarks_on, rows_of
from pipeline.classification.judging import judge
from pipeline.classification.rows import ViewedRows
from pipeline.classification.size import why_stream
from pipeline.classification.streaming.stream import Stream
from pipeline.classification.task import Task
from pipeline.data.dataset import Dataset
from pipeline.data.loading import load_dataset
from pipeline.errors import ClusterError, PipelineError, in_one_line
from pipeline.evaluation.protocol import Protocol
from pipeline.features.exchange import SUFFIXES, import_features
from pipeline.features.extractor import Extraction, Progress, extract
from pipeline.features.store import CACHE
from pipeline.features.views import Views
from pipeline.heads.registry import HEADS, Head, get_head
from pipeline.runs.run import Interrupted, Result, Run
from pipeline.runs.writing import RUNS, run_folder, write_run

if TYPE_CHECKING:
    from pipeline.features.cluster import Cluster


def classify(
    data: str | Path | Dataset,
    head_names: str | Sequence[str] = ("all",),
    *,
    recipe: Recipe | None = None,
    views: Views | Sequence[Views] | None = None,
    search: bool = False,
    cv: int | None = None,
    repeats: int = 1,
    threshold: str | None = None,
    positive: str | None = None,
    balanced: bool = False,
    pools: str | Sequence[str] = ("flatten",),
    stream: bool | None = None,
    cache: str | Path = CACHE,
    runs: str | Path = RUNS,
    name: str | None = None,
    seed: int = 0,
    weights: Path | None = None,
    strict: bool = False,
    on_progress: Progress | None = None,
    on_result: Callable[[Result], None] | None = None,
    on_epoch: Callable[[str, int, int], None] | None = None,
    backbone: Forward | None = None,
    cluster: Cluster | None = None,
) -> Run:
    """Train and compare heads on a data set's features.

    Parameters
    ----------
    data : str, Path or Dataset
        A data set, what `pipeline.data.loading.load_dataset` takes for one, or a file that
        `pipeline.features.exchange.export_features` wrote.
    head_names : str or sequence of str
        Names of heads, as for `pipeline.heads.registry.get_head`, or ``"all"``.
    recipe, cache, weights, strict, on_progress, backbone
        As for `pipeline.features.extractor.extract`, which makes the rows that are not there yet.
    views : Views or sequence of Views, optional
        Which views of the images to learn from. Of several, each head has the one that was best
        on validation; each head is also fitted without augmentation, to be compared with.
    search, cv, repeats, threshold, positive, balanced
        How heads are fitted, chosen and judged; see `pipeline.evaluation.protocol.Protocol`.
    pools : str or sequence of str
        What becomes of the places of a picture; see `pipeline.heads.estimators.POOLS`. Of several, each head
        has the one that was best.
    stream : bool, optional
        Whether to read rows shard by shard, several times, in place of holding them in memory; see
        `pipeline.classification.streaming.heads`. Heads that cannot be trained so are in `Run.failed`. The default is
        where rows need more memory than is free.
    runs : str or Path
        Folder that the run's own folder is made in.
    name : str, optional
        Name of the run's folder. The default is the data set's name, with a number if taken.
    seed : int
        Decides the splits, where `data` is not a `Dataset`, and what is random in heads.
    on_result : callable, optional
        Called with each head's result as it is there.
    cluster : Cluster, optional
        Workers that make rows and try candidates, in place of this process. What is chosen is
        fitted here, and so are networks.
    on_epoch : callable, optional
        Called with a head's name, the epochs that are done of it, and the most that there will be,
        where rows are streamed.

    Returns
    -------
    Run
        Shows itself as a table. A head that cannot be fitted costs no other: `Run.failed`. A
        cluster that is lost does not cost those that are done.

    Raises
    ------
    PipelineError
        Something cannot be read, learned from or written, or no head can be fitted; the message
        says what.
    Interrupted
        Ctrl-C came when at least one head was done: a run of those that were is written.
    """
    protocol = Protocol(
        search=search,
        cv=cv,
        repeats=repeats,
        threshold=threshold,
        positive=positive,
        balanced=balanced,
    )
    chosen = choose_heads([head_names] if isinstance(head_names, str) else head_names)
    pools = [pools] if isinstance(pools, str) else list(pools)
    chosen[0].with_pools(pools, (1, 1, 1))  # a slip is said before the work
    named = [views] if isinstance(views, Views) else views or [Views()]
    wanted = list(dict.fromkeys(named))
    if not isinstance(data, Dataset) and is_features_file(data):
        dataset, recipe, features = import_features(Path(data))
        if any(one.count > 1 for one in wanted):
            raise PipelineError(f"{data} holds no views of its images.", fix="leave --views away")
        if stream:
            raise PipelineError(
                f"{data} is read into memory whole.", fix="leave --stream away, or name the images"
            )
        why, rows = None, None
        variants = [ViewedRows.plain(features)]
    else:
        dataset = (
            data if isinstance(data, Dataset) else load_dataset(data, seed=seed, **protocol.shares)
        )
        run_folder(Path(runs), name, dataset.name)  # a bad name is said before the work
        dataset = protocol.check(dataset)
        recipe = recipe or make_recipe()
        why = why_stream(
            dataset, recipe, heads=chosen, views=wanted, protocol=protocol, asked=stream
        )
        extractions = []
        for one in wanted:
            done = extract(
                dataset,
                recipe,
                views=one,
                cache=cache,
                weights=weights,
                strict=strict,
                on_progress=on_progress,
                backbone=backbone,
                commit=cluster.commit_rows if cluster else None,
            )
            extractions.append(done)
            dataset = done.dataset  # what could not be read is not tried again
        recipe = extractions[-1].store.recipe
        rows = Stream(extractions[-1].store, dataset, seed=seed) if why else None
        variants = [] if why else _read(extractions, dataset)
    run_folder(Path(runs), name, dataset.name)
    dataset = protocol.check(dataset)
    if cv is not None:
        dataset = dataset.all_in("test")
    spread = cluster.spread if cluster else None
    task = Task(dataset, recipe, variants, protocol, seed, spread, rows, why or "", on_epoch)
    _check_features(task)
    chosen = [head.with_pools(pools, recipe.shape) for head in chosen]
    results, failed, stopped = _judge_all(task, chosen, on_result)
    run = Run(
        Path(),
        dataset,
        recipe,
        tuple(results),
        protocol=protocol,
        unfinished=tuple(head.name for head in chosen[len(results) + len(failed) :]),
        failed=failed,
        remarks=tuple(remarks_on(task, stopped=stopped is not None)),
    )
    if stopped is None:
        judged = {result.head for result in results}
        fitted = [head for head in chosen if head.name in judged]
        run, stopped = look_into(run, task, fitted, Path(cache))
    run = write_run(run, Path(runs), name, seed=seed)
    if stopped is not None:
        raise Interrupted(run) from stopped
    return run


def _check_features(task: Task) -> None:
    """Refuse rows that there is nothing to learn from.

    Raises
    ------
    PipelineError
        They are all the same.
    """
    _, blocks = rows_of(task)
    rows = (row for block, _ in blocks for row in block)
    first = next(rows).ravel()
    if all(np.array_equal(row.ravel(), first) for row in rows):
        raise PipelineError(
            f"the features of all {len(task.dataset)} images are the same.",
            expected="images that differ, and features that tell them apart",
            fix="look at the images: are they all blank?",
        )


def _read(extractions: Sequence[Extraction], dataset: Dataset) -> list[ViewedRows]:
    """Read all views, and what they are compared with: the images as they are."""
    first = extractions[-1].rows()
    variants = [ViewedRows.of(replace(one, dataset=dataset), first) for one in extractions]
    if all(one.views.count > 1 for one in variants):
        variants.append(ViewedRows.plain(first, asked_for=False))
    return variants


def _judge_all(
    task: Task,
    heads: Sequence[Head],
    on_result: Callable[[Result], None] | None,
) -> tuple[list[Result], dict[str, str], KeyboardInterrupt | None]:
    """Judge heads, until Ctrl-C comes or the cluster goes; tell which failed, and why.

    Raises
    ------
    PipelineError
        None could be.
    """
    results: list[Result] = []
    failed: dict[str, BaseException] = {}
    stopped = None
    try:
        for head in heads:
            try:
                results.append(judge(task, head))
            except (Exception, SystemExit) as error:  # noqa: BLE001 (any classifier)
                failed[head.name] = error
                if isinstance(error, ClusterError):
                    break
                continue
            if on_result:
                on_result(results[-1])
    except KeyboardInterrupt as stop:
        if not results:
            raise
        stopped = stop
    said = {name: in_one_line(error, task.dataset.classes) for name, error in failed.items()}
    if results:
        return results, said, stopped
    first = next(iter(failed.values()))
    if isinstance(first, MemoryError | ClusterError):
        raise first  # what to do then is known where it is told, and no matter of the head
    found = "\n".join(f"the head {name} cannot be fitted: {why}" for name, why in said.items())
    if isinstance(first, PipelineError):
        raise type(first)(found, expected=first.expected, fix=first.fix) from first
    raise PipelineError(found, fix="choose another --head, or mend that one") from first


def is_features_file(data: str | Path) -> bool:
    """Tell whether this names a file of features, in place of images."""
    return Path(data).suffix in SUFFIXES and not Path(data).is_dir()


def choose_heads(names: Sequence[str]) -> list[Head]:
    """Find heads by their names; ``"all"`` among them means all."""
    if not names:
        raise PipelineError("no head is named.", expected=f"all, or some of {', '.join(HEADS)}")
    named = [get_head(name) for name in dict.fromkeys(names) if name != "all"]
    return list(HEADS.values()) if "all" in names else named
