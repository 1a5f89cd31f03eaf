"""Stage two: train heads on cached rows, choose on validation, judge on test, keep the run.

The protocol, the same for every head: candidates are fitted on the training split and compared by
their log loss on the validation split. The best is fitted again on both, or, where training itself
stops by validation, kept as it is. The test split is looked at once, by what was chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.dataset import Dataset, load_dataset
from pipeline.errors import PipelineError
from pipeline.evaluate import evaluate
from pipeline.examples import find_examples
from pipeline.exchange import SUFFIXES, import_features
from pipeline.extraction import CACHE, Extraction, Forward, Progress, Views, extract, keys
from pipeline.heads import HEADS, Classifier, Head, get_head
from pipeline.model import Model
from pipeline.problems import find_problems_quickly
from pipeline.recipe import Recipe
from pipeline.run import RUNS, Result, Run, run_folder, write_run
from pipeline.store import FeatureStore


def classify(
    data: str | Path | Dataset,
    head_names: str | Sequence[str] = ("all",),
    *,
    recipe: Recipe | None = None,
    views: Views | Sequence[Views] | None = None,
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
    views : Views or sequence of Views, optional
        Which views of the images to learn from. Of several, each head has the one that was best
        on validation; each head is also fitted without augmentation, to be compared with.
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
    named = [views] if isinstance(views, Views) else views or [Views()]
    wanted = list(dict.fromkeys(named))
    if not isinstance(data, Dataset) and is_features_file(data):
        dataset, recipe, features = import_features(Path(data))
        if any(one.count > 1 for one in wanted):
            raise PipelineError(f"{data} holds no views of its images.", fix="leave --views away")
        variants = [_Examples(Views(), features, [])]
    else:
        dataset = data if isinstance(data, Dataset) else load_dataset(data, seed=seed)
        run_folder(Path(runs), name, dataset.name)  # a bad name is said before the work
        dataset.require_all_splits()
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
            )
            extractions.append(done)
            dataset = done.dataset  # what could not be read is not tried again
        recipe = extractions[-1].store.recipe
        first = extractions[-1].rows()
        variants = [_Examples.of(replace(one, dataset=dataset), first) for one in extractions]
        if all(one.views.count > 1 for one in variants):
            variants.append(_Examples(Views(), first, [], asked_for=False))
    run_folder(Path(runs), name, dataset.name)
    dataset.require_all_splits()
    results = []
    for head in chosen:
        results.append(_fit_and_judge(head, variants, dataset, recipe, seed))
        if on_result:
            on_result(results[-1])
    plain = len(variants) == 1  # like is to be compared with like
    reference = tuple(
        _fit_and_judge(head, [_Examples(Views(), rows, [])], dataset, exact, seed)
        for exact, rows in (_more_exact(dataset, recipe, Path(cache)) if plain else ())
        for head in chosen
    )
    run = Run(Path(), dataset, recipe, tuple(results), reference)
    run = look_into(run, variants[0].first, seed)
    return write_run(run, Path(runs), name, seed=seed)


def look_into(run: Run, rows: npt.NDArray[np.float32], seed: int) -> Run:
    """Add to a run what may be wrong with its data, and some test images looked at closely."""
    dataset, best = run.dataset, run.best
    predicted = best.probabilities.argmax(axis=1)
    return replace(
        run,
        problems=find_problems_quickly(dataset, rows, predicted, seed=seed),
        examples=find_examples(best.model, dataset, best.probabilities, rows.__getitem__, rows),
    )


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


@dataclass(frozen=True)
class _Examples:
    """The rows of a data set in the views of one augmentation, in memory.

    Attributes
    ----------
    views : Views
        Which views there are.
    first : ndarray of float32, shape (n, ...)
        View 0 of every image.
    others : list of (ndarray of int64, ndarray of float32)
        For each further view: positions of the images that have it, and their rows.
    asked_for : bool
        Whether it may be chosen; else it is there to be compared with.
    """

    views: Views
    first: npt.NDArray[np.float32]
    others: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]
    asked_for: bool = True

    @classmethod
    def of(cls, extraction: Extraction, first: npt.NDArray[np.float32]) -> _Examples:
        views = extraction.views
        places = np.flatnonzero([len(more) > 0 for more in views.of(extraction.dataset)])
        others = [
            (places, extraction.rows(view, places.tolist())) for view in range(1, views.count)
        ]
        return cls(views, first, others)

    def fit(
        self,
        head: Head,
        parameters: Mapping[str, Any],
        dataset: Dataset,
        places: npt.NDArray[np.int64],
        *,
        seed: int,
    ) -> Classifier:
        """Fit a head to all views of some images."""
        rows, images = self._to_learn(places)
        groups = {"groups": images} if head.calibrated and self.others else {}
        estimator = head.build(seed, **groups, **parameters)
        watched = {}
        if head.early_stopping:
            held_out = dataset.where("validation")
            unseen = self.first[held_out].reshape(len(held_out), -1)
            watched = {"validation_data": (unseen, dataset.labels[held_out])}
        estimator.fit(rows, dataset.labels[images], **watched)
        return estimator

    def _to_learn(
        self, places: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Give all rows of some images, flattened, and which image each is a view of."""
        rows, images = [self.first[places]], [places]
        for there, views in self.others:
            chosen = np.isin(there, places)
            rows.append(views[chosen])
            images.append(there[chosen])
        flat = np.concatenate(rows) if self.others else rows[0]
        return flat.reshape(len(flat), -1), np.concatenate(images)

    def probabilities(
        self, estimator: Classifier, places: npt.NDArray[np.int64] | slice = slice(None)
    ) -> npt.NDArray[np.float64]:
        """Apply a head to images: to view 0, or, if all have all views, to these for their mean."""
        others = self.others if self.views.everywhere else ()
        views = [self.first[places], *(rows[places] for _, rows in others)]
        found = [estimator.predict_proba(rows.reshape(len(rows), -1)) for rows in views]
        mean: npt.NDArray[np.float64] = np.mean(found, axis=0, dtype=np.float64)
        return mean


def _fit_and_judge(
    head: Head, variants: Sequence[_Examples], dataset: Dataset, recipe: Recipe, seed: int
) -> Result:
    """Choose parameters, and the augmentation where there are several, on validation."""
    train, held_out, test = (dataset.where(split) for split in ("train", "validation", "test"))
    labels = dataset.labels
    started = time.perf_counter()
    candidates = []
    for examples in variants:
        for parameters in head.grid:
            estimator = examples.fit(head, parameters, dataset, train, seed=seed)
            validation = evaluate(labels[held_out], examples.probabilities(estimator, held_out))
            candidates.append((validation, parameters, examples, estimator))
    validation, parameters, examples, estimator = min(
        # What was not asked for is there to be compared with, not to be chosen.
        [one for one in candidates if one[2].asked_for],
        key=lambda candidate: candidate[0].log_loss,
    )
    if not head.early_stopping:
        both = np.concatenate([train, held_out])
        estimator = examples.fit(head, parameters, dataset, both, seed=seed)
    seconds = time.perf_counter() - started
    probabilities = examples.probabilities(estimator)
    averaged = examples.views.everywhere
    model = Model(
        recipe,
        head.name,
        dataset.classes,
        estimator,
        views=examples.views.count if averaged else 1,
        augmentation=examples.views.augmentation.name if averaged else "none",
        trained_on=dataset.digest,
    )
    return Result(
        model,
        _described(parameters, examples, variants),
        tuple(
            (_described(tried, one, variants), judged.log_loss)
            for judged, tried, one, _ in candidates
        ),
        validation,
        evaluate(labels[test], probabilities[test]),
        seconds,
        probabilities,
        getattr(estimator, "history_", {}),
        getattr(estimator, "best_epoch_", 0),
    )


def _described(
    parameters: Mapping[str, Any], examples: _Examples, variants: Sequence[_Examples]
) -> dict[str, Any]:
    if len(variants) == 1:
        return dict(parameters)
    views = examples.views
    return {
        **parameters,
        "views": views.count,
        "augmentation": views.augmentation.name,
        "averaged_over_views": views.everywhere,
    }
