"""Rows, labels and data sets with known properties."""

import hashlib
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from pipeline.data.dataset import Dataset
from pipeline.data.targets import Targets


def photographs(count, seed=0):
    """Make rows as VGG16 makes them of different photographs: sparse, and not similar."""
    rng = np.random.default_rng(seed)
    rows = rng.exponential(size=(count, 4, 4, 32)) * (rng.random((count, 4, 4, 32)) < 0.1)
    return rows.astype(np.float32)


def changed(row, by, seed=0):
    """Change a row so that its distance (1 - cosine) to what it was is about `by`."""
    noise = np.random.default_rng(seed).normal(size=row.shape)
    return (row + noise * np.linalg.norm(row) / np.linalg.norm(noise) * (2 * by) ** 0.5).astype("f")


def overlapping(count, classes=2, distance=3.0, seed=0):
    """Make rows of classes that a linear classifier separates nearly always, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    rows = rng.normal(size=(count, 1, 1, 8))
    rows[np.arange(count), 0, 0, labels] += distance
    return rows.astype(np.float32), labels


def digests(count):
    return [hashlib.sha256(b"%d" % number).digest() for number in range(count)]


def splits(*counts):
    return np.repeat(["train", "validation", "test"], counts)


def make_dataset(labels, where, classes=("cat", "dog"), groups=()):
    count = len(labels)
    return Dataset(
        name="photos",
        paths=tuple(Path(f"{number}.png") for number in range(count)),
        digests=tuple(digests(count)),
        targets=Targets(np.asarray(labels, np.int64), classes),
        splits=where,
        groups=groups,
    )


def ends(pairs):
    return [(pair.first, pair.second) for pair in pairs]


def logistic(seed):
    return LogisticRegression(C=1.0, random_state=seed)


class Recorder:
    """A classifier that appends the rows it is trained on, and predicts for, to a list."""

    def __init__(self, fits):
        self.fits = fits

    def fit(self, rows, labels):
        self.classes_ = np.unique(labels)
        self.trained = list(rows)
        return self

    def predict_proba(self, rows):
        self.fits.append((self.trained, list(rows)))
        return np.full((len(rows), len(self.classes_)), 1 / len(self.classes_))

    def predict(self, rows):
        return self.classes_[self.predict_proba(rows).argmax(axis=1)]
