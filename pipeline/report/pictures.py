"""The pictures of a run's page: taken from its data set, and kept in its folder.

Drawing a page opens no file outside the run's folder: a stranger may have written the paths in a
run, and a file may have been moved or replaced since. Whoever has the data set takes the pictures,
each only if its file's bytes have the digest that the data set was listed with.
"""

from __future__ import annotations

from pipeline.data.dataset import Dataset
from pipeline.data.decoding import VERSION
from pipeline.data.digests import read_image
from pipeline.data.images import thumbnail
from pipeline.data.urls import Location, Unopened
from pipeline.errors import PipelineError
from pipeline.report import mistakes, problems
from pipeline.runs.documents import NOT_KEPT, KeptPicture, PicturesDocument
from pipeline.runs.reading import Record

SIDE = 320
"""Longer side of a picture, in pixels: twice that of its box, as it can be enlarged."""


def take_pictures(record: Record, dataset: Dataset | None) -> PicturesDocument:
    """Return the pictures that a run's page shows: those kept, and those of a data set."""
    wanted = dict.fromkeys([*mistakes.shown(record), *problems.shown(record)])
    kept = record.pictures
    images = {path: kept.images[path] for path in wanted if path in kept.images}
    missing = {path: kept.missing.get(path, NOT_KEPT) for path in wanted if path not in images}
    decoding = str(record.document.recipe.get("decoding", VERSION))
    for location, digest in zip(dataset.paths, dataset.digests) if dataset else ():
        path = str(location)
        if path in missing and not isinstance(location, Unopened):
            try:
                images[path] = _take(location, digest, decoding)
                del missing[path]
            except PipelineError as error:  # also where nobody answers: a page is made all the same
                missing[path] = error.found
        elif path in images and images[path].sha256 != digest.hex():
            missing[path] = "two images of this run have had its name"
            del images[path]
    return PicturesDocument(
        images={path: images[path] for path in wanted if path in images}, missing=missing
    )


def _take(location: Location, digest: bytes, decoding: str) -> KeptPicture:
    content, _ = read_image(location, digest)
    return KeptPicture(sha256=digest.hex(), jpeg=thumbnail(content, SIDE, decoding))
