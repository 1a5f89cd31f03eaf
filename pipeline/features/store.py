"""The feature store: immutable HDF5 shards, each named by the SHA-256 of its bytes.

A shard is written once, under a temporary name, and renamed when it is safely on disk. A reader
hashes a shard's bytes before it believes any of them. So there is nothing to lock, nothing to
append to and nothing to repair: a row is there and right, or it is missing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import math
import stat
import time
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import SCHEMA, Recipe, newer
from pipeline.data.digests import CACHE as CACHE
from pipeline.errors import StoreError
from pipeline.features.index import Index
from pipeline.features.keys import Key, Keys
from pipeline.features.shard import (
    CHUNK_BYTES,
    GZIP_BEST,
    GZIP_LEVEL,
    DamagedShardError,
    Part,
    Shard,
    is_plain,
)
from pipeline.system.files import UNFINISHED, make_folder, write_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ROWS_PER_SHARD = 256
"""What a writer puts into one shard: seconds of work, and some megabytes of rows."""
_SHARD_BYTES = 2**26  # of raw rows
_STALE_SECONDS = 3600.0
_SHARDS_AT_ONCE = 128
_MOST_ROWS = 16 * ROWS_PER_SHARD  # a larger file is no shard, and is not read into memory


@contextlib.contextmanager
def storage_errors(path: Path, action: str) -> Iterator[None]:
    """Turn an error of the system into a `StoreError`; `action` is "read" or "write"."""
    try:
        yield
    except MemoryError as error:
        raise StoreError(
            f"not enough memory to {action} {path}.", fix="close other programs, and run it again"
        ) from error
    except OSError as error:
        fix = "name another cache with --cache, or check the folder's permissions"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "make room on the disk and run the same command again: it goes on where it was"
        raise StoreError(
            f"cannot {action} {path}: {error.strerror or error}.",
            expected="a cache folder that can be read and written",
            fix=fix,
        ) from error


@dataclass(frozen=True)
class Damaged:
    """A shard that was set aside, and why."""

    name: str
    reason: str


def open_stores(cache: Path) -> Iterator[FeatureStore | StoreError]:
    """Open every store of a cache, in the order of their names.

    Yields
    ------
    FeatureStore or StoreError
        The store, or why it cannot be opened: one bad store must not hide the others.
    """
    files = (file for name in ("*/recipe.json", "*/*.h5") for file in Path(cache).glob(name))
    for folder in sorted({file.parent for file in files}):
        try:
            yield FeatureStore.at(folder)
        except StoreError as error:
            yield error


class FeatureStore:
    """The rows of one recipe, in one folder of the cache.

    Parameters
    ----------
    cache : Path
        The cache folder; the store lies in a folder of it that is named after the recipe.
    recipe : Recipe
        What made the rows.
    index : bool
        False leaves out what is there: such a store knows only of rows that it wrote itself, and
        is opened in no time, to write.

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

    def __init__(self, cache: Path, recipe: Recipe, *, index: bool = True) -> None:
        self.recipe = recipe
        self.folder = Path(cache) / recipe.name
        self.damaged: list[Damaged] = []
        self._index = Index()  # the shard itself tells where in it a row is
        if index:
            self.refresh()

    @classmethod
    def at(cls, folder: Path) -> FeatureStore:
        """Open the store that lies in a folder, by the recipe that is written there.

        Raises
        ------
        StoreError
            There is no recipe, it is damaged, or the folder was renamed.
        """
        with storage_errors(folder, "read"):
            text = (folder / "recipe.json").read_text("utf-8", errors="replace")
        recipe = Recipe.from_json(text, source=str(folder / "recipe.json"))
        if recipe.name != folder.name:
            raise StoreError(
                f"the store {folder} was renamed.", expected=f"its own name, {recipe.name}"
            )
        return cls(folder.parent, recipe)

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._index)

    @property
    def shards(self) -> int:
        """Number of shards that are whole."""
        return len(self._index.shards)

    @property
    def names(self) -> list[str]:
        """File names of the shards that are whole, in the order in which they were taken in."""
        return list(self._index.shards)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        size = 0
        for path in self.folder.glob("*.h5"):
            with contextlib.suppress(FileNotFoundError):  # pruned a moment ago
                size += path.stat().st_size
        return size

    @property
    def rows_per_shard(self) -> int:
        """How many rows a writer puts into one shard: few where rows are large."""
        return max(1, min(ROWS_PER_SHARD, _SHARD_BYTES // self._row_bytes))

    def __contains__(self, key: Key) -> bool:
        return not self.missing([key])

    def refresh(self) -> None:
        """Take in the shards that were added since the store was opened."""
        recipe_file = self.folder / "recipe.json"
        with storage_errors(self.folder, "read"):
            if not self.folder.is_dir():
                return
            if recipe_file.exists():
                text = recipe_file.read_text("utf-8", errors="replace")
                Recipe.from_json(text, source=str(recipe_file))
            names = sorted(path.name for path in self.folder.glob("*.h5"))
        self.take_in(names)

    def take_in(self, names: Iterable[str]) -> list[str]:
        """Take in shards that others wrote; return the names of those absent or damaged."""
        out = []
        new = (name for name in names if name not in self._index.shards)
        while block := list(itertools.islice(new, _SHARDS_AT_ONCE)):
            loaded = {name: self._load(name, Shard.keys) for name in block}
            self._index.add([(name, keys) for name, keys in loaded.items() if keys is not None])
            out += [name for name, keys in loaded.items() if keys is None]
        return out

    def verify(self) -> None:
        """Read and check every byte of every shard again; what is bad joins `damaged`."""
        self._index.clear()
        self.refresh()

    def prune(self, wanted: Container[bytes]) -> tuple[int, int]:
        """Drop the rows of images that nobody wants, and merge small shards.

        New shards are committed before old ones are removed: killed in between, no row is lost.

        Parameters
        ----------
        wanted : container of bytes
            Digests of the images whose rows stay, in all their views.

        Returns
        -------
        tuple of int
            Number of rows dropped, and number of shards less than before.
        """
        with storage_errors(self.folder, "write"), _only_one(self.folder / ".prune"):
            self.verify()  # to see what another pruning has left
            return self._prune(wanted)

    def _prune(self, wanted: Container[bytes]) -> tuple[int, int]:
        rows_before, shards_before = len(self), self.shards
        kept: dict[str, list[Key]] = {name: [] for name in self._index.shards}
        for key, name in self._index.find(self):
            if name and key[0] in wanted:
                kept[name].append(key)
        small = [name for name, keys in kept.items() if len(keys) < self.rows_per_shard // 2]
        old = {name for name, keys in kept.items() if len(keys) < self._index.shards[name]}
        old.update(small if len(small) > 1 else ())
        keys = [key for name in sorted(old) for key in kept[name]]
        for start in range(0, len(keys), self.rows_per_shard):
            part = keys[start : start + self.rows_per_shard]
            old.discard(self.write(part, self.read(part)))
        for name in old:
            (self.folder / name).unlink(missing_ok=True)
        self.verify()
        return rows_before - len(self), shards_before - self.shards

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Return those of `keys` that have no row, each once, in their order."""
        return list(dict.fromkeys(key for key, name in self._index.find(keys) if name is None))

    def count(self, keys: Keys) -> int:
        """Count how many of some rows, all different, are there."""
        return self._index.count(keys)

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
        wanted: dict[str, list[int]] = {}
        for place, (_, name) in enumerate(self._index.find(keys)):
            wanted.setdefault(name or "", []).append(place)
        rows = np.empty((len(keys), *self.recipe.shape), np.float32)
        for name, places in wanted.items():
            found = self._load(name, partial(Shard.rows_of, keys=[keys[place] for place in places]))
            if found is not None:
                rows[places] = found
        self._require(keys)
        return rows

    def prepare(self) -> None:
        """Make the folder ready to be written to: found out before long work, not after it.

        Raises
        ------
        StoreError
            The folder cannot be written to.
        """
        with storage_errors(self.folder, "write"):
            make_folder(self.folder)
            self._remove_stale_files()
            # Written anew each time: to have written is the only proof that writing works.
            write_file(self.folder / "recipe.json", self.recipe.to_json(), sync_folder=True)

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
        if len(keys) > _MOST_ROWS:
            raise ValueError(f"keys must be {_MOST_ROWS} or fewer")
        if rows.shape != (len(keys), *self.recipe.shape) or rows.dtype != np.float32:
            raise ValueError(f"rows must be float32 {(len(keys), *self.recipe.shape)}")
        image = self._to_hdf5(keys, rows)
        name = f"{hashlib.sha256(image).hexdigest()}.h5"
        if not (self.folder / "recipe.json").exists():
            self.prepare()
        with storage_errors(self.folder, "write"):
            write_file(self.folder / name, image, sync_folder=True)
        if name not in self._index.shards:
            self._index.add([(name, Keys.of(keys))])
        return name

    def stream(
        self, names: Iterable[str] | None = None
    ) -> Iterator[tuple[Keys, npt.NDArray[np.float32]]]:
        """Read all rows, each once, a shard at a time: memory holds no more than one.

        Parameters
        ----------
        names : iterable of str, optional
            The shards to read, in their order; the default is all, in the order of `names`.

        Yields
        ------
        keys : Keys
            Names of a shard's rows.
        rows : ndarray of float32, shape (len(keys), height, width, channels)
            The rows.
        """
        twice = sum(self._index.shards.values()) > len(self)
        for name in self.names if names is None else names:
            found = self._load(name, lambda shard: (shard.keys(), shard.rows()))
            if found is None:
                continue
            keys, rows = found
            if twice:  # what is in several shards comes from the one that `read` takes, too
                own = np.flatnonzero([held == name for _, held in self._index.find(keys)])
                keys, rows = keys.take(own), rows[own]
            yield keys, rows

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
        # A name of its own, which is not in its bytes: other threads may be writing, too.
        with h5py.File(uuid.uuid4().hex, "w", driver="core", backing_store=False) as shard:
            shard.attrs["schema"] = SCHEMA
            # Of fixed length: HDF5 never ends reading some texts that were made to harm.
            shard.attrs["fingerprint"] = np.bytes_(self.recipe.fingerprint)
            shard.create_dataset(
                "features",
                data=rows,
                chunks=self._chunks(len(keys)),
                compression="gzip",
                compression_opts=GZIP_LEVEL,
            )
            shard["digest"] = digests.reshape(len(keys), 32)
            shard["view"] = np.array([view for _, view in keys], np.uint16)
            shard.flush()
            image: bytes = shard.id.get_file_image()
        return image

    def _chunks(self, rows: int) -> tuple[int, ...]:
        return (min(rows, max(1, CHUNK_BYTES // self._row_bytes)), *self.recipe.shape)

    @property
    def _row_bytes(self) -> int:
        return 4 * math.prod(self.recipe.shape)

    def _load(self, name: str, part: Callable[[Shard], Part]) -> Part | None:
        """Read a part of a shard that was verified, or set the shard aside and give None."""
        path = self.folder / name
        image = None
        with storage_errors(path, "read"):
            try:
                image = self._image(path)
                return self._verified(image, name, part)
            except FileNotFoundError:
                self._index.forget(name)
            except DamagedShardError as damage:
                self._index.forget(name)
                self.damaged.append(Damaged(name, str(damage)))
                # On a cache that is read-only it stays where it is, and is not believed either.
                with contextlib.suppress(OSError):
                    _set_aside(path, image)
        return None

    def _image(self, path: Path) -> bytes:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DamagedShardError("not a regular file")
        if status.st_size > 2 * _MOST_ROWS * (self._row_bytes + 64) + 2 * CHUNK_BYTES:
            raise DamagedShardError(f"{status.st_size / 1e9:.1f} GB: larger than any shard")
        return path.read_bytes()

    def _verified(self, image: bytes, name: str, part: Callable[[Shard], Part]) -> Part:
        if f"{hashlib.sha256(image).hexdigest()}.h5" != name:
            raise DamagedShardError("its bytes do not have the SHA-256 that is its name")
        try:
            file = h5py.h5f.open_file_image(image)
        except MemoryError:  # says nothing of the shard
            raise
        except Exception as error:
            raise DamagedShardError(f"not an HDF5 file ({error})") from error
        try:
            self._check_attributes(file, name)
            shard = Shard.of(file)
            self._check_contents(shard, len(image))
            return part(shard)
        except (DamagedShardError, StoreError, MemoryError):
            raise
        except Exception as error:  # h5py raises many kinds for a file made to harm
            raise DamagedShardError(f"not a feature shard ({error})") from error
        finally:
            file.close()

    def _check_attributes(self, file: h5py.h5f.FileID, name: str) -> None:
        values = {}
        for attribute, kind in (("schema", "i8"), ("fingerprint", "S64")):
            stored = h5py.h5a.open(file, attribute.encode())
            if (stored.shape, stored.dtype) != ((), np.dtype(kind)):
                raise DamagedShardError(f"its {attribute} is not stored as this program does it")
            values[attribute] = np.empty((), kind)
            stored.read(values[attribute])
        schema = int(values["schema"])
        if schema > SCHEMA:
            raise newer(str(self.folder / name), schema)
        if values["fingerprint"] != self.recipe.fingerprint.encode():
            raise DamagedShardError("it belongs to another recipe's store")

    def _check_contents(self, shard: Shard, image_bytes: int) -> None:
        """Refuse what this store did not write, before any row is read.

        A shard's name vouches for its bytes, not for whoever made them: links, external or
        virtual storage could read other files or serve zeros, and a huge shape fill memory.
        """
        features, digest, view = shard.features, shard.digest, shard.view
        shapes = (features.shape, digest.shape, view.shape)
        rows = features.shape[0] if features.shape else 0
        if rows < 1 or shapes != ((rows, *self.recipe.shape), (rows, 32), (rows,)):
            raise DamagedShardError(f"its arrays have the shapes {shapes}")
        if (features.dtype, digest.dtype, view.dtype) != (np.float32, np.uint8, np.uint16):
            raise DamagedShardError("its arrays have other types")
        size = 4 * math.prod(features.shape)
        if 34 * rows > image_bytes or size > image_bytes * GZIP_BEST:
            raise DamagedShardError("it declares more rows than its bytes can hold")
        chunks = self._chunks(rows)
        if shard.chunks != chunks or features.get_num_chunks() != -(-rows // chunks[0]):
            raise DamagedShardError("parts of its rows are missing")
        filters: Sequence[Sequence[int]] = ([h5py.h5z.FILTER_DEFLATE], [], [])
        if not all(map(is_plain, (features, digest, view), shard.plists, filters)):
            raise DamagedShardError("its arrays are not stored as this program stores them")

    def _remove_stale_files(self) -> None:
        """Clear away what writers that were killed left behind."""
        for path in self.folder.glob(UNFINISHED):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()


@contextlib.contextmanager
def _only_one(file: Path) -> Iterator[None]:
    """Wait until no other process is in this block; the system forgets one that dies in it."""
    if fcntl is None:
        yield
        return
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _set_aside(path: Path, image: bytes | None) -> None:
    """Rename a shard that was found damaged, having these bytes."""
    aside = path.with_suffix(".damaged")
    path.rename(aside)
    # Made again by another process in between, it bears the same name: that one must stay.
    if image is not None and aside.read_bytes() != image:
        aside.replace(path)
