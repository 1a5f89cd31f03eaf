"""Features in one HDF5 file, to be handed to someone without the pictures.

It holds `features` (n, height, width, channels) float32, `labels` (n,) int64, `digests` (n, 32)
uint8, the texts `paths`, `splits`, `classes` and, if there are any, `groups`, and a JSON `recipe`.
Before it come 512 bytes that every HDF5 reader passes over (a user block): they hold the SHA-256
of all that follows, so that damage is noticed before HDF5 sees the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from operator import gt
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import Recipe
from pipeline.data.dataset import SPLITS, Dataset
from pipeline.data.loading import load_dataset
from pipeline.data.targets import Targets
from pipeline.data.urls import Unopened, locate
from pipeline.errors import DataError
from pipeline.features.extractor import Extractor
from pipeline.features.keys import keys
from pipeline.features.store import FeatureStore
from pipeline.system.documents import parse
from pipeline.system.files import clear_unfinished, file_errors, read_regular, write_file
from pipeline.system.hdf5 import Array, UnsoundError, open_image
from pipeline.system.threads import handle_stops

SUFFIXES = (".h5", ".npz")
"""Endings of such files; ``.npz`` is what older releases could write, and is refused."""

_SIGNATURE = b"\x89HDF\r\n\x1a\n"  # of HDF5; files of older releases begin with it
_BLOCK = 512
_NO_DIGEST = (
    "The file of features holds no digest of itself, since an older release wrote it: damage may "
    "go unnoticed. `pipeline cache export` writes a new one."
)
_TEXTS = ("paths", "splits", "classes")
_GROUPS = "groups"  # older files have none
_CHUNK_BYTES = 2**19
_GZIP_LEVEL = 4
# A file of some megabytes must not fill the memory, as one of nothing but zeros would: DEFLATE
# shrinks those 1,000 times, and features 3 to 20 times.
_MOST_SHRUNK = 100
_ALWAYS_READ = 2**28  # bytes of rows


def is_features_file(data: object) -> bool:
    """Tell whether this names a file of features, in place of images."""
    if not isinstance(data, str | Path):
        return False
    place = locate(data)
    return isinstance(place, Path) and place.suffix in SUFFIXES and not place.is_dir()


def export(
    source: str | Path, file: Path, extractor: Extractor, *, seed: int = 0
) -> tuple[Dataset, FeatureStore]:
    """Write the stored rows of a data set into one file; return what was written, from where."""
    _check_name(file)
    dataset = load_dataset(source, seed=seed, cache=extractor.cache)
    extractor = replace(extractor, layers=False).settle(dataset, calibrate=False)
    plan = extractor.plan(dataset, hold=True)
    dataset = plan.readable()
    if missing := plan.store.missing(keys(dataset)):
        raise DataError(
            f"{len(missing):,} of {len(dataset):,} images have no features in the cache.",
            fix="run `pipeline features` with the same options first",
        )
    export_features(dataset, plan.recipe, plan.store.read(keys(dataset)), file)
    return dataset, plan.store


def export_features(
    dataset: Dataset, recipe: Recipe, rows: npt.NDArray[np.float32], file: Path
) -> None:
    """Write features, with what is needed to train on them."""
    _check_name(file)
    content = _make_file(dataset, recipe, rows)
    with file_errors(f"write {file}", DataError):
        clear_unfinished(file.parent)
        try:
            write_file(file, [_user_block(content), content], sync_folder=True, replace=False)
        except FileExistsError as error:
            raise _exists(file) from error


def _texts(names: Iterable[str | Path]) -> list[str]:
    """Write names as text: those of files and folders are bytes to the system."""
    return [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]


def _check_name(file: Path) -> None:
    if file.suffix != ".h5":
        raise DataError(f"cannot export to {file}.", expected="a name that ends in .h5")
    if file.exists():
        raise _exists(file)


def _exists(file: Path) -> DataError:
    return DataError(f"{file} already exists.", fix="delete it, or choose another name")


def import_features(data: str | Path) -> tuple[Dataset, Recipe, npt.NDArray[np.float32]]:
    """Read what `export_features` wrote."""
    file = Path(locate(data))
    if not file.is_file():
        raise DataError(f"there is no file {file}.")
    if file.suffix == ".npz":
        raise DataError(
            f"{file} is a NumPy archive, which is not read any more.",
            expected="an HDF5 file (.h5)",
            fix="export the features again: pipeline cache export DATA FILE.h5",
        )
    try:
        with file_errors(f"read {file}", DataError):
            content = memoryview(read_regular(file, follow=True))
        has_digest = content[:8] != _SIGNATURE
        if has_digest:
            block, content = content[:_BLOCK], content[_BLOCK:]
            if block != _user_block(content):
                raise UnsoundError("its bytes are not as they were exported")
        arrays = _read_hdf5(content)
        recipe = Recipe.from_fields(parse(arrays["recipe"]))
        problem = next(_problems(arrays, recipe), "")
    except MemoryError as error:
        raise DataError(f"not enough memory to read {file}.", fix="close other programs") from error
    except DataError:
        raise
    except Exception as error:  # h5py and NumPy raise many kinds for a damaged file
        raise _unusable(file, f"it cannot be read ({error})") from error
    if problem:
        raise _unusable(file, problem)
    dataset = Dataset(
        name=file.stem,
        paths=tuple(map(Unopened, arrays["paths"])),
        digests=tuple(digest.tobytes() for digest in arrays["digests"]),
        targets=Targets(arrays["labels"], tuple(arrays["classes"])),
        splits=np.array(arrays["splits"], dtype="<U10"),
        groups=tuple(arrays[_GROUPS]),
        remarks=() if has_digest else (_NO_DIGEST,),
    )
    dataset.check_learnable()
    return dataset, recipe, arrays["features"]


def _problems(arrays: dict[str, Any], recipe: Recipe) -> Iterator[str]:
    """Yield what in a file does not fit together; what comes later needs what came before."""
    rows, labels, classes = arrays["features"], arrays["labels"], arrays["classes"]
    count = len(rows)
    if recipe.size < 1:
        yield f"its recipe is for images of {recipe.size} pixels"
    if rows.shape[1:] != recipe.shape or not count:
        yield f"features have the shape {rows.shape}, rows are {recipe.shape}"
    lengths = {len(arrays[name]) for name in ("labels", "digests", "paths", "splits")}
    if (
        lengths | {len(arrays[_GROUPS]) or count} != {count}
        or labels.ndim != 1
        or arrays["digests"].shape[1:] != (32,)
    ):
        yield "its arrays are not equally long"
    if labels.min() < 0 or labels.max() >= len(classes) or not set(arrays["splits"]) <= set(SPLITS):
        yield "a label or a split has no name"
    if len(set(classes)) < len(classes):
        yield "two of its classes have one name"
    if (bad := np.flatnonzero(~np.isfinite(rows).all(axis=(1, 2, 3)))).size:
        yield f"{len(bad)} rows are not finite, the first is {bad[0]}"


def _user_block(content: bytes | memoryview) -> bytes:
    """Write what comes before an HDF5 file with these bytes."""
    text = (
        "Features of images, by cached-feature-pipeline: an HDF5 file behind a block of "
        f"{_BLOCK} bytes.\nIts SHA-256, without this block: {hashlib.sha256(content).hexdigest()}\n"
    )
    return text.encode().ljust(_BLOCK, b"\n")


def _make_file(dataset: Dataset, recipe: Recipe, rows: npt.NDArray[np.float32]) -> bytes:
    """Make an HDF5 file in memory: HDF5 can crash the process where a disk is full."""
    texts = {"paths": dataset.paths, "classes": dataset.classes, "splits": dataset.splits.tolist()}
    if dataset.groups:
        texts[_GROUPS] = dataset.groups
    options: dict[str, Any] = {"driver": "core", "backing_store": False, "block_size": 2**24}
    with h5py.File(uuid.uuid4().hex, "w", **options) as file:
        _write_rows(file, rows)
        file["labels"] = dataset.targets.labels.astype(np.int64)
        file["digests"] = np.frombuffer(b"".join(dataset.digests), np.uint8).reshape(-1, 32)
        for name, values in texts.items():
            # Of fixed length: HDF5 never ends reading some texts that were made to harm.
            written = [text.encode() for text in _texts(values)]
            kind = h5py.string_dtype("utf-8", max(map(len, written)) or 1)
            file[name] = np.array(written, kind)
        file.attrs["recipe"] = np.bytes_(json.dumps(asdict(recipe)))
        file.flush()
        content: bytes = file.id.get_file_image()
    return content


def _write_rows(file: h5py.File, rows: npt.NDArray[np.float32]) -> None:
    """Write rows chunk by chunk; one that shrinks as no features do is stored as it is."""
    length = min(len(rows), max(1, _CHUNK_BYTES // (4 * math.prod(rows.shape[1:]))))
    chunks = (length, *rows.shape[1:])
    array = file.create_dataset("features", rows.shape, "<f4", chunks=chunks, compression="gzip")
    for start in range(0, len(rows), length):
        part = np.zeros(chunks, "<f4")
        part[: len(rows) - start] = rows[start : start + length]
        raw = part.tobytes()
        stored = zlib.compress(raw, _GZIP_LEVEL)
        skipped_filters = len(raw) > _MOST_SHRUNK * len(stored)
        array.id.write_direct_chunk(
            (start, 0, 0, 0), raw if skipped_filters else stored, int(skipped_filters)
        )


def _read_hdf5(content: memoryview) -> dict[str, Any]:
    """Read what a file holds, from its bytes."""
    with open_image(content) as file:
        # HDF5 never ends reading some files, and Python sees no signal before it is done.
        with handle_stops(signal.SIG_DFL):
            arrays: dict[str, Any] = {
                "recipe": h5py.File(file).attrs["recipe"],
                "labels": _numbers(file, "labels", np.int64).in_one_piece(content, np.int64),
                "digests": _numbers(file, "digests", np.uint8).in_one_piece(content, np.uint8),
                _GROUPS: [],
            }
            for name in (*_TEXTS, *([_GROUPS] if file.links.exists(_GROUPS.encode()) else [])):
                arrays[name] = Array.of(file, name).texts(content)
            features = _numbers(file, "features", np.float32)
            size = 4 * math.prod(features.shape)
            if size > max(_ALWAYS_READ, _MOST_SHRUNK * len(content)):
                raise UnsoundError("features declares more than the file can hold")
            if not features.is_whole() or any(map(gt, features.chunks, features.shape)):
                raise UnsoundError("parts of features are missing")
        if features.chunks:
            rows = features.read_chunks(np.float32)
        else:
            rows = features.in_one_piece(content, np.float32)
        return {**arrays, "features": rows}


def _numbers(file: h5py.h5f.FileID, name: str, kind: npt.DTypeLike) -> Array:
    array = Array.of(file, name)
    if not array.is_of(kind):
        raise UnsoundError(f"{name} are {array.data.dtype}, not {np.dtype(kind)}")
    return array


def _unusable(file: Path, reason: str) -> DataError:
    return DataError(
        f"{file} cannot be used as features: {reason}.",
        expected="a file that `pipeline cache export` wrote",
    )
