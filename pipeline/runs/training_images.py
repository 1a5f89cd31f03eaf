"""Which images a run's models learned from, or were chosen by: new ones are told from them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

from pipeline.data.dataset import Dataset
from pipeline.data.packed import distinct, packed
from pipeline.evaluation.protocol import Protocol
from pipeline.runs.reading import run_of
from pipeline.system.files import read_regular

_FILE = "trained-on.bin"
_MOST_BYTES = 2**30
_LENGTH = 32  # bytes of a digest


def write_training_images(dataset: Dataset, protocol: Protocol, folder: Path) -> None:
    """Write the digests of these images, sorted, into a run's folder."""
    if protocol.cv is None:  # else the model that is kept was fitted to all images
        dataset = dataset.take(dataset.where("train", "validation"))
    (folder / _FILE).write_bytes(distinct(packed(dataset.digests)).tobytes())


def training_images(model: Path) -> Callable[[bytes], bool]:
    """Return what tells whether a run, or a model in it, knows an image with this digest.

    Of a model without a run, and of runs that were made before this was kept, no image is known.
    """
    try:
        run = run_of(model)
        content = read_regular(run / _FILE, _MOST_BYTES) if run else b""
    except OSError:
        content = b""
    places = range(len(content) // _LENGTH)

    def digest_at(place: int) -> bytes:
        return content[place * _LENGTH : (place + 1) * _LENGTH]

    def is_known(digest: bytes) -> bool:
        place = bisect_left(places, digest, key=digest_at)
        return digest_at(place) == digest

    return is_known
