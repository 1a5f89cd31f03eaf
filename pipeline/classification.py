"""Stage two: train heads on cached rows, choose on validation, judge on test, keep the run.

The protocol, the same for every head: candidates are fitted on the training split and compared by
their log loss on the validation split. The best is fitted again on both, or, where training itself
stops by validation, kept as it is. The test split is looked at once, by what was chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.dataset import SPLITS, Dataset, load_dataset
from pipeline.errors import DataError, PipelineError
from pipeline.evaluate import evaluate
from pipeline.exchange import SUFFIXES, import_features
from pipeline.extraction import CACHE, Forward, Progress, extract, keys
from pipeline.heads import HEADS, Head, get_head
from pipeline.model import Model
from pipeline.recipe import Recipe
from pipeline.run import RUNS, Result, Run, run_folder, write_run
from pipeline.store import FeatureStore


def classify(
    data: str | Path | Dataset,
    head_names: str | Sequence[str] = ("all",),
    *,
    recipe: Recipe | None = None,
    cache: str | Path = CACHE,
    runs: str | Path = RUNS,
    name: str | None = None,
    seed: int = 0,
    weights: Path | None = None,
    strict: bool = False,
    on_progress: Progress | None = None,
    on_result: Callable[[Result], None] | None = None,
    backbone: Forward | None = None,
) -> Run:
    """Train and compare heads on a data set's features.

    Parameters
    ----------
    data : str, Path or Dataset
        A data set, what `pipeline.dataset.load_dataset` takes for one, or a file that
        `pipeline.exchange.export_features` wrote.
    head_names : str or sequence of str
        Names of heads, or ``"all"``.
    recipe, cache, weights, strict, on_progress, backbone
        As for `pipeline.extraction.extract`, which makes the rows that are not there yet.
    runs : str or Path
        Folder that the run's own folder is made in.
    name : str, optional
        Name of the run's folder. The default is the data set's name, with a number if taken.
    seed : int
        Decides the splits, where `data` is not a `Dataset`, and what is random in heads.
    on_result : callable, optional
        Called with each head's result as it is there.

    Raises
    ------
    PipelineError
        Something cannot be read, learned from or written; the message says what.
    """
    chosen = _choose_heads([head_names] if isinstance(head_names, str) else head_names)
    if not isinstance(data, Dataset) and is_features_file(data):
        dataset, recipe, features = import_features(Path(data))
    else:
        dataset = data if isinstance(data, Dataset) else load_dataset(data, seed=seed)
        run_folder(Path(runs), name, dataset.name)  # a bad name is said before the work
        _require_all_splits(dataset)
        extraction = extract(
            dataset,
            recipe,
            cache=cache,
            weights=weights,
            strict=strict,
            on_progress=on_progress,
            backbone=backbone,
        )
        dataset, recipe = extraction.dataset, extraction.store.recipe
        features = extraction.rows()
    run_folder(Path(runs), name, dataset.name)
    _require_all_splits(dataset)
    results = []
    for head in chosen:
        results.append(_fit_and_judge(head, features, dataset, recipe, seed))
        if on_result:
            on_result(results[-1])
    reference = tuple(
        _fit_and_judge(head, rows, dataset, exact, seed)
        for exact, rows in _more_exact(dataset, recipe, Path(cache))
        for head in chosen
    )
    run = Run(Path(), dataset, recipe, tuple(results), reference)
    return write_run(run, Path(runs), name, seed=seed)


def _more_exact(
    dataset: Dataset, recipe: Recipe, cache: Path
) -> Iterator[tuple[Recipe, npt.NDArray[np.float32]]]:
    """Find the same images' features in the precision that int8 is to be held against."""
    if recipe.precision == "int8":
        for precision in ("float32", "bfloat16"):
            exact = replace(recipe, precision=precision, engine="tensorflow", calibration="none")
            store = FeatureStore(cache, exact)
            if not store.missing(keys(dataset)):
                yield exact, store.read(keys(dataset))
                return


def is_features_file(data: str | Path) -> bool:
    """Tell whether this names a file of features, in place of images."""
    return Path(data).suffix in SUFFIXES and not Path(data).is_dir()


def _choose_heads(names: Sequence[str]) -> list[Head]:
    if not names:
        raise PipelineError("no head is named.", expected=f"all, or some of {', '.join(HEADS)}")
    named = [get_head(name) for name in dict.fromkeys(names) if name != "all"]
    return list(HEADS.values()) if "all" in names else named


def _require_all_splits(dataset: Dataset) -> None:
    for split in SPLITS:
        if not dataset.where(split).size:
            raise DataError(
                f"the {split} split of {dataset.name} is empty.",
                expected=f"images in all of {', '.join(SPLITS)}",
                fix="add images, give the splits yourself, or try another --seed",
            )


def _fit_and_judge(
    head: Head, features: npt.NDArray[np.float32], dataset: Dataset, recipe: Recipe, seed: int
) -> Result:
    rows = features.reshape(len(features), -1)
    train, held_out, test = (dataset.where(split) for split in ("train", "validation", "test"))
    labels = dataset.labels
    started = time.perf_counter()
    watched = {"validation_data": (rows[held_out], labels[held_out])} if head.early_stopping else {}
    candidates = []
    for parameters in head.grid:
        estimator = head.build(seed, **parameters)
        estimator.fit(rows[train], labels[train], **watched)
        validation = evaluate(labels[held_out], estimator.predict_proba(rows[held_out]))
        candidates.append((validation.log_loss, parameters, validation, estimator))
    _, parameters, validation, estimator = min(candidates, key=lambda candidate: candidate[0])
    if not head.early_stopping:
        both = np.concatenate([train, held_out])
        estimator = head.build(seed, **parameters).fit(rows[both], labels[both])
    seconds = time.perf_counter() - started
    model = Model(recipe, head.name, dataset.classes, estimator)
    probabilities = model.probabilities(features)
    return Result(
        model,
        dict(parameters),
        tuple((dict(tried), log_loss) for log_loss, tried, *_ in candidates),
        validation,
        evaluate(labels[test], probabilities[test]),
        seconds,
        probabilities,
        getattr(estimator, "history_", {}),
        getattr(estimator, "best_epoch_", 0),
    )
