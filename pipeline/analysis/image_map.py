"""All images of a data set as points on a plane, alike ones side by side: t-SNE, kept in the cache.

L. van der Maaten, G. Hinton, *Visualizing data using t-SNE*, Journal of Machine Learning Research
9, 2008, from principal components, by interpolation (G. Linderman and others, Nature Methods 16,
2019). openTSNE takes 13 MB; UMAP takes 210 MB with its compiler, and longer.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.analysis.neighbours import most_similar
from pipeline.analysis.reduction import Reduced, finest_store, reduced_rows
from pipeline.data.packed import distinct, packed
from pipeline.errors import PipelineError
from pipeline.features.extractor import Extraction
from pipeline.system.files import clear_unfinished, read_regular, write_file
from pipeline.system.packages import install_hint

Points = npt.NDArray[np.float32]

_VERSION = b"tsne 2"
_MOST = 10_000  # images that are laid out; of more, the others are put beside those most like them
_COMPONENTS = 50
_PERPLEXITY = 15
# Iterations: as many neighbours stay, and are of one class, as after 250 and 500.
_EARLY, _LATE = 125, 200
_NEAREST = 3


def map_images(extraction: Extraction, *, seed: int = 0) -> Points:
    """Lay the images of a data set out on a plane, shape (n, 2), centred, from -1 to 1.

    The map is kept beside the rows in the cache, named by the images' digests, so that it is made
    once. The same images have the same map, whatever their order, names and labels, by every layer
    where the cache has that; copies of a file are at one place. 10,000 images take some ten
    seconds.

    Parameters
    ----------
    extraction : Extraction
        The images and their rows, as from `pipeline.extract`.
    seed : int
        Random seed.

    Raises
    ------
    PipelineError
        openTSNE is not installed, or rows are not there any more.
    """
    digests = distinct(packed(extraction.dataset.digests))
    key = hashlib.sha256(_VERSION + b"%d" % seed + digests.tobytes()).hexdigest()
    file = finest_store(extraction).folder / f"map-{key[:16]}.bin"
    points = _read(file, len(digests))
    if points is None:
        points = _lay_out(_rows_of(extraction, digests, seed), seed)
        _write(file, points)
    return points[_places(extraction, digests)]


def check_installed() -> None:
    """Refuse to begin where the package that makes maps is missing."""
    if importlib.util.find_spec("openTSNE") is None:
        raise _not_installed()


def _not_installed() -> PipelineError:
    fix = install_hint("openTSNE")
    return PipelineError("a map of the images needs the package openTSNE.", fix=fix)


def _places(extraction: Extraction, digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Tell which of the sorted digests each image has."""
    known, own = (
        np.ascontiguousarray(each).view("S32").ravel()
        for each in (digests, packed(extraction.dataset.digests))
    )
    places: npt.NDArray[np.intp] = np.searchsorted(known, own)
    return places


def _rows_of(extraction: Extraction, digests: npt.NDArray[np.uint8], seed: int) -> Reduced:
    """Give the first components of each file's row, in the order of the digests."""
    _, first = np.unique(_places(extraction, digests), return_index=True)
    return reduced_rows(extraction, places=first, seed=seed)[:, :_COMPONENTS]


def _lay_out(rows: Reduced, seed: int) -> Points:
    drawn = np.sort(np.random.default_rng(seed).permutation(len(rows))[:_MOST])
    points = np.empty((len(rows), 2), np.float32)
    points[drawn] = _tsne(rows[drawn], seed)
    others = np.setdiff1d(np.arange(len(rows)), drawn)
    if len(others):
        nearest = most_similar(rows[others], [(rows[drawn], drawn)], _NEAREST)
        weights = np.maximum(nearest.similarities, 1e-3)
        weights /= weights.sum(axis=1, keepdims=True)
        points[others] = np.einsum("ij,ijk->ik", weights, points[nearest.places])
    points -= points.mean(axis=0)
    return points / (np.abs(points).max() or 1)


def _tsne(rows: Reduced, seed: int) -> npt.NDArray[np.float64]:
    try:
        from openTSNE import TSNEEmbedding, affinity
    except ImportError as error:
        raise _not_installed() from error
    start = np.zeros((len(rows), 2))
    start[:, : rows.shape[1]] = rows[:, :2]
    if len(rows) < 5:  # too few for neighbours
        return start
    start *= 1e-4 / (start[:, 0].std() or 1)
    # In one thread: in several, sums are in another order each time, and so are the points.
    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    near = affinity.PerplexityBasedNN(
        rows, perplexity=perplexity, method="exact", n_jobs=1, random_state=seed
    )
    embedding = TSNEEmbedding(
        start, near, negative_gradient_method="fft", n_jobs=1, random_state=seed
    )
    embedding = embedding.optimize(_EARLY, exaggeration=12, momentum=0.5)
    return np.asarray(embedding.optimize(_LATE, momentum=0.8))


def _write(file: Path, points: Points) -> None:
    """Keep a map, where that is possible."""
    content = points.astype("<f4").tobytes()
    with contextlib.suppress(OSError):
        clear_unfinished(file.parent)
        write_file(file, hashlib.sha256(content).digest() + content)


def _read(file: Path, count: int) -> Points | None:
    """Read a map, None if it is not there or damaged."""
    with contextlib.suppress(OSError):
        stored = read_regular(file, 32 + 8 * count)
        checksum, content = stored[:32], stored[32:]
        if len(content) == 8 * count and checksum == hashlib.sha256(content).digest():
            return np.frombuffer(content, "<f4").astype(np.float32).reshape(count, 2)
    return None
