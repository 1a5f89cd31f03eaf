"""From what was asked for to the rows that heads are trained on: of each network, and of layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.backbones.choices import LAYERS
from pipeline.backbones.registry import get_backbone
from pipeline.classification.in_memory import RowsInMemory, read_variants
from pipeline.classification.rows import Rows
from pipeline.classification.size import reason_to_stream
from pipeline.classification.streamed import StreamedRows
from pipeline.classification.streaming.stream import Stream
from pipeline.classification.task import Setting, Task
from pipeline.classification.variants import ViewedRows
from pipeline.data.dataset import Dataset, Quarantined
from pipeline.data.loading import load_dataset
from pipeline.errors import DataError, PipelineError
from pipeline.evaluation.protocol import Protocol
from pipeline.features.exchange import import_features, is_features_file
from pipeline.features.extractor import Extraction, Extractor
from pipeline.features.plan import Plan
from pipeline.features.views import Views
from pipeline.heads.pooling import CHOICES, check_pools, pools_of
from pipeline.heads.registry import Head
from pipeline.runs.listener import RunListener


@dataclass(frozen=True)
class Order:
    """What was asked for; the parameters of `pipeline.classification.experiment.classify`.

    Attributes
    ----------
    check_name : callable
        Given the data set's name, refuses a run's name that cannot be used.
    """

    heads: list[Head]
    pools: tuple[str, ...] | None
    views: list[Views]
    protocol: Protocol
    extractors: list[Extractor]
    seed: int
    listener: RunListener
    check_name: Callable[[str], object]


def gather_rows(data: str | Path | Dataset, order: Order) -> Rows:
    """Read the rows of a file of features, or of images; those that are missing are computed."""
    check_pools(order.pools or CHOICES)  # a wrong name is an error before the work
    _check_networks(order.extractors)
    return _imported(data, order) if is_features_file(data) else _extracted(data, order)


def _check_networks(extractors: Sequence[Extractor]) -> None:
    """Refuse the same network twice: a run names rows by their network."""
    counts = Counter(extractor.recipe.backbone for extractor in extractors)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise PipelineError(
            f"the network {twice[0]} is named twice.",
            expected="each network once: how its images become rows is the same for all heads",
            fix="name it once, or compare two runs with `pipeline compare`",
        )


def _imported(data: str | Path | Dataset, order: Order) -> Rows:
    """Read the rows of an exported file into memory."""
    if any(views.count > 1 for views in order.views):
        raise PipelineError(f"{data} holds no views of its images.", fix="leave --views away")
    if len(order.extractors) > 1:
        raise PipelineError(
            f"{data} holds the features of one network.", fix="leave --backbone away"
        )
    if order.extractors[0].stream:
        raise PipelineError(
            f"{data} is read into memory whole.", fix="leave --stream away, or name the images"
        )
    pools = order.pools or ("flatten",)
    if LAYERS in pools:
        raise PipelineError(
            f"{data} holds the features of one layer.", fix=f"leave --pool {LAYERS} away"
        )
    given, recipe, rows = import_features(str(data))
    order.check_name(given.name)
    protocol, remarks = order.protocol.suited(given, order.seed)
    dataset, protocol = protocol.check(given), protocol.with_rows_at_hand()
    order.listener.listed(dataset)
    remarks = (*remarks, *protocol.remarks_on(dataset.targets))
    setting = Setting(protocol.judged(dataset), (recipe,), protocol, order.seed, remarks)
    return _in_memory(setting, [ViewedRows.plain(recipe, rows, pools)], order, given)


def _extracted(data: str | Path | Dataset, order: Order) -> Rows:
    """List the images, compute the rows that are missing, and read them, or prepare to."""
    listener, first = order.listener, order.extractors[0]
    given = (
        data
        if isinstance(data, Dataset)
        else load_dataset(data, seed=order.seed, shares=order.protocol.shares, cache=first.cache)
    )
    order.check_name(given.name)  # a bad name is an error before the work
    extractors = [_with_layers(extractor, order.pools) for extractor in order.extractors]
    reason = reason_to_stream(
        given,
        [recipe for extractor in extractors for recipe in extractor.recipes],
        heads=order.heads,
        views=order.views,
        protocol=order.protocol,
        wish=first.stream,
    )
    protocol, remarks = order.protocol, tuple[str, ...]()
    if reason is None and all(views.count == 1 for views in order.views):
        protocol, remarks = protocol.suited(given, order.seed)  # its folds need rows in memory
    dataset = protocol.check(given)
    listener.listed(dataset)
    extractors = [each.settle(dataset, listener, hold=reason is None) for each in extractors]
    plans = [each.plan(dataset, order.views, hold=reason is None) for each in extractors]
    for extractor, plan in zip(extractors, plans):
        _check_weights(extractor, plan)
        listener.planned(plan)
    if reason is not None:
        listener.streaming(reason)
    extractions = _of_same_images(
        [extractor.make(plan, listener) for extractor, plan in zip(extractors, plans)]
    )
    readable = extractions[0].dataset
    readable.check_learnable()
    if readable is not dataset:  # some images could not be read
        protocol.check(readable)
    if reason is None:
        protocol = protocol.with_rows_at_hand()
    remarks = (*remarks, *protocol.remarks_on(readable.targets))
    setting = Setting(
        protocol.judged(readable),
        tuple(extraction.recipe for extraction in extractions),
        protocol,
        order.seed,
        (*remarks, *(_layers_left_out(plan) for plan in plans if plan.left_out)),
    )
    if reason is not None:
        streams = [
            (
                Stream(store, setting.dataset, seed=order.seed),
                pools_of(store.recipe, order.pools),
            )
            for extraction in extractions
            for store in extraction.plan.stores["none"].stores
        ]
        return StreamedRows(setting, streams, reason, listener)
    variants = [
        rows for extraction in extractions for rows in read_variants(extraction, order.pools)
    ]
    return _in_memory(setting, variants, order, given)


def _with_layers(extractor: Extractor, pools: Sequence[str] | None) -> Extractor:
    """Let an extractor keep the maxima of every layer, too, if heads are to have them."""
    wanted = None if pools is None else LAYERS in pools
    extractor = replace(extractor, layers=wanted)
    if wanted and len(extractor.recipes) == 1:
        raise PipelineError(
            f"--pool {LAYERS} needs the whole network, and {extractor.recipe.layer} is not its "
            "last layer.",
            fix=f"leave --layer away, or --pool {LAYERS}",
        )
    return extractor


def _check_weights(extractor: Extractor, plan: Plan) -> None:
    """Find the weights that are needed before hours are spent on another network's rows."""
    network = get_backbone(extractor.recipe.backbone)
    if plan.missing and not (extractor.forward or extractor.weights or network.is_here):
        network.load_weights()


def _of_same_images(extractions: Sequence[Extraction]) -> list[Extraction]:
    """Leave out of all what could not be read for one of them."""
    dataset, *others = (extraction.dataset for extraction in extractions)
    for other in others:
        dataset = _without(dataset, other.quarantined)
    return [replace(extraction, dataset=dataset) for extraction in extractions]


def _without(dataset: Dataset, quarantined: Sequence[Quarantined]) -> Dataset:
    """Leave out files that may be left out already."""
    known = {bad.path for bad in dataset.quarantined}
    return dataset.without([bad for bad in quarantined if bad.path not in known])


def _layers_left_out(plan: Plan) -> str:
    title = get_backbone(plan.recipe.backbone).title
    return (
        f"Of {title} classifiers learned from the last layer alone: for the features of every "
        f"layer {plan.left_out:,} images would have to be shown to the network once more. They "
        f"often add some points; --pool flatten --pool {LAYERS} computes them."
    )


def _in_memory(setting: Setting, variants: list[ViewedRows], order: Order, given: Dataset) -> Rows:
    """Judge in memory; by the given splits, where folds were not asked for and cannot be made."""
    try:
        return RowsInMemory(_task(setting, variants, order))
    except DataError as error:
        if order.protocol.cv == setting.protocol.cv:
            raise
        protocol = order.protocol.with_rows_at_hand()
        dataset = _without(given, setting.dataset.quarantined)
        _, of_folds = order.protocol.suited(given, order.seed)
        remark = (
            "The test split has few images, and cross-validation, where copies count as one, "
            f"cannot be done: {error.found}."
        )
        remarks = (remark, *(each for each in setting.remarks if each not in of_folds))
        by_splits = replace(
            setting, dataset=protocol.check(dataset), protocol=protocol, remarks=remarks
        )
        return RowsInMemory(_task(by_splits, variants, order))


def _task(setting: Setting, variants: list[ViewedRows], order: Order) -> Task:
    workers = order.extractors[0].workers
    return Task(
        setting.dataset,
        setting.recipes,
        setting.protocol,
        setting.seed,
        setting.remarks,
        variants,
        workers.spread if workers else None,
    )
