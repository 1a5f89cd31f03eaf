"""Fine-tuning: a head on the frozen base first, then the last layers of the base jointly with it.

The textbook's five steps: add a head to a trained base; freeze the base; train the head;
unfreeze some layers; train both jointly. Two sources give the same batches in the same order: the
images, through the whole network (end to end), or the cached rows at the layer below the first
that is unfrozen, so that what is frozen is never run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.backbones.registry import get_backbone
from pipeline.data.dataset import Dataset
from pipeline.data.loading import load_dataset
from pipeline.errors import PipelineError
from pipeline.evaluation.groups import find_units, resampled_by
from pipeline.evaluation.metrics import Metrics, evaluate
from pipeline.evaluation.protocol import Protocol
from pipeline.features.extractor import Extractor
from pipeline.features.filling import refuse
from pipeline.features.views import Views
from pipeline.finetuning.course import Course, Outcome
from pipeline.finetuning.extras import add_extras, remarks_on
from pipeline.finetuning.settings import Finetuning
from pipeline.finetuning.sources import CachedRows, Images, InputSource
from pipeline.finetuning.start import (
    check_features,
    check_images,
    dense_of,
    load_head,
    settings_of,
)
from pipeline.models.model import Model
from pipeline.models.network import Network, TunedClassifier
from pipeline.report.page import write_report
from pipeline.runs.listener import RunListener
from pipeline.runs.run import Interrupted, Result, Run
from pipeline.runs.writing import RUNS, run_folder, write_run
from pipeline.system.files import clear_unfinished, file_errors


def finetune(
    data: str | Path | Dataset,
    settings: Finetuning | None = None,
    *,
    views: Views | None = None,
    head: Model | str | Path | None = None,
    extractor: Extractor | None = None,
    runs: str | Path = RUNS,
    name: str | None = None,
    seed: int = 0,
    positive: str | None = None,
    listener: RunListener | None = None,
) -> Run:
    """Train a dense head, and the last layers of the backbone jointly with it.

    Killed at any moment and called again with the same arguments, it goes on after the last epoch
    that a checkpoint was written for, and ends with the same weights.

    Parameters
    ----------
    data : str, Path or Dataset
        A data set, or what `pipeline.load_dataset` takes for one.
    settings : Finetuning, optional
        What is trained, and how.
    views : Views, optional
        Views of the training images. From the cache, epoch e sees view e modulo their number.
        From images, with an augmentation, every epoch sees views that no other has seen, and
        their number is that to average over.
    head : Model, str or Path, optional
        A dense head that `classify` trained on the same features, or the folder of its run or of
        the model: the first phase is then done.
    extractor, runs, name, seed, listener
        As for `pipeline.classify`; `settings` decide where the network is cut.
    positive : str, optional
        Of two classes, the one that figures are of; the default is the rarer.

    Returns
    -------
    Run
        With one head, named ``finetuned``.

    Raises
    ------
    PipelineError
        Something cannot be read, learned from or written; the message says what.
    Interrupted
        Ctrl-C came after the training, while the data was searched for problems: the run is
        written.
    """
    settings, views = settings or Finetuning(), views or Views()
    settings.check_views(views)
    if isinstance(head, str | Path):
        head = load_head(Path(head))
    if head is not None:
        settings = settings_of(head, settings)
    extractor, listener, runs = extractor or Extractor(), listener or RunListener(), Path(runs)
    extractor = replace(extractor, recipe=settings.cut(extractor.recipe), layers=False)
    dataset = (
        data if isinstance(data, Dataset) else load_dataset(data, seed=seed, cache=extractor.cache)
    )
    run_folder(runs, name, dataset.name)  # a bad name is an error before the work
    protocol = Protocol(positive=positive)
    protocol.check(dataset)
    listener.listed(dataset)
    if head is not None:
        check_features(head, dataset.classes, extractor.recipe)
    started = time.perf_counter()
    source: InputSource = (
        _rows(dataset, views, extractor, runs, listener)
        if settings.source == "cache"
        else _images(dataset, views, extractor)
    )
    source.dataset.require_all_splits()
    if head is not None:
        check_images(head, source.dataset)
    network = _network(source, settings, head, extractor.weights, seed)
    listener.built(network.layers())
    described = settings.described(views, source.recipe)
    folder = _unfinished(runs, source, described, seed, head)
    course = Course(
        network=network,
        source=source,
        settings=settings,
        folder=folder,
        seed=seed,
        listener=listener,
    )
    result = _judged(course, course.follow(), views, described, protocol=protocol, started=started)
    remarks = (*remarks_on(result), *protocol.remarks_on(source.dataset.targets))
    run = Run(Path(), source.dataset, source.recipe, (result,), protocol=protocol, remarks=remarks)
    run, stopped = add_extras(run, course, extractor)
    run = write_run(run, runs, name, seed=seed, draw=partial(write_report, dataset=run.dataset))
    shutil.rmtree(folder, ignore_errors=True)
    if stopped is not None:
        raise Interrupted(run) from stopped
    return run


def _rows(
    dataset: Dataset, views: Views, extractor: Extractor, runs: Path, listener: RunListener
) -> CachedRows:
    """Compute the rows that are missing, and open all of them."""
    CachedRows.check_space(dataset, extractor.recipe, views, runs)
    extractor = extractor.settle(dataset, listener)
    plan = extractor.plan(dataset, [views])
    listener.planned(plan)
    extraction = extractor.make(plan, listener)
    extraction.dataset.check_learnable()
    return CachedRows(extraction, runs)


def _images(dataset: Dataset, views: Views, extractor: Extractor) -> Images:
    """Leave out the images that cannot be decoded."""
    if extractor.recipe.precision == "int8":
        raise PipelineError("precision int8 is for cached rows, not for training from images.")
    dataset = extractor.plan(dataset).readable()
    if extractor.strict:
        refuse(dataset.quarantined)
    dataset.check_learnable()
    return Images(dataset, extractor.recipe, views)


def _network(
    source: InputSource,
    settings: Finetuning,
    head: Model | None,
    weights: Path | None,
    seed: int,
) -> Network:
    """Build the network, with the head's weights where there is one."""
    dataset, recipe = source.dataset, source.recipe
    network = Network(
        recipe,
        len(dataset.classes),
        weights=get_backbone(recipe.backbone).load_weights(weights, digest=recipe.weights),
        seed=seed,
        **settings.head,
    )
    if head is not None:
        network.dense.set_weights(dense_of(head).model_.get_weights())
    network.freeze(upper=settings.phase == "frozen")
    return network


def _judged(
    course: Course,
    outcome: Outcome,
    views: Views,
    described: dict[str, Any],
    *,
    protocol: Protocol,
    started: float,
) -> Result:
    """Judge the trained network on all images."""
    dataset, network = course.source.dataset, course.network
    positive = protocol.positive_of(dataset.targets)
    probabilities = course.source.probabilities(network)
    averaged = views if views.everywhere else Views()
    model = Model(
        course.source.recipe,
        "finetuned",
        dataset.classes,
        TunedClassifier(network, len(dataset.classes), course.settings.head),
        views=averaged.count,
        augmentation=averaged.augmentation.name,
        trained_on=dataset.digest,
        positive=positive if len(dataset.classes) == 2 else None,
    )
    units = find_units(dataset)

    def metrics_on(split: str) -> Metrics:
        places = dataset.where(split)
        return evaluate(
            dataset.targets.labels[places],
            probabilities[places],
            groups=resampled_by(dataset, units, places),
            positive=positive,
        )

    return Result(
        model,
        {**described, "frozen_weights": outcome.frozen_digest},
        (),
        None if course.settings.final else metrics_on("validation"),
        metrics_on("test"),
        time.perf_counter() - started,
        probabilities,
        outcome.curves,
        outcome.best_epoch,
        outcome.phases,
    )


def _unfinished(
    runs: Path, source: InputSource, described: dict[str, Any], seed: int, head: Model | None
) -> Path:
    """Make a folder named by all that decides a training's course, to go on from that alone."""
    decisive = [source.dataset.digest, source.recipe.fingerprint, described, seed]
    digest = hashlib.sha256(json.dumps(decisive).encode())
    for array in dense_of(head).model_.get_weights() if head else ():
        digest.update(array.tobytes())
    folder = runs / f".finetune-{digest.hexdigest()[:12]}"
    fix = "name another folder with --runs, or check its permissions and the free space"
    with file_errors(f"write into {runs}", fix=fix):
        folder.mkdir(parents=True, exist_ok=True)
        _clear(runs, folder)
    return folder


def _clear(runs: Path, own: Path) -> None:
    """Remove what killed trainings left, but for the checkpoints that they can go on from."""
    for folder in runs.glob(".finetune-*"):
        clear_unfinished(folder)
        if folder != own:
            with contextlib.suppress(OSError):  # a checkpoint is in it
                folder.rmdir()
