"""Candidates of a head, fitted to some images and judged on others."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

import joblib
import numpy as np

from pipeline.backbones.recipe import Recipe
from pipeline.classification.arrays import Floats, Labels, Places
from pipeline.classification.search import Fold, LabelledRows, judge_folds
from pipeline.classification.task import Task
from pipeline.classification.variants import ViewedRows
from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import log_loss
from pipeline.heads.estimators import Classifier
from pipeline.heads.registry import Head
from pipeline.system.machine import free_memory

_ENOUGH_TO_TELL_KINDS = 300  # images judged, to compare kinds of rows
_NETWORK_MEMORY_FACTOR = 3  # peak memory of one network fit / size of the rows


@dataclass(frozen=True)
class Candidate:
    """Parameters and rows, and the probabilities that fits of them give of images not seen.

    Attributes
    ----------
    parameters : mapping
        For the head's ``build``.
    rows : ViewedRows
        What was fitted on.
    p : ndarray of float64, shape (n, k)
        Probabilities; NaN where an image was not judged.
    fitted : tuple of Classifier
        The fits, where training stops by the images that are judged; else empty.
    """

    parameters: Mapping[str, Any]
    rows: ViewedRows
    p: Floats
    fitted: tuple[Classifier, ...] = ()

    @property
    def judged(self) -> Places:
        """Positions of the images that were judged."""
        return np.flatnonzero(np.isfinite(self.p[:, 0]))

    def continued(self, later: Candidate) -> Candidate:
        """Add what the same gave on further folds."""
        p = np.where(np.isfinite(later.p), later.p, self.p)
        return replace(self, p=p, fitted=(*self.fitted, *later.fitted))

    def log_loss(self, labels: Labels) -> float:
        """Give what candidates are chosen by."""
        places = self.judged
        return log_loss(labels[places], self.p[places])


Trial = tuple[ViewedRows, Head]
"""Rows, and a head whose grid is to be tried on them."""


def all_trials(task: Task, head: Head) -> list[Trial]:
    """List the whole of a head's grid on all rows."""
    return [(rows, rows.suited(head)) for rows in task.variants if rows.pools]


def _by_kind(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Put those trials together that are on rows of one recipe, pooled alike."""
    kinds: dict[tuple[Recipe, str | None], list[Trial]] = {}
    for rows, head in trials:
        for pool, grid in itertools.groupby(head.grid, lambda each: each.get("pool")):
            pooled = replace(head, grid=tuple(grid))
            kinds.setdefault((rows.recipe, pool), []).append((rows, pooled))
    return list(kinds.values())


def try_in_turn(task: Task, head: Head, pairs: Sequence[Fold], seed: int) -> list[Candidate]:
    """Try the middle of a head's grid on every kind of rows, then the rest on the best kind.

    So a further network, layer or pooling costs one fit, not a grid of them. Of several folds, the
    first are enough to tell the best kind; only what is then tried on all of them is returned.
    """
    kinds = _by_kind(trials := all_trials(task, head))
    if len(kinds) == 1:
        [candidates] = try_candidates(task, trials, [pairs], seed)
        return candidates
    labels, middle = task.dataset.targets.labels, head.grid[len(head.grid) // 2].items()
    judged = np.cumsum([len(pair.judged) for pair in pairs])
    some = 1 + int(np.searchsorted(judged, _ENOUGH_TO_TELL_KINDS))

    def try_on(folds: Sequence[Fold], trials: Sequence[Trial], *, middles: bool) -> list[Candidate]:
        parts = [
            (rows, suited.only(lambda each: (middle <= each.items()) == middles))
            for rows, suited in trials
        ]
        [candidates] = try_candidates(task, parts, [folds], seed)
        return candidates

    def loss(candidates: Sequence[Candidate]) -> float:
        return min(each.log_loss(labels) for each in candidates if each.rows.asked_for)

    compared = [(try_on(pairs[:some], trials, middles=True), trials) for trials in kinds]
    best, trials = min(compared, key=lambda each: loss(each[0]))
    if later := pairs[some:]:
        further = try_on(later, trials, middles=True)
        found = [first.continued(rest) for first, rest in zip(best, further)]
    else:
        found = [each for candidates, _ in compared for each in candidates]
    return [*found, *try_on(pairs, trials, middles=False)]


def try_candidates(
    task: Task, trials: Sequence[Trial], rounds: Sequence[Sequence[Fold]], seed: int
) -> list[list[Candidate]]:
    """Fit every candidate to one side of each pair, and judge it on the other."""
    pairs = list(itertools.chain(*rounds))
    candidates: list[list[Candidate]] = [[] for _ in rounds]
    for rows, head in trials:
        attempt = _try_stopped if head.early_stopping else _try_on_folds
        tried = attempt(task, head, rows, pairs, seed)
        for parameters, judged in zip(head.grid, tried):
            remaining = iter(judged)
            for numbered, round_pairs in zip(candidates, rounds):
                here = list(itertools.islice(remaining, len(round_pairs)))
                numbered.append(_candidate(task, parameters, rows, round_pairs, here))
    return candidates


_Judged = tuple[Floats, Classifier | None]
"""Probabilities of the images of a pair that are judged, and the fit, where it is kept."""


def _try_on_folds(
    task: Task, head: Head, rows: ViewedRows, pairs: Sequence[Fold], seed: int
) -> list[list[_Judged]]:
    """Try each candidate on each pair, by what all fits on these rows share."""
    labels = task.dataset.targets.labels[rows.image]
    groups = task.groups(rows.image)
    probabilities = judge_folds(
        head,
        LabelledRows(rows.prepared, labels, len(task.dataset.classes), groups),
        [rows.fold(*pair) for pair in pairs],
        seed=seed,
        balanced=task.protocol.balanced,
        jobs=joblib.cpu_count(),
        spread=task.spread,
    )
    return [[(rows.of_images(p), None) for p in by_pair] for by_pair in probabilities]


def _try_stopped(
    task: Task, head: Head, rows: ViewedRows, pairs: Sequence[Fold], seed: int
) -> list[list[_Judged]]:
    """Try candidates whose training stops by the images that they are judged on."""
    tried: list[list[_Judged]] = []
    for parameters in head.grid:
        blank = Candidate(parameters, rows, _unjudged(task))
        fits = _fit_at_once(task, head, blank, pairs, seed)
        tried.append(
            [
                (_apply_stopped(task, estimator, rows, pair.judged), estimator)
                for estimator, pair in zip(fits, pairs)
            ]
        )
    return tried


def _candidate(
    task: Task,
    parameters: Mapping[str, Any],
    rows: ViewedRows,
    pairs: Sequence[Fold],
    judged: Sequence[_Judged],
) -> Candidate:
    """Put together what the fits of a round give."""
    p = _unjudged(task)
    for pair, (probabilities, _) in zip(pairs, judged):
        bad = np.count_nonzero(~np.isfinite(probabilities).all(axis=1))
        if bad:
            raise PipelineError(
                f"its probabilities are not finite for {bad:,} of {len(probabilities):,} images.",
                expected="numbers from 0 to 1",
            )
        p[pair.judged] = probabilities
    fitted = tuple(estimator for _, estimator in judged if estimator is not None)
    return Candidate(parameters, rows, p, fitted)


def _unjudged(task: Task) -> Floats:
    return np.full((len(task.dataset), len(task.dataset.classes)), np.nan)


def _fit_at_once(
    task: Task, head: Head, candidate: Candidate, pairs: Sequence[Fold], seed: int
) -> list[Classifier]:
    """Fit networks side by side: a single one does not fill even two cores."""
    room = free_memory() // (_NETWORK_MEMORY_FACTOR * candidate.rows.flat.nbytes)
    at_once = max(1, min(joblib.cpu_count(), len(pairs), room))
    over = threading.Event()

    def epoch_end(*_: object) -> None:
        if over.is_set():
            raise CancelledError

    def fit_pair(pair: Fold) -> Classifier:
        stop_on = pair.judged
        return fit(task, head, candidate, pair.fitted, seed, stop_on=stop_on, on_epoch=epoch_end)

    with ThreadPoolExecutor(at_once) as pool:
        try:
            fits = [pool.submit(fit_pair, pair) for pair in pairs]
            for completed in as_completed(fits):
                completed.result()
        except BaseException:  # Ctrl-C, too: threads are waited for
            over.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in fits]


def fit(
    task: Task,
    head: Head,
    candidate: Candidate,
    places: Places,
    seed: int,
    *,
    stop_on: Places | None = None,
    on_epoch: Callable[..., None] | None = None,
) -> Classifier:
    """Fit a candidate to all views of some images."""
    labels, rows = task.dataset.targets.labels, candidate.rows
    learned = rows.to_fit(places)
    parameters = dict(candidate.parameters)
    if head.early_stopping and stop_on is None:
        epochs = [network.best_epoch_ for network in candidate.fitted]  # type: ignore[attr-defined]
        parameters["epochs"] = max(1, round(float(np.mean(epochs))))
    estimator = rows.suited(head).candidate(
        seed,
        parameters,
        balanced=task.protocol.balanced,
        groups=task.groups(rows.image[learned]),
    )
    known = labels[rows.image[learned]]
    if stop_on is not None:
        watched = rows.flat[stop_on], labels[stop_on]
        estimator.fit(rows.flat[learned], known, validation_data=watched, on_epoch=on_epoch)
    else:
        rows.prepared.fit(estimator, learned, known)
    return estimator


def _apply_stopped(task: Task, estimator: Classifier, rows: ViewedRows, places: Places) -> Floats:
    """Do as `apply` does, for images that decided when the training of the estimator stopped."""
    if rows.views.everywhere and rows.views.count > 1:
        return apply(task, estimator, rows, places)
    return _of_all_classes(task, estimator, estimator.validation_p_)  # type: ignore[attr-defined]


def apply(task: Task, estimator: Classifier, rows: ViewedRows, places: Places) -> Floats:
    """Give probabilities of images, shape (len(places), k); 0 for a class that a fit never saw."""
    return _of_all_classes(task, estimator, rows.probabilities(estimator, places))


def _of_all_classes(task: Task, estimator: Classifier, known: Floats) -> Floats:
    p = np.zeros((len(known), len(task.dataset.classes)))
    p[:, np.asarray(estimator.classes_, np.int64)] = known
    return p
