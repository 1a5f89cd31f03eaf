"""Computing the rows that stores lack."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

from pipeline.backbones.running import Forward
from pipeline.data.dataset import Dataset, Quarantined, either, first_fix, shorten
from pipeline.data.urls import Location
from pipeline.errors import DataError, ImageError
from pipeline.features.computing import Commit, ImageViews
from pipeline.features.joint import JointStore
from pipeline.features.listener import Listener

_IMAGES_LOOKED_UP = 1024


class Filling:
    """Computes the rows that stores lack.

    Attributes
    ----------
    made : int
        Number of rows computed.
    refused : dict of bytes to ImageError
        Digests of the images that could not be read, and why.
    """

    def __init__(
        self, forward: Forward, total: int, listener: Listener, commit: Commit, *, strict: bool
    ) -> None:
        self.made = 0
        self.refused: dict[bytes, ImageError] = {}
        self._done = 0  # computed, or given up
        self._forward = forward
        self._commit = commit
        self._total = total
        self._listener = listener
        self._strict = strict

    def fill(self, store: JointStore, images: Iterable[tuple[Location, bytes, range]]) -> None:
        """Compute the rows of the images' views that a store lacks, and commit them."""
        requests = self._requests(store, images)
        # Closed at once when interrupted, not when it is forgotten: what was computed is kept.
        with contextlib.closing(self._commit(store, requests, self._forward)) as batches:
            for batch in batches:
                for request, refusal in batch:
                    self._note(request, refusal)
                self._listener.rows_made(self._done, self._total)

    def readable(self, dataset: Dataset) -> Dataset:
        """Return a data set less the images that were refused."""
        return dataset.without(
            [
                Quarantined.by(path, self.refused[digest])
                for path, digest in zip(dataset.paths, dataset.digests)
                if digest in self.refused
            ]
            if self.refused
            else ()
        )

    def _requests(
        self, store: JointStore, images: Iterable[tuple[Location, bytes, range]]
    ) -> Iterator[ImageViews]:
        """Yield the work one image at a time: a list of it all would be as long as the data."""
        prepared = False
        begun: set[bytes] = set()
        for path, digest, views in _lacking(store, images):
            if digest in begun:
                continue
            begun.add(digest)
            if digest in self.refused:
                self._done += len(views)
                continue
            if not prepared:
                prepared = True
                store.prepare()
                self._listener.rows_made(self._done, self._total)
            yield ImageViews(path, digest, views)

    def _note(self, request: ImageViews, refusal: ImageError | None) -> None:
        assert request.digest is not None  # noqa: S101 -- for the type checker: _requests gives it
        self._done += len(request.views)
        if refusal is None:
            self.made += len(request.views)
            return
        self.refused[request.digest] = refusal
        if self._strict:
            refuse([Quarantined.by(request.path, refusal)])


def refuse(quarantined: Sequence[Quarantined]) -> None:
    """Raise a `DataError` that names the files, if there are any."""
    if quarantined:
        count = "1 file" if len(quarantined) == 1 else f"{len(quarantined):,} files"
        files = shorten(f"{bad.path}: {bad.reason}" for bad in quarantined)
        raise DataError(
            f"{count} cannot be used: {files}",
            fix=either(
                first_fix(quarantined),
                "mend or remove them, or leave out --strict to go on without them",
            ),
        )


def _lacking(
    store: JointStore, images: Iterable[tuple[Location, bytes, range]]
) -> Iterator[tuple[Location, bytes, tuple[int, ...]]]:
    """Yield the images that a store lacks views of, and which; many are looked up at once."""
    images = iter(images)
    while block := list(itertools.islice(images, _IMAGES_LOOKED_UP)):
        wanted = ((digest, view) for _, digest, views in block for view in views)
        missing = set(store.missing(wanted))
        for path, digest, views in block:
            if lacking := tuple(view for view in views if (digest, view) in missing):
                yield path, digest, lacking
