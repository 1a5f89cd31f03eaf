"""Heads trained shard by shard against the same heads trained in memory, on the demo."""

from __future__ import annotations

import time

import numpy as np
from sklearn.metrics import log_loss

from pipeline import extract, load_dataset
from pipeline.heads import get_head
from pipeline.streaming import STREAMED, fit_streamed

TITLE = "Training on more than memory holds"
SEEDS = 3


def measure() -> str:
    """Train both ways on the same splits, and judge both on test."""
    lines = [
        f"Mean over {SEEDS} seeds, each with splits of its own; parameters chosen on validation.",
        "",
        "| head | accuracy, streamed | in memory | log loss, streamed | in memory "
        "| CPU-s, streamed | in memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for head in STREAMED:
        found = np.mean([both_ways(head, seed) for seed in range(SEEDS)], axis=0)
        (right, loss, seconds), (right_whole, loss_whole, seconds_whole) = found
        lines.append(
            f"| {head} | {right:.3f} | {right_whole:.3f} | {loss:.3f} | {loss_whole:.3f} "
            f"| {seconds:.1f} | {seconds_whole:.1f} |"
        )
    return "\n".join(lines)


def both_ways(head: str, seed: int) -> list[tuple[float, float, float]]:
    """Return accuracy and log loss on test, and CPU seconds: streamed, and in memory."""
    extraction = extract(load_dataset("demo", seed=seed))
    dataset = extraction.dataset
    rows = extraction.rows().reshape(len(dataset), -1)
    train, held_out, test = map(dataset.where, ("train", "validation", "test"))
    truth = dataset.labels
    found = []
    for way in ("streamed", "in memory"):
        started = time.process_time()
        if way == "streamed":
            fitted = fit_streamed(head, extraction.store, dataset, seed=seed)
        elif get_head(head).early_stopping:
            unseen = (rows[held_out], truth[held_out])
            built = get_head(head).build(seed)
            fitted = built.fit(rows[train], truth[train], validation_data=unseen)
        else:
            grid = get_head(head).grid
            losses = [
                log_loss(
                    truth[held_out],
                    get_head(head)
                    .build(seed, **one)
                    .fit(rows[train], truth[train])
                    .predict_proba(rows[held_out]),
                )
                for one in grid
            ]
            both = np.concatenate([train, held_out])
            best = get_head(head).build(seed, **grid[int(np.argmin(losses))])
            fitted = best.fit(rows[both], truth[both])
        seconds = time.process_time() - started
        probabilities = fitted.predict_proba(rows[test])
        right = float((probabilities.argmax(axis=1) == truth[test]).mean())
        found.append((right, float(log_loss(truth[test], probabilities)), seconds))
    return found
