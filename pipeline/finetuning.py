"""Fine-tuning: a head on the frozen base first, then the last layers of the base jointly with it.

The textbook recipe's five steps: add a head to a trained base; freeze the base; train the head;
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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.backbone import LAYERS, feature_shape, vgg16_recipe
from pipeline.batches import CachedRows, Images, OrderedBatches, Source
from pipeline.dataset import Dataset, load_dataset
from pipeline.errors import DataError, ModelError, PipelineError
from pipeline.evaluate import evaluate
from pipeline.extraction import CACHE, Views, extract, find_unreadable
from pipeline.extraction import Progress as Report
from pipeline.heads import DenseHead
from pipeline.model import Model
from pipeline.network import Network, TunedClassifier
from pipeline.recipe import Recipe
from pipeline.run import RUNS, Result, Run, run_folder, write_run
from pipeline.store import FeatureStore
from pipeline.training import Progress, Training, train
from pipeline.weights import load_weights

UNFREEZABLE = tuple(layer for layer in LAYERS[1:] if "conv" in layer)
"""Layers that may be the first one to be trained; below each lies one to cut at."""

SOURCES = ("cache", "images")
PHASES = ("both", "frozen", "finetune")


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """What is trained, and how.

    Parameters
    ----------
    source : {"cache", "images"}
        Cached rows, or the images through the whole network.
    phase : {"both", "frozen", "finetune"}
        The head on a frozen base, both jointly, or one after the other.
    unfreeze : str
        The first layer that is trained jointly with the head: one of `UNFREEZABLE`.
    pool, units, dropout
        Of the head; see `pipeline.network.Network`.
    batch_size : int
        Images a step. This and the learning rates are Chollet's.
    frozen, joint : Training
        How the two phases are trained.
    """

    source: str = "cache"
    phase: str = "both"
    unfreeze: str = "block5_conv1"
    pool: str = "flatten"
    units: int = 256
    dropout: float = 0.0
    batch_size: int = 20
    frozen: Training = field(default_factory=lambda: Training(learning_rate=1e-4))
    joint: Training = field(default_factory=lambda: Training(learning_rate=1e-5))

    def __post_init__(self) -> None:
        for name, known in (("source", SOURCES), ("phase", PHASES), ("unfreeze", UNFREEZABLE)):
            if getattr(self, name) not in known:
                raise PipelineError(
                    f"cannot fine-tune with {name} {getattr(self, name)!r}.",
                    expected=f"one of {', '.join(known)}",
                )
        if self.batch_size < 1 or not 0 <= self.dropout < 1 or self.units < 1:
            raise PipelineError(
                f"batch size {self.batch_size}, {self.units} units, dropout {self.dropout}.",
                expected="at least 1 image, at least 1 unit, and dropout from 0 to below 1",
            )

    @property
    def layer(self) -> str:
        """The layer that rows are taken from: the last that is not trained."""
        return LAYERS[-1] if self.phase == "frozen" else LAYERS[LAYERS.index(self.unfreeze) - 1]

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return a recipe with its network cut at `layer`."""
        return replace(recipe, layer=self.layer, shape=feature_shape(self.layer, recipe.size))


def finetune(
    data: str | Path | Dataset,
    settings: Finetuning | None = None,
    *,
    recipe: Recipe | None = None,
    views: Views | None = None,
    head: Model | None = None,
    cache: str | Path = CACHE,
    runs: str | Path = RUNS,
    name: str | None = None,
    seed: int = 0,
    weights: Path | None = None,
    strict: bool = False,
    on_progress: Report | None = None,
    on_network: Callable[[Network], None] | None = None,
    on_images: Callable[[str, int, int], None] | None = None,
    on_epoch: Callable[[str, int, Mapping[str, float]], None] | None = None,
) -> Run:
    """Train a dense head, and the last layers of VGG16 jointly with it.

    Killed at any moment and called again with the same arguments, it goes on where it was.

    Parameters
    ----------
    data : str, Path or Dataset
        A data set, or what `pipeline.dataset.load_dataset` takes for one.
    settings : Finetuning, optional
        What is trained, and how.
    recipe : Recipe, optional
        Size, scaling, precision and resize rule; its layer is set by `settings`.
    views : Views, optional
        Views of the training images. From the cache, epoch e sees view e modulo their number;
        from images, with an augmentation, every epoch sees views that no other has seen.
    head : Model, optional
        A dense head that `classify` trained on the same features: the first phase is then done.
    cache, runs, name, seed, weights, strict, on_progress
        As for `pipeline.classification.classify`.
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
    """
    settings = settings or Finetuning()
    views = views or Views()
    if head is not None:
        if settings.phase == "frozen":
            raise PipelineError("a head that is trained leaves nothing to do in phase frozen.")
        start = _dense(head)
        settings = replace(
            settings, phase="finetune", pool="flatten", units=start.units, dropout=start.dropout
        )
    runs = Path(runs)
    dataset = data if isinstance(data, Dataset) else load_dataset(data, seed=seed)
    run_folder(runs, name, dataset.name)  # a bad name is said before the work
    dataset.require_all_splits()
    recipe = settings.recipe(recipe or vgg16_recipe())
    if head is not None:
        _check_head(head, dataset, recipe)
    started = time.perf_counter()
    source: Source
    if settings.source == "cache":
        extraction = extract(
            dataset,
            recipe,
            views=views,
            cache=cache,
            weights=weights,
            strict=strict,
            on_progress=on_progress,
        )
        dataset, recipe = extraction.dataset, extraction.store.recipe
        source = CachedRows(extraction, Path(cache))
    else:
        bad = find_unreadable(dataset, FeatureStore(Path(cache), recipe))
        if strict and (bad or dataset.quarantined):
            raise _refused([*dataset.quarantined, *bad])
        dataset = dataset.without(bad)
        dataset.check_learnable()
        source = Images(dataset, recipe, views)
    dataset.require_all_splits()
    network = Network(
        recipe,
        len(dataset.classes),
        weights=load_weights(weights),
        pool=settings.pool,
        units=settings.units,
        dropout=settings.dropout,
        seed=seed,
    )
    if head is not None:
        network.dense.set_weights(_dense(head).model_.get_weights())
    network.freeze(upper=settings.phase == "frozen")
    if on_network:
        on_network(network)
    described = _describe(settings, views)
    unfinished = runs / f".finetune-{_name(dataset, recipe, described, head, seed)}"
    unfinished.mkdir(parents=True, exist_ok=True)
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
    )
    held_out, test = dataset.where("validation"), dataset.where("test")
    result = Result(
        model,
        {**described, "frozen_weights": frozen},
        (),
        evaluate(dataset.labels[held_out], probabilities[held_out]),
        evaluate(dataset.labels[test], probabilities[test]),
        time.perf_counter() - started,
        probabilities,
        curves,
        best_epoch,
        phases,
    )
    run = write_run(Run(Path(), dataset, recipe, (result,)), runs, name, seed=seed)
    shutil.rmtree(unfinished, ignore_errors=True)
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
            source, network, phase, dataset, batch_size=settings.batch_size, seed=seed
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
            curves.setdefault(curve, []).extend(values)
    return curves, best_epoch, tuple(ends), digest


def _dense(head: Model) -> DenseHead:
    if not isinstance(head.estimator, DenseHead):
        raise ModelError(
            f"fine-tuning cannot start from a head of the kind {head.head}.",
            expected="a head named dense, the only one that can be trained on with the base",
            fix="train one: pipeline classify DATA --head dense",
        )
    return head.estimator


def _check_head(head: Model, dataset: Dataset, recipe: Recipe) -> None:
    if head.classes != dataset.classes:
        raise ModelError(
            f"the head tells {', '.join(head.classes)} apart; the data has "
            f"{', '.join(dataset.classes)}.",
            expected="the same classes",
        )
    there = (head.recipe.layer, head.recipe.size, head.recipe.scaling)
    if there != (LAYERS[-1], recipe.size, recipe.scaling):
        raise ModelError(
            "the head was trained on {} at {} pixels, scaling {}.".format(*there),
            expected=f"{LAYERS[-1]} at {recipe.size} pixels, scaling {recipe.scaling}",
            fix="give --size and --scaling as they were when the head was trained",
        )


def _refused(files: list[Any]) -> DataError:
    listed = "\n".join(f"  {bad.path}: {bad.reason}" for bad in files)
    return DataError(f"{len(files)} files cannot be used:\n{listed}", fix="mend or remove them")


def _describe(settings: Finetuning, views: Views) -> dict[str, Any]:
    return {
        **asdict(settings),
        "views": views.count,
        "augmentation": views.augmentation.name,
        "averaged_over_views": views.everywhere,
    }


def _name(
    dataset: Dataset,
    recipe: Recipe,
    settings: dict[str, Any],
    head: Model | None,
    seed: int,
) -> str:
    """Name a training by all that decides its course, so that only the same goes on from it."""
    start = [array.tolist() for array in _dense(head).model_.get_weights()] if head else None
    document = [dataset.digest, recipe.fingerprint, settings, start, seed]
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:12]
