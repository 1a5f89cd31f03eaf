"""Candidates of a head, fitted to some images, and what they say of others."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np

from pipeline.classification.arrays import Floats, Labels, Places
from pipeline.classification.search import LabelledRows, judge_folds
from pipeline.classification.task import Pair, Task
from pipeline.classification.variants import ViewedRows
from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import log_loss
from pipeline.heads.estimators import Classifier
from pipeline.heads.registry import Head
from pipeline.system.machine import free_memory

_TIMES_OF_A_NETWORK = 3  # what fitting one takes, by what all rows take


@dataclass(frozen=True)
class Candidate:
    """Parameters and rows, and what fits of them said of images that they had not seen.

    Attributes
    ----------
    parameters : mapping
        For the head's ``build``.
    rows : ViewedRows
        What was fitted on.
    p : ndarray of float64, shape (n, k)
        Probabilities; NaN where an image was not judged.
    fitted : tuple of Classifier
        The fits, if the head's training stops by the images that it is judged on; else empty.
    """

    parameters: Mapping[str, Any]
    rows: ViewedRows
    p: Floats
    fitted: tuple[Classifier, ...] = ()

    @property
    def judged(self) -> Places:
        """Positions of the images that were judged."""
        return np.flatnonzero(np.isfinite(self.p[:, 0]))

    def log_loss(self, labels: Labels) -> float:
        """Give what candidates are chosen by."""
        places = self.judged
        return log_loss(labels[places], self.p[places])


def try_candidates(
    task: Task, head: Head, deals: Sequence[Sequence[Pair]], seed: int
) -> list[list[Candidate]]:
    """Fit every candidate on each pair's one side, and judge it on the other.

    Parameters
    ----------
    task, head
        What is fitted, and to what.
    deals : sequence of sequence of Pair
        No image is judged twice in one.
    seed : int
        Decides what is random in the head.

    Returns
    -------
    list of list of Candidate
        For each deal, for each of the task's variants, each of the head's grid.
    """
    if head.early_stopping:
        return _try_stopped(task, head, deals, seed)
    found: list[list[Candidate]] = [[] for _ in deals]
    for rows in task.variants:
        said = judge_folds(
            head,
            LabelledRows(
                rows.prepared,
                task.dataset.targets.labels[rows.image],
                len(task.dataset.classes),
                task.groups(rows.image),
            ),
            [rows.fold(*pair) for pair in itertools.chain(*deals)],
            seed=seed,
            balanced=task.protocol.balanced,
            jobs=joblib.cpu_count(),
            spread=task.spread,
        )
        for parameters, of_pairs in zip(head.grid, said):
            left = iter(of_pairs)
            for pairs, candidates in zip(deals, found):
                p = _nothing_said(task)
                for pair in pairs:
                    p[pair.judged] = _numbers(rows.of_images(next(left)))
                candidates.append(Candidate(parameters, rows, p))
    return found


def _nothing_said(task: Task) -> Floats:
    return np.full((len(task.dataset), len(task.dataset.classes)), np.nan)


def _numbers(p: Floats) -> Floats:
    """Give probabilities back, if they are numbers: NaN would pass for an image not judged."""
    lacking = np.count_nonzero(~np.isfinite(p).all(axis=1))
    if lacking:
        raise PipelineError(
            f"its probabilities are not finite for {lacking:,} of {len(p):,} images.",
            expected="numbers from 0 to 1",
        )
    return p


def _try_stopped(
    task: Task, head: Head, deals: Sequence[Sequence[Pair]], seed: int
) -> list[list[Candidate]]:
    """Try candidates whose training stops by the images that they are judged on."""
    found: list[list[Candidate]] = [[] for _ in deals]
    for rows, parameters in itertools.product(task.variants, head.grid):
        blank = Candidate(parameters, rows, _nothing_said(task))
        left = iter(_fit_at_once(task, head, blank, list(itertools.chain(*deals)), seed))
        for pairs, candidates in zip(deals, found):
            fitted = tuple(itertools.islice(left, len(pairs)))
            p = _nothing_said(task)
            for estimator, pair in zip(fitted, pairs):
                p[pair.judged] = _numbers(apply(task, estimator, rows, pair.judged))
            candidates.append(Candidate(parameters, rows, p, fitted))
    return found


def _fit_at_once(
    task: Task, head: Head, candidate: Candidate, pairs: Sequence[Pair], seed: int
) -> list[Classifier]:
    """Fit networks side by side: a single one does not fill even two cores."""
    room = free_memory() // (_TIMES_OF_A_NETWORK * candidate.rows.flat.nbytes)
    at_once = max(1, min(joblib.cpu_count(), len(pairs), room))
    over = threading.Event()

    def epoch_end(*_: object) -> None:
        if over.is_set():
            raise CancelledError

    def fit_pair(pair: Pair) -> Classifier:
        stop_on = pair.judged
        return fit(task, head, candidate, pair.fitted, seed, stop_on=stop_on, on_epoch=epoch_end)

    with ThreadPoolExecutor(at_once) as pool:
        try:
            fits = [pool.submit(fit_pair, pair) for pair in pairs]
            for one in as_completed(fits):
                one.result()
        except BaseException:  # Ctrl-C, too: threads are waited for
            over.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [one.result() for one in fits]


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
    """Fit a candidate to all views of some images.

    Parameters
    ----------
    stop_on : ndarray of int64, optional
        Images by which training stops, if the head's does. Without them it takes as many epochs
        as the candidate's fits did, on average.
    on_epoch : callable, optional
        Called after each epoch of such a training.
    """
    labels, rows = task.dataset.targets.labels, candidate.rows
    learned = rows.to_fit(places)
    parameters = dict(candidate.parameters)
    if head.early_stopping and stop_on is None:
        epochs = [network.best_epoch_ for network in candidate.fitted]  # type: ignore[attr-defined]
        parameters["epochs"] = max(1, round(float(np.mean(epochs))))
    estimator = head.candidate(
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


def apply(task: Task, estimator: Classifier, rows: ViewedRows, places: Places) -> Floats:
    """Give what a fit says of images, shape (len(places), k); 0 for a class that it never saw."""
    found = np.zeros((len(places), len(task.dataset.classes)))
    columns = np.asarray(estimator.classes_, np.int64)
    found[:, columns] = rows.probabilities(estimator, places)
    return found
