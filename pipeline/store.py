"""The feature store: immutable HDF5 shards, each named by the SHA-256 of its bytes.

A shard is written once, under a temporary name, and renamed when it is safely on disk. A reader
hashes a shard's bytes before it believes any of them. So there is nothing to lock, nothing to
append to and nothing to repair: a row is there and right, or it is missing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import math
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.errors import StoreError
from pipeline.recipe import SCHEMA, Recipe, newer

Key = tuple[bytes, int]
"""What names a row: the SHA-256 digest of the image file's bytes, and the view's number."""

ROWS_PER_SHARD = 256
"""What a writer puts into one shard: seconds of work, and some megabytes of rows."""

_CHUNK_BYTES = 2**19
_GZIP_LEVEL = 4  # docs/decisions/0002: as small as Zstandard here, and every HDF5 reader has it
_GZIP_BEST = 1100  # DEFLATE cannot shrink anything more than about 1,032 times
_STALE_SECONDS = 3600.0


@dataclass(frozen=True)
class Damaged:
    """A shard that was set aside, and why."""

    name: str
    reason: str


class _DamagedShardError(Exception):
    """The file is not a shard that this store wrote."""


class FeatureStore:
    """The rows of one recipe, in one folder of the cache.

    Parameters
    ----------
    cache : Path
        The cache folder; the store lies in a folder of it that is named after the recipe.
    recipe : Recipe
        What made the rows.

    Attributes
    ----------
    folder : Path
        Where the shards lie. Made by the first `write`.
    damaged : list of Damaged
        Shards found damaged so far. They were renamed to end in ``.damaged``; their rows
        count as missing.

    Raises
    ------
    StoreError
        The store is of a newer schema, its recipe file is damaged, or it cannot be read.
    """

    def __init__(self, cache: Path, recipe: Recipe) -> None:
        self.recipe = recipe
        self.folder = Path(cache) / recipe.name
        self.damaged: list[Damaged] = []
        self._rows: dict[Key, tuple[str, int]] = {}
        self._shards: set[str] = set()
        self.refresh()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def refresh(self) -> None:
        """Take in the shards that were added since the store was opened."""
        recipe_file = self.folder / "recipe.json"
        with _storage_errors(self.folder, "read"):
            if not self.folder.is_dir():
                return
            if recipe_file.exists():
                Recipe.from_json(recipe_file.read_text(), source=str(recipe_file))
            names = sorted(path.name for path in self.folder.glob("*.h5"))
        for name in names:
            if name in self._shards:
                continue
            with self._shard(name) as shard:
                if shard is None:
                    continue
                self._shards.add(name)
                digests = [bytes(digest) for digest in shard["digest"][:]]
                for row, key in enumerate(zip(digests, shard["view"][:].tolist(), strict=True)):
                    self._rows.setdefault(key, (name, row))

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Return those of `keys` that have no row, each once, in their order."""
        return list(dict.fromkeys(key for key in keys if key not in self._rows))

    def read(self, keys: Sequence[Key]) -> npt.NDArray[np.float32]:
        """Read rows.

        Parameters
        ----------
        keys : sequence of Key
            The rows wanted; a key may stand there more than once.

        Returns
        -------
        ndarray of float32, shape (len(keys), height, width, channels)
            The rows, in the order of `keys`.

        Raises
        ------
        StoreError
            A row is not there, or its shard turned out to be damaged.
        """
        self._require(keys)
        wanted: dict[str, list[tuple[int, int]]] = {}
        for place, key in enumerate(keys):
            name, row = self._rows[key]
            wanted.setdefault(name, []).append((place, row))
        rows = np.empty((len(keys), *self.recipe.shape), np.float32)
        for name, pairs in wanted.items():
            places, numbers = np.array(pairs).T
            with self._shard(name) as shard:
                if shard is None:
                    continue
                rows[places] = shard["features"][:][numbers]
        self._require(keys)
        return rows

    def write(self, keys: Sequence[Key], rows: npt.NDArray[np.float32]) -> str:
        """Commit rows as one new shard: when this returns, they are on disk for good.

        Parameters
        ----------
        keys : sequence of Key
            Names of the rows, all different.
        rows : ndarray of float32, shape (len(keys), height, width, channels)
            The rows.

        Returns
        -------
        str
            The shard's file name.

        Raises
        ------
        StoreError
            The shard could not be written. Nothing that was there before is touched.
        """
        if len(set(keys)) != len(keys) or not keys:
            raise ValueError("keys must be different from each other, and at least one")
        if rows.shape != (len(keys), *self.recipe.shape) or rows.dtype != np.float32:
            raise ValueError(f"rows must be float32 {(len(keys), *self.recipe.shape)}")
        image = self._to_hdf5(keys, rows)
        name = f"{hashlib.sha256(image).hexdigest()}.h5"
        with _storage_errors(self.folder, "write"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_stale_files()
            if not (self.folder / "recipe.json").exists():
                _publish(self.folder / "recipe.json", self.recipe.to_json().encode())
            _publish(self.folder / name, image)
        self._shards.add(name)
        for row, key in enumerate(keys):
            self._rows.setdefault(key, (name, row))
        return name

    def _require(self, keys: Iterable[Key]) -> None:
        absent = len(self.missing(keys))
        if absent:
            damage = "".join(f" {bad.name} is damaged: {bad.reason}." for bad in self.damaged)
            raise StoreError(
                f"{absent} of the rows asked for are not in {self.folder}.{damage}",
                fix="run the same command again, or `pipeline features`: it makes them",
            )

    def _to_hdf5(self, keys: Sequence[Key], rows: npt.NDArray[np.float32]) -> bytes:
        digests = np.frombuffer(b"".join(digest for digest, _ in keys), np.uint8)
        with h5py.File("shard", "w", driver="core", backing_store=False) as shard:
            shard.attrs["schema"] = SCHEMA
            shard.attrs["fingerprint"] = self.recipe.fingerprint
            shard.create_dataset(
                "features",
                data=rows,
                chunks=self._chunks(len(keys)),
                compression="gzip",
                compression_opts=_GZIP_LEVEL,
            )
            shard["digest"] = digests.reshape(len(keys), 32)
            shard["view"] = np.array([view for _, view in keys], np.uint16)
            shard.flush()
            image: bytes = shard.id.get_file_image()
        return image

    def _chunks(self, rows: int) -> tuple[int, ...]:
        row_bytes = 4 * math.prod(self.recipe.shape)
        return (min(rows, max(1, _CHUNK_BYTES // row_bytes)), *self.recipe.shape)

    @contextlib.contextmanager
    def _shard(self, name: str) -> Iterator[h5py.File | None]:
        """Open a shard that was verified, or set it aside and give None."""
        path = self.folder / name
        shard = None
        with _storage_errors(path, "read"):
            try:
                image = path.read_bytes()
                shard = self._verified(image, name)
            except FileNotFoundError:
                self._forget(name)
            except _DamagedShardError as damage:
                self._forget(name)
                self.damaged.append(Damaged(name, str(damage)))
                # On a cache that is read-only it stays where it is, and is not believed either.
                with contextlib.suppress(OSError):
                    path.rename(path.with_suffix(".damaged"))
        try:
            yield shard
        finally:
            if shard is not None:
                shard.close()

    def _verified(self, image: bytes, name: str) -> h5py.File:
        if f"{hashlib.sha256(image).hexdigest()}.h5" != name:
            raise _DamagedShardError("its bytes do not have the SHA-256 that is its name")
        try:
            shard = h5py.File(io.BytesIO(image), "r")
        except OSError as error:
            raise _DamagedShardError(f"not an HDF5 file ({error})") from error
        try:
            self._check_contents(shard, name, len(image))
        except (_DamagedShardError, StoreError):
            shard.close()
            raise
        except Exception as error:  # h5py raises many kinds for a file made to harm
            shard.close()
            raise _DamagedShardError(f"not a feature shard ({error})") from error
        return shard

    def _check_contents(self, shard: h5py.File, name: str, image_bytes: int) -> None:
        """Refuse what this store did not write, before any row is read.

        A shard's name vouches for its bytes, not for whoever made them: links, external or
        virtual storage could read other files or serve zeros, and a huge shape fill memory.
        """
        schema = int(shard.attrs["schema"])
        if schema > SCHEMA:
            raise newer(str(self.folder / name), schema)
        if shard.attrs["fingerprint"] != self.recipe.fingerprint:
            raise _DamagedShardError("it belongs to another recipe's store")
        for dataset in ("features", "digest", "view"):
            if not isinstance(shard.get(dataset, getlink=True), h5py.HardLink):
                raise _DamagedShardError(f"it has no {dataset} of its own")
            plist = shard[dataset].id.get_create_plist()
            if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
                raise _DamagedShardError(f"{dataset} lies outside the file")
        features, digest, view = shard["features"], shard["digest"], shard["view"]
        rows = len(features)
        shapes = (features.shape, digest.shape, view.shape)
        if rows < 1 or shapes != ((rows, *self.recipe.shape), (rows, 32), (rows,)):
            raise _DamagedShardError(f"its arrays have the shapes {shapes}")
        if (features.dtype, digest.dtype, view.dtype) != (np.float32, np.uint8, np.uint16):
            raise _DamagedShardError("its arrays have other types")
        if features.nbytes + digest.nbytes + view.nbytes > image_bytes * _GZIP_BEST:
            raise _DamagedShardError("it declares more rows than its bytes can hold")
        chunks = self._chunks(rows)
        if features.chunks != chunks or features.id.get_num_chunks() != -(-rows // chunks[0]):
            raise _DamagedShardError("parts of its rows are missing")

    def _forget(self, name: str) -> None:
        self._shards.discard(name)
        self._rows = {key: place for key, place in self._rows.items() if place[0] != name}

    def _remove_stale_files(self) -> None:
        """Clear away what writers that were killed left behind."""
        for path in self.folder.glob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()


def _publish(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole and for good, or not at all."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def _storage_errors(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fix = "name another cache with --cache, or see to the folder's permissions"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "make room on the disk and run the same command again: it goes on where it was"
        raise StoreError(
            f"cannot {what} {path}: {error.strerror or error}.",
            expected="a cache folder that can be read and written",
            fix=fix,
        ) from error
