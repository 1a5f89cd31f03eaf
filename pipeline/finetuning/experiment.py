"""Fine-tuning: a head on the frozen base first, then the last layers of the base jointly with it.

The textbook's five steps: add a head to a trained base; freeze the base; train the head;
unfreeze some layers; train both jointly. Two sources give the same batches in the same order: the
images, through the whole network (end to end), or the cached rows at the layer below the first
that is unfrozen, so that what is frozen is never run again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.backbones.registry import get_backbone
from pipeline.data.dataset import Dataset
from pipeline.data.loading import load_dataset
from pipeline.errors import ModelError, PipelineError
from pipeline.evaluation.metrics import evaluate
from pipeline.features.extractor import Extraction, Extractor
from pipeline.features.filling import refuse
from pipeline.features.views import Views
from pipeline.finetuning.batches import OrderedBatches
from pipeline.finetuning.checkpoint import Progress
from pipeline.finetuning.extras import features_of, look_into, remarks_on, rows_read_by
from pipeline.finetuning.settings import (
    Finetuning,
    check_head,
    check_views,
    dense_of,
    describe,
    settings_of,
)
from pipeline.finetuning.sources import CachedRows, Images, Source
from pipeline.finetuning.training import train
from pipeline.models.model import Model
from pipeline.models.network import Network, TunedClassifier
from pipeline.report.page import write_report
from pipeline.runs.listener import RunListener
from pipeline.runs.run import Interrupted, Result, Run
from pipeline.runs.writing import RUNS, run_folder, write_run


def finetune(
    data: str | Path | Dataset,
    settings: Finetuning | None = None,
    *,
    views: Views | None = None,
    head: Model | None = None,
    runs: str | Path = RUNS,
    name: str | None = None,
    seed: int = 0,
    extractor: Extractor | None = None,
    listener: RunListener | None = None,
    on_network: Callable[[Network], None] | None = None,
    on_images: Callable[[str, int, int], None] | None = None,
    on_epoch: Callable[[str, int, Mapping[str, float]], None] | None = None,
) -> Run:
    """Train a dense head, and the last layers of the backbone jointly with it.

    Killed at any moment and called again with the same arguments, it goes on where it was.

    Parameters
    ----------
    data : str, Path or Dataset
        A data set, or what `pipeline.data.loading.load_dataset` takes for one.
    settings : Finetuning, optional
        What is trained, and how.
    views : Views, optional
        Views of the training images. From the cache, epoch e sees view e modulo their number.
        From images, with an augmentation, every epoch sees views that no other has seen, and
        their number is that to average over.
    head : Model, optional
        A dense head that `classify` trained on the same features: the first phase is then done.
    extractor, runs, name, seed, listener
        As for `pipeline.classification.experiment.classify`.
    on_network : callable, optional
        Called with the network before the first step.
    on_images : callable, optional
        Called with the phase and the number of images done, and to do, after each step.
    on_epoch : callable, optional
        Called with the phase, the epoch's number and its figures.

    Raises
    ------
    PipelineError
        Something cannot be read, learned from or written; the message says what.
    Interrupted
        Ctrl-C came after the training, while the data was looked at: the run is written.
    """
    settings = settings or Finetuning()
    views = views or Views()
    check_views(settings.source, views)
    if head is not None:
        settings = settings_of(head, settings)
    runs, extractor, listener = Path(runs), extractor or Extractor(), listener or RunListener()
    dataset = (
        data if isinstance(data, Dataset) else load_dataset(data, seed=seed, cache=extractor.cache)
    )
    run_folder(runs, name, dataset.name)  # a bad name is said before the work
    dataset.require_all_splits()
    listener.listed(dataset)
    recipe = settings.recipe(extractor.recipe)
    extractor = replace(extractor, recipe=recipe)
    weights, cache = extractor.weights, extractor.cache
    if head is not None:
        check_head(head, dataset, recipe)
    if settings.source == "images" and recipe.precision == "int8":
        raise PipelineError("precision int8 is for cached rows, not for training from images.")
    started = time.perf_counter()
    extraction: Extraction | None = None
    if settings.source == "cache":
        CachedRows.check_space(dataset, recipe, views, runs)
        extractor = extractor.settle(dataset, listener)
        plan = extractor.plan(dataset, [views])
        listener.planned(plan)
        extraction = extractor.make(plan, listener)
        extraction.dataset.check_learnable()
        dataset, recipe = extraction.dataset, extraction.recipe
    else:
        dataset = _readable(dataset, extractor)
    dataset.require_all_splits()
    if head is not None and head.trained_on != dataset.digest:
        raise ModelError(
            "the head was trained on other images, labels or splits than these.",
            expected="the same: else it may have learned from images that it is judged on here",
            fix="train it again: pipeline classify DATA --head dense, with the same --seed",
        )
    network = Network(
        recipe,
        len(dataset.classes),
        weights=get_backbone(recipe.backbone).load_weights(weights),
        pool=settings.pool,
        units=settings.units,
        dropout=settings.dropout,
        seed=seed,
    )
    if head is not None:
        network.dense.set_weights(dense_of(head).model_.get_weights())
    network.freeze(upper=settings.phase == "frozen")
    if on_network:
        on_network(network)
    described = describe(settings, views, recipe)
    unfinished = _unfinished(runs, [dataset.digest, recipe.fingerprint, described, seed], head)
    source: Source = (
        CachedRows(extraction, unfinished) if extraction else Images(dataset, recipe, views)
    )
    curves, best_epoch, phases, frozen = _train(
        network,
        source,
        dataset,
        settings,
        folder=unfinished,
        seed=seed,
        on_images=on_images,
        on_epoch=on_epoch,
    )
    probabilities = source.probabilities(network)
    model = Model(
        recipe,
        "finetuned",
        dataset.classes,
        TunedClassifier(
            network,
            len(dataset.classes),
            {"pool": settings.pool, "units": settings.units, "dropout": settings.dropout},
        ),
        views=views.count if views.everywhere else 1,
        augmentation=views.augmentation.name if views.everywhere else "none",
        trained_on=dataset.digest,
    )
    held_out, test = dataset.where("validation"), dataset.where("test")
    result = Result(
        model,
        {**described, "frozen_weights": frozen},
        (),
        None
        if settings.final
        else evaluate(dataset.targets.labels[held_out], probabilities[held_out]),
        evaluate(dataset.targets.labels[test], probabilities[test]),
        time.perf_counter() - started,
        probabilities,
        curves,
        best_epoch,
        phases,
    )
    run = Run(Path(), dataset, recipe, (result,), remarks=tuple(remarks_on(result)))
    features = once(partial(features_of, source, dataset, recipe, Path(cache), weights))
    run, stopped = look_into(run, features, partial(rows_read_by, source, network), seed)
    run = write_run(run, runs, name, seed=seed, draw=write_report)
    shutil.rmtree(unfinished, ignore_errors=True)
    if stopped is not None:
        raise Interrupted(run) from stopped
    return run


def _train(
    network: Network,
    source: Source,
    dataset: Dataset,
    settings: Finetuning,
    *,
    folder: Path,
    seed: int,
    on_images: Callable[[str, int, int], None] | None,
    on_epoch: Callable[[str, int, Mapping[str, float]], None] | None,
) -> tuple[dict[str, list[float]], int, tuple[int, ...], str]:
    """Go through the phases; give curves, best epoch, ends of phases, frozen weights' digest."""
    curves: dict[str, list[float]] = {}
    ends: list[int] = []
    best_epoch = 0
    network.freeze(upper=False)
    digest = network.frozen_digest()
    for phase in ("frozen", "finetune"):
        if settings.phase not in ("both", phase):
            continue
        network.freeze(upper=phase == "frozen")
        before = network.frozen_digest()
        batches = OrderedBatches(
            source,
            network,
            phase,
            dataset,
            batch_size=settings.batch_size,
            seed=seed,
            epochs_before=len(curves.get("loss", ())),
            final=settings.final,
        )
        progress: Progress = train(
            network.head if phase == "frozen" else network.tail,
            batches,
            settings.frozen if phase == "frozen" else settings.joint,
            checkpoint=folder / f"{phase}.npz",
            before=batches.before,
            on_images=on_images and (lambda done, total, p=phase: on_images(p, done, total)),
            on_epoch=on_epoch and (lambda epoch, figures, p=phase: on_epoch(p, epoch, figures)),
        )
        if network.frozen_digest() != before:
            raise PipelineError(f"frozen weights changed in phase {phase}: this is a defect.")
        if curves:
            ends.append(len(curves["loss"]))
        best_epoch = len(curves.get("loss", ())) + progress.best_epoch
        for curve, values in progress.history.items():
            if not values:
                continue
            curves.setdefault(curve, []).extend(values)
    return curves, best_epoch, tuple(ends), digest


def _readable(dataset: Dataset, extractor: Extractor) -> Dataset:
    """Leave out what cannot be decoded."""
    dataset = dataset.without(extractor.unreadable(extractor.plan(dataset)))
    if extractor.strict:
        refuse(dataset.quarantined)
    dataset.check_learnable()
    return dataset


def _unfinished(runs: Path, course: list[Any], head: Model | None) -> Path:
    """Make a folder named by all that decides a training's course, to go on from that alone."""
    digest = hashlib.sha256(json.dumps(course).encode())
    for array in dense_of(head).model_.get_weights() if head else ():
        digest.update(array.tobytes())
    folder = runs / f".finetune-{digest.hexdigest()[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PipelineError(
            f"cannot write into {runs}: {error.strerror or error}.",
            fix="name another folder with --runs, or see to its permissions and free space",
        ) from error
    return folder
