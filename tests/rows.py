"""The heads by name, and rows that resemble features."""

import hashlib

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

NAMES = [
    "logistic",
    "ridge",
    "lda",
    "linear-svm",
    "rbf-svm",
    "knn",
    "random-forest",
    "mlp",
    "dense",
]
SKLEARN = NAMES[:-1]


def rows_like_features(n, k, d=128, seed=0):
    """Sparse, non-negative rows of k classes that partly overlap."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    centres = np.random.default_rng(99).exponential(size=(k, d))
    X = rng.exponential(size=(n, d)) * centres[y] * (rng.random((n, d)) < 0.3)
    return X.astype(np.float32), y


def rows_in_views(n, k, views, d=128):
    """Rows of images and, for each, rows near to it: `X`, `y` and which image each row shows."""
    X, y = rows_like_features(n, k, d)
    noise = np.random.default_rng(3).random((views, *X.shape), dtype=np.float32) * 0.05
    return (
        np.concatenate(X + noise * X),
        np.tile(y, views),
        np.tile(np.arange(n), views),
    )


def two_columns(p):
    """Make the probabilities of two classes from those of the second."""
    p = np.asarray(p, dtype=float)
    return np.stack([1 - p, p], axis=1)


def calibrated_svm():
    """Make a linear SVM behind a scaler, calibrated together."""
    return CalibratedClassifierCV(make_pipeline(StandardScaler(), LinearSVC()))


def calibrated_logistic():
    """Make a logistic regression behind a scaler, calibrated together."""
    return CalibratedClassifierCV(make_pipeline(StandardScaler(), LogisticRegression()))


def noisy(pixels):
    """Rows of which no two are alike, and whose first values tell the colour."""
    rows = []
    for image in pixels:
        rng = np.random.default_rng(list(hashlib.sha256(image.tobytes()).digest()))
        row = rng.exponential(size=(2, 2, 512)) * (rng.random((2, 2, 512)) < 0.1)
        row[..., :3] += image.mean(axis=(0, 1)) / 20
        rows.append(row)
    return np.stack(rows).astype(np.float32)
