"""Stage two: train heads on cached rows, choose, judge, keep the run.

By default candidates are fitted on the training split and compared by their log loss on the
validation split. The best is fitted again on both, or, where training itself stops by validation,
kept as it is. The test split is looked at once, by what was chosen. Other ways: `Protocol`.

Where rows do not fit into memory, heads that can be trained shard by shard are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pipeline.analysis.sentences import not_looked_for
from pipeline.classification.extras import add_extras
from pipeline.classification.in_memory import RowsInMemory, read_variants
from pipeline.classification.rows import Rows
from pipeline.classification.size import reason_to_stream
from pipeline.classification.streamed import StreamedRows
from pipeline.classification.streaming.stream import Stream
from pipeline.classification.task import Setting, Task
from pipeline.classification.variants import ViewedRows
from pipeline.data.dataset import Dataset
from pipeline.data.loading import load_dataset
from pipeline.errors import ClusterError, PipelineError, in_one_line
from pipeline.evaluation.protocol import Protocol
from pipeline.features.exchange import import_features, is_features_file
from pipeline.features.extractor import Extractor
from pipeline.features.plan import Plan
from pipeline.features.views import Views
from pipeline.heads.pooling import CHOICES, CHOICES_BY_DEFAULT, LAYERS, check_pools, pools_of
from pipeline.heads.registry import HEADS, Head, get_head
from pipeline.report.page import write_report
from pipeline.runs.listener import RunListener
from pipeline.runs.run import Interrupted, Result, Run
from pipeline.runs.writing import RUNS, run_folder, write_run


def classify(
    data: str | Path | Dataset,
    heads: str | Sequence[str] = "all",
    *,
    protocol: Protocol | None = None,
    views: Views | Sequence[Views] | None = None,
    pools: str | Sequence[str] | None = None,
    extractor: Extractor | None = None,
    runs: str | Path = RUNS,
    name: str | None = None,
    seed: int = 0,
    listener: RunListener | None = None,
) -> Run:
    """Train and compare heads on a data set's features.

    Parameters
    ----------
    data : str, Path or Dataset
        A data set, what `pipeline.load_dataset` takes for one, or a file that
        ``pipeline cache export`` wrote.
    heads : str or sequence of str
        Names of heads, as for `pipeline.heads.registry.get_head`, or ``"all"``.
    protocol : Protocol, optional
        How heads are fitted, chosen and judged; the default is by train/validation/test splits.
    views : Views or sequence of Views, optional
        Which views of the images to learn from. Of several, each head has the one that was best
        on validation; each head is also fitted without augmentation, to be compared with.
    pools : str or sequence of str, optional
        ``"flatten"``, ``"average"`` or ``"max"``: keep the places of the last layer's output apart,
        or take their mean or maximum; ``"layers"``: the maxima of every layer. Of several, each
        head has the best. The default is flatten and layers, the latter only where few images
        would have to be shown to the network for it alone.
    extractor : Extractor, optional
        How images become rows, and where rows are kept.
    runs : str or Path
        Folder that the run's own folder is made in.
    name : str, optional
        Name of the run's folder. The default is the data set's name, with a number if taken.
    seed : int
        Decides the splits, where `data` is not a `Dataset`, and what is random in heads.
    listener : RunListener, optional
        Told how far the work is.

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
    order = _Order(
        choose_heads([heads] if isinstance(heads, str) else heads),
        pools if pools is None else tuple([pools] if isinstance(pools, str) else pools),
        list(dict.fromkeys([views] if isinstance(views, Views) else views or [Views()])),
        protocol or Protocol(),
        extractor or Extractor(),
        seed,
        listener or RunListener(),
    )
    check_pools(order.pools or CHOICES)  # a wrong name is an error before the work
    rows = _imported(data, order) if is_features_file(data) else _extracted(data, order, runs, name)
    run_folder(Path(runs), name, rows.setting.dataset.name)
    rows.check_that_they_differ()
    run, stopped = _judge_all(rows, order)
    if stopped is None:
        run, stopped = add_extras(run, rows)
    if run.problems is None and "problems" not in run.left_out:
        run = replace(run, remarks=(*run.remarks, *not_looked_for(run.dataset)))
    images = None if is_features_file(data) else run.dataset  # its paths are a stranger's
    draw = partial(write_report, dataset=images)
    run = write_run(run, Path(runs), name, seed=seed, draw=draw)
    if stopped is not None:
        raise Interrupted(run) from stopped
    return run


@dataclass(frozen=True)
class _Order:
    """What was asked for."""

    heads: list[Head]
    pools: tuple[str, ...] | None
    views: list[Views]
    protocol: Protocol
    extractor: Extractor
    seed: int
    listener: RunListener


def _imported(data: str | Path | Dataset, order: _Order) -> Rows:
    """Read the rows of an exported file into memory."""
    if any(views.count > 1 for views in order.views):
        raise PipelineError(f"{data} holds no views of its images.", fix="leave --views away")
    if order.extractor.stream:
        raise PipelineError(
            f"{data} is read into memory whole.", fix="leave --stream away, or name the images"
        )
    pools = order.pools or ("flatten",)
    if LAYERS in pools:
        raise PipelineError(
            f"{data} holds the features of one layer.", fix=f"leave --pool {LAYERS} away"
        )
    dataset, recipe, rows = import_features(Path(str(data)))
    dataset = order.protocol.check(dataset)
    order.listener.listed(dataset)
    setting = Setting(order.protocol.judged(dataset), recipe, order.protocol, order.seed)
    return _in_memory(setting, [ViewedRows.plain(recipe, rows, pools)], order)


def _extracted(
    data: str | Path | Dataset, order: _Order, runs: str | Path, name: str | None
) -> Rows:
    """List the images, compute the rows that are missing, and read them, or prepare to."""
    protocol, listener = order.protocol, order.listener
    dataset = (
        data
        if isinstance(data, Dataset)
        else load_dataset(
            data, seed=order.seed, shares=protocol.shares, cache=order.extractor.cache
        )
    )
    run_folder(Path(runs), name, dataset.name)  # a bad name is an error before the work
    dataset = protocol.check(dataset)
    listener.listed(dataset)
    extractor = _with_layers(order)
    reason = reason_to_stream(
        dataset,
        extractor.recipes,
        heads=order.heads,
        views=order.views,
        protocol=protocol,
        wish=order.extractor.stream,
    )
    extractor = extractor.settle(dataset, listener, hold=reason is None)
    plan = extractor.plan(dataset, order.views, hold=reason is None)
    listener.planned(plan)
    if reason is not None:
        listener.streaming(reason)
    extraction = extractor.make(plan, listener)
    extraction.dataset.check_learnable()
    if extraction.dataset is not dataset:  # some images could not be read
        protocol.check(extraction.dataset)
    dataset = protocol.judged(extraction.dataset)
    setting = Setting(dataset, extraction.recipe, protocol, order.seed, _layers_left_out(plan))
    pools = order.pools or CHOICES_BY_DEFAULT
    if reason is not None:
        streams = [
            (Stream(store, dataset, seed=order.seed), pools_of(store.recipe.layer, pools))
            for store in extraction.plan.stores["none"].stores
        ]
        return StreamedRows(setting, streams, reason, listener)
    return _in_memory(setting, read_variants(extraction, pools), order)


def _with_layers(order: _Order) -> Extractor:
    """Let the extractor keep the maxima of every layer, too, if heads are to have them."""
    wanted = None if order.pools is None else LAYERS in order.pools
    extractor = replace(order.extractor, layers=wanted)
    if wanted and len(extractor.recipes) == 1:
        raise PipelineError(
            f"--pool {LAYERS} needs the whole network, and {extractor.recipe.layer} is not its "
            "last layer.",
            fix=f"leave --layer away, or --pool {LAYERS}",
        )
    return extractor


def _layers_left_out(plan: Plan) -> tuple[str, ...]:
    if not plan.left_out:
        return ()
    remark = (
        "Classifiers learned from the last layer alone: for the features of every layer "
        f"{plan.left_out:,} images would have to be shown to the network once more. They often add "
        f"some points; --pool flatten --pool {LAYERS} computes them."
    )
    return (remark,)


def _in_memory(setting: Setting, variants: list[ViewedRows], order: _Order) -> Rows:
    workers = order.extractor.workers
    return RowsInMemory(
        Task(
            setting.dataset,
            setting.recipe,
            setting.protocol,
            setting.seed,
            setting.remarks,
            variants,
            workers.spread if workers else None,
        )
    )


def _judge_all(rows: Rows, order: _Order) -> tuple[Run, KeyboardInterrupt | None]:
    """Judge heads, until Ctrl-C comes or the cluster goes; note which failed, and why."""
    setting, heads = rows.setting, order.heads
    order.listener.judging([head.name for head in heads])
    results: list[Result] = []
    failed: dict[str, BaseException] = {}
    stopped = None
    try:
        for head in heads:
            try:
                results.append(rows.judge(head))
            except (Exception, SystemExit) as error:  # noqa: BLE001 (any classifier)
                failed[head.name] = error
                order.listener.failed(head.name, in_one_line(error, setting.dataset.classes))
                if isinstance(error, ClusterError):
                    break
                continue
            order.listener.judged(results[-1])
    except KeyboardInterrupt as stop:
        if not results:
            raise
        stopped = stop
    reasons = {name: in_one_line(error, setting.dataset.classes) for name, error in failed.items()}
    if not results:
        raise _no_head(next(iter(failed.values())), reasons)
    run = Run(
        Path(),
        setting.dataset,
        setting.recipe,
        tuple(results),
        protocol=setting.protocol,
        unfinished=tuple(head.name for head in heads[len(results) + len(failed) :]),
        failed=reasons,
        remarks=rows.remarks,
    )
    return run, stopped


def _no_head(first: BaseException, reasons: dict[str, str]) -> BaseException:
    """Make the error for a run in which every head failed."""
    if isinstance(first, MemoryError | ClusterError):
        return first  # they say what to do themselves, and it is no matter of the head
    lines = [
        f"the head {name} cannot be fitted: {reason.removesuffix('.')}"
        for name, reason in reasons.items()
    ]
    if isinstance(first, PipelineError):
        return type(first)("; ".join(lines), expected=first.expected, fix=first.fix)
    return PipelineError("; ".join(lines), fix="choose another --head, or mend that one")


def choose_heads(names: Sequence[str]) -> list[Head]:
    """Find heads by their names; ``"all"`` among them means all."""
    if not names:
        raise PipelineError("no head is named.", expected=f"all, or some of {', '.join(HEADS)}")
    named = [get_head(name) for name in dict.fromkeys(names) if name != "all"]
    return list(HEADS.values()) if "all" in names else named
