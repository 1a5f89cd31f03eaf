"""What each part of a picture adds to a class's log-odds, by any classifier of pictures.

LIME: M. Ribeiro, S. Singh, C. Guestrin, *Why should I trust you? Explaining the predictions of any
classifier*, KDD 2016, on a grid of parts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.metrics import log_odds

Pictures = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

_PARTS = 5  # along each side
_PICTURES = 128  # how much maps of other draws differ: docs/decisions/0025
_AT_ONCE = 8
_RIDGE = 5.0

MIDDLES: Floats = (np.arange(_PARTS) + 0.5) / _PARTS
"""Where the parts lie, as shares of the picture's side."""


def lime(picture: Pictures, classify: Callable[[Pictures], Floats]) -> Floats:
    """Show half of a picture's parts at a time, and learn what each adds to the log-odds.

    The other parts have the picture's mean colour. The same picture has the same values each time.

    Parameters
    ----------
    picture : ndarray of uint8, shape (size, size, 3)
    classify : callable
        Gives the class's probability, shape (n,), of pictures of shape (n, size, size, 3).

    Returns
    -------
    ndarray of float64, shape (5, 5)
        From the top left.
    """
    colour = picture.mean(axis=(0, 1), dtype=np.float32)
    order = np.random.default_rng(0).random((_PICTURES // 2, _PARTS**2)).argsort(axis=1)
    half = order < _PARTS**2 // 2
    shown = np.concatenate([half, ~half]).astype(np.float32)
    at = (np.arange(len(picture)) + 0.5) / len(picture)
    # Parts fade into each other: an edge would be a thing to see by itself.
    fading = np.stack([np.interp(at, MIDDLES, part) for part in np.eye(_PARTS, dtype=np.float32)])
    p = []
    for some in np.array_split(shown.reshape(-1, _PARTS, _PARTS), _PICTURES // _AT_ONCE):
        visible = np.einsum("nij,ia,jb->nab", some, fading, fading)[..., None]
        p.append(classify(np.rint(colour + (picture - colour) * visible).astype(np.uint8)))
    odds = log_odds(np.concatenate(p))
    centred = shown - shown.mean(axis=0)
    system = centred.T @ centred + _RIDGE * np.eye(_PARTS**2)
    return np.linalg.solve(system, centred.T @ (odds - odds.mean())).reshape(_PARTS, _PARTS)
