"""Fine-tuning: a head on the frozen base first, then the last layers of the base jointly with it.

The textbook recipe's five steps: add a head to a trained base; freeze the base; train the head;
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backbone import LAYERS, feature_shape, vgg16_recipe
from pipeline.dataset import Dataset, load_dataset
from pipeline.errors import DataError, ModelError, PipelineError
from pipeline.evaluate import evaluate
from pipeline.examples import Examples, find_examples
from pipeline.extraction import (
    CACHE,
    Extraction,
    Rows,
    Views,
    extract,
    find_unreadable,
    keys,
)
from pipeline.extraction import Progress as Report
from pipeline.finetuning.batches import CachedRows, Images, OrderedBatches, Source
from pipeline.finetuning.training import Progress, Training, train
from pipeline.heads import POOLS, DenseHead
from pipeline.model import Model
from pipeline.network import Network, TunedClassifier
from pipeline.problems import QUICK, Problems, find_problems_quickly, not_looked_for
from pipeline.recipe import Recipe
from pipeline.run import (
    RUNS,
    Interrupted,
    Result,
    Run,
    run_folder,
    with_looks,
    write_run,
)
from pipeline.store import FeatureStore
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
    final : bool
        Train on the validation images, too, and for exactly as many epochs: once it is known how
        many are good. Nothing is then known of the result but what it does on test. From the
        cache, validation images have view 0 only, unless all images have all views.
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
    final: bool = False

    def __post_init__(self) -> None:
        for name, known in (
            ("source", SOURCES),
            ("phase", PHASES),
            ("unfreeze", UNFREEZABLE),
            ("pool", POOLS),
        ):
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
        Views of the training images. From the cache, epoch e sees view e modulo their number.
        From images, with an augmentation, every epoch sees views that no other has seen, and
        their number is that to average over.
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
    Interrupted
        Ctrl-C came after the training, while the data was looked at: the run is written.
    """
    settings = settings or Finetuning()
    views = views or Views()
    _check_views(settings.source, views)
    if head is not None:
        settings = _settings_of(head, settings)
    runs = Path(runs)
    dataset = data if isinstance(data, Dataset) else load_dataset(data, seed=seed)
    run_folder(runs, name, dataset.name)  # a bad name is said before the work
    dataset.require_all_splits()
    recipe = settings.recipe(recipe or vgg16_recipe())
    if head is not None:
        _check_head(head, dataset, recipe)
    if settings.source == "images" and recipe.precision == "int8":
        raise PipelineError("precision int8 is for cached rows, not for training from images.")
    started = time.perf_counter()
    extraction: Extraction | None = None
    if settings.source == "cache":
        CachedRows.check_space(dataset, recipe, views, runs)
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
    else:
        dataset = _readable(dataset, FeatureStore(Path(cache), recipe), strict=strict)
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
        None if settings.final else evaluate(dataset.labels[held_out], probabilities[held_out]),
        evaluate(dataset.labels[test], probabilities[test]),
        time.perf_counter() - started,
        probabilities,
        curves,
        best_epoch,
        phases,
    )
    run = Run(Path(), dataset, recipe, (result,), remarks=tuple(_remarks(result)))
    features = once(partial(_features, source, dataset, recipe, Path(cache), weights))
    run, stopped = _look_into(run, features, partial(_rows, source, network), seed)
    run = write_run(run, runs, name, seed=seed)
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


def _features(
    source: Source, dataset: Dataset, recipe: Recipe, cache: Path, weights: Path | None
) -> Rows | None:
    """Give features that no label has shaped, of the base as it was: what images are compared by.

    None where there are too many images to compare, or none to be had without the whole network.
    """
    if len(dataset) > QUICK:
        return None
    whole = replace(recipe, layer=LAYERS[-1], shape=feature_shape(LAYERS[-1], recipe.size))
    store = FeatureStore(cache, whole)
    if not store.missing(keys(dataset)):
        return store.read(keys(dataset))
    if not isinstance(source, CachedRows):
        return None
    before = Network(recipe, len(dataset.classes), weights=load_weights(weights))
    return source.features(before.upper)


def _look_into(
    run: Run,
    features: Callable[[], Rows | None],
    read: Callable[[npt.NDArray[np.int64]], Rows],
    seed: int,
) -> tuple[Run, KeyboardInterrupt | None]:
    """Add what may be wrong with the data, and some test images looked at closely."""
    dataset, result = run.dataset, run.best

    def find_problems() -> Problems | None:
        rows = features()
        if rows is None:
            return None
        return find_problems_quickly(dataset, rows, result.predicted, seed=seed)

    def find_some() -> Examples:
        called = (result.model, dataset, result.probabilities, read)
        rows = None
        with contextlib.suppress(Exception):  # `find_problems` has said why
            rows = features()
        if rows is None:
            return find_examples(*called)
        blocks = [(rows, np.arange(len(rows)))]
        return find_examples(*called, blocks, read_features=rows.__getitem__)

    run, stopped = with_looks(run, {"problems": find_problems, "examples": find_some})
    if run.problems is None and not run.left_out and not stopped:
        return replace(run, remarks=(*run.remarks, *not_looked_for(run.dataset))), None
    return run, stopped


def _remarks(result: Result) -> Iterator[str]:
    """Say which weights were kept, and whether the last phase was worth it."""
    losses = result.history.get("val_loss", ())
    if not losses:
        return
    before = result.phases[-1] if result.phases else 0
    kept, frozen = losses[result.best_epoch - 1], losses[:before]
    found = f"Weights are those after epoch {result.best_epoch - before}"
    found += f"{' of fine-tuning' if before else ''}: log loss {kept:.3f} on validation"
    if before and min(frozen) < kept:
        best = int(np.argmin(frozen))
        found += f". It was lower, {frozen[best]:.3f}, on the frozen base after epoch {best + 1}"
        found += ", so fine-tuning did not help here"
    yield f"{found}."


def _rows(source: Source, network: Network, places: npt.NDArray[np.int64]) -> Rows:
    """Give what the tail takes of some images."""
    read, before = source.inputs(network, "finetune")
    return np.concatenate([np.asarray(before(one), np.float32) for one in read(places, 64, -1)])


def _dense(head: Model) -> DenseHead:
    if not isinstance(head.estimator, DenseHead):
        raise ModelError(
            f"fine-tuning cannot start from a head of the kind {head.head}.",
            expected="a head named dense, the only one that can be trained on with the base",
            fix="train one: pipeline classify DATA --head dense",
        )
    return head.estimator


def _settings_of(head: Model, settings: Finetuning) -> Finetuning:
    """Settle what follows from starting with a head that is trained."""
    start = _dense(head)
    if settings.phase == "frozen":
        raise PipelineError("a head that is trained leaves nothing to do in phase frozen.")
    if settings.pool != "flatten":
        raise PipelineError(
            f"a head of `classify` does not take features with pool {settings.pool!r}.",
            expected="pool 'flatten', as it was trained",
        )
    return replace(settings, phase="finetune", units=start.units, dropout=start.dropout)


def _check_head(head: Model, dataset: Dataset, recipe: Recipe) -> None:
    if head.classes != dataset.classes:
        raise ModelError(
            f"the head tells {', '.join(head.classes)} apart; the data has "
            f"{', '.join(dataset.classes)}.",
            expected="the same classes",
        )
    there, wanted = (
        f"{one.layer} at {one.size} pixels, scaling {one.scaling}, resized by {one.resize}"
        for one in (head.recipe, replace(recipe, layer=LAYERS[-1]))
    )
    if there != wanted:
        raise ModelError(
            f"the head was trained on {there}.",
            expected=wanted,
            fix="give --size, --scaling and --resize as they were when the head was trained",
        )


def _check_views(source: str, views: Views) -> None:
    """Refuse views that would do nothing."""
    if source == "images" and (views.count > 1) != views.everywhere:
        raise PipelineError(
            f"{views.count} views from images {'with' if views.everywhere else 'without'} --tta.",
            expected="the number of views to average over: every epoch sees views of its own",
            fix="give both --tta and --views 4, say, or neither",
        )
    if source == "cache" and views.count == 1 and views.augmentation.name != "none":
        raise PipelineError(
            "one cached view is the image itself: its augmentation would do nothing.",
            expected="more than one view, or no augmentation",
        )


def _readable(dataset: Dataset, store: FeatureStore, *, strict: bool) -> Dataset:
    """Leave out what cannot be decoded."""
    dataset = dataset.without(find_unreadable(dataset, store))
    if strict and dataset.quarantined:
        listed = "\n".join(f"  {bad.path}: {bad.reason}" for bad in dataset.quarantined)
        raise DataError(
            f"{len(dataset.quarantined)} files cannot be used:\n{listed}",
            fix="mend or remove them",
        )
    dataset.check_learnable()
    return dataset


def _describe(settings: Finetuning, views: Views) -> dict[str, Any]:
    return {
        **asdict(settings),
        "views": views.count,
        "augmentation": views.augmentation.name,
        "averaged_over_views": views.everywhere,
    }


def _unfinished(runs: Path, course: list[Any], head: Model | None) -> Path:
    """Make a folder named by all that decides a training's course, to go on from that alone."""
    digest = hashlib.sha256(json.dumps(course).encode())
    for array in _dense(head).model_.get_weights() if head else ():
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
