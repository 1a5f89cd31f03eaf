"""Stage two: train heads on cached rows, choose, judge, keep the run.

By default candidates are fitted on the training split and compared by their log loss on the
validation split. The best is fitted again on both, or, where training itself stops by validation,
kept as it is. The test split is looked at once, by what was chosen. Other ways: `Protocol`.

Where rows do not fit into memory, heads that can be trained shard by shard are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.analysis.sentences import not_looked_for
from pipeline.backbones.recipe import Recipe
from pipeline.classification.extras import add_extras
from pipeline.classification.gathering import Order, gather_rows
from pipeline.classification.rows import Rows
from pipeline.data.dataset import Dataset
from pipeline.errors import ClusterError, PipelineError, in_one_line
from pipeline.evaluation.protocol import Protocol
from pipeline.features.extractor import Extractor
from pipeline.features.views import Views
from pipeline.heads.registry import HEADS, KNOWN_HEADS, Head, get_head
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
    extractor: Extractor | Sequence[Extractor] | None = None,
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
    extractor : Extractor or sequence of Extractor, optional
        How images become rows, and where rows are kept. Of several, each of another network, each
        head has the rows that are best; whether rows are streamed, and where candidates are
        tried, the first decides.
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
    order = Order(
        choose_heads([heads] if isinstance(heads, str) else heads),
        pools if pools is None else tuple([pools] if isinstance(pools, str) else pools),
        list(dict.fromkeys([views] if isinstance(views, Views) else views or [Views()])),
        protocol or Protocol(),
        [extractor] if isinstance(extractor, Extractor) else list(extractor or [Extractor()]),
        seed,
        listener or RunListener(),
        partial(run_folder, Path(runs), name),
    )
    rows = gather_rows(data, order)
    rows.check_that_they_differ()
    run, stopped = _judge_all(rows, order)
    if stopped is None:
        run, stopped = add_extras(run, rows)
    if run.problems is None and "problems" not in run.left_out:
        run = replace(run, remarks=(*run.remarks, *not_looked_for(run.dataset)))
    draw = partial(write_report, dataset=run.dataset)
    run = write_run(run, Path(runs), name, seed=seed, draw=draw)
    if stopped is not None:
        raise Interrupted(run) from stopped
    return run


def _judge_all(rows: Rows, order: Order) -> tuple[Run, KeyboardInterrupt | None]:
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
        setting.recipes[0],
        tuple(results),
        protocol=setting.protocol,
        unfinished=tuple(head.name for head in heads[len(results) + len(failed) :]),
        failed=reasons,
        remarks=rows.remarks,
    )
    return _as_the_best(run, setting.recipes), stopped


def _as_the_best(run: Run, recipes: Sequence[Recipe]) -> Run:
    """Of several networks, show the data as that of the best head sees them."""
    best = run.best.model.recipe
    [seen] = [recipe for recipe in recipes if recipe.backbone == best.backbone]
    beside = tuple(recipe for recipe in recipes if recipe != seen)
    return replace(run, recipe=seen, beside=beside)


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
        raise PipelineError(
            "no head is named.", expected=f"all, or some of {', '.join(KNOWN_HEADS)}"
        )
    named = [get_head(name) for name in dict.fromkeys(names) if name != "all"]
    return list(HEADS.values()) if "all" in names else named
