"""Features in one HDF5 file, to be handed to someone without the pictures.

It holds `features` (n, height, width, channels) float32, `labels` (n,) int64, `digests` (n, 32)
uint8, the texts `paths`, `splits`, `classes` and, if there are any, `groups`, a JSON `recipe`,
and the `sha256` of all these.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import Recipe
from pipeline.data.dataset import SPLITS, Dataset
from pipeline.data.loading import load_dataset
from pipeline.data.targets import Targets
from pipeline.data.urls import locate
from pipeline.errors import DataError
from pipeline.features.extractor import Extractor
from pipeline.features.keys import keys
from pipeline.features.store import FeatureStore
from pipeline.system.files import file_errors, write_file

SUFFIXES = (".h5", ".npz")
"""Endings of such files; ``.npz`` is what older releases could write, and is refused."""

_BEST_COMPRESSION = 1100  # DEFLATE cannot shrink anything more than about 1,032 times
_ARRAYS = ("features", "labels", "digests")
_TEXTS = ("paths", "splits", "classes")
_GROUPS = "groups"  # older files have none
_DIGEST = "sha256"  # of all the rest; older files have none


def is_features_file(data: object) -> bool:
    """Tell whether this names a file of features, in place of images."""
    if not isinstance(data, str | Path):
        return False
    return Path(data).suffix in SUFFIXES and not Path(data).is_dir()


def export(
    source: str | Path, file: Path, extractor: Extractor, *, seed: int = 0
) -> tuple[Dataset, FeatureStore]:
    """Write the stored rows of a data set into one file; return what was written, from where."""
    _check_name(file)
    dataset = load_dataset(source, seed=seed, cache=extractor.cache)
    extractor = extractor.settle(dataset, calibrate=False)
    plan = extractor.plan(dataset, hold=True)
    dataset = dataset.without(extractor.unreadable(plan))
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
    arrays: dict[str, Any] = {
        "features": rows,
        "labels": dataset.targets.labels,
        "digests": np.frombuffer(b"".join(dataset.digests), np.uint8).reshape(-1, 32),
        "paths": _texts(dataset.paths),
        "splits": dataset.splits.tolist(),
        "classes": _texts(dataset.classes),
        "recipe": json.dumps(asdict(recipe)),
    }
    if dataset.groups:
        arrays[_GROUPS] = _texts(dataset.groups)
    with file_errors(f"write {file}", DataError):
        write_file(file, partial(_write_hdf5, arrays=arrays))


def _texts(names: Iterable[str | Path]) -> list[str]:
    """Write names as text: those of files and folders are bytes to the system."""
    return [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]


def _check_name(file: Path) -> None:
    if file.suffix != ".h5":
        raise DataError(f"cannot export to {file}.", expected="a name that ends in .h5")
    if file.exists():
        raise DataError(f"{file} already exists.", fix="delete it, or choose another name")


def import_features(file: Path) -> tuple[Dataset, Recipe, npt.NDArray[np.float32]]:
    """Read what `export_features` wrote."""
    if not file.is_file():
        raise DataError(f"there is no file {file}.")
    if file.suffix == ".npz":
        raise DataError(
            f"{file} is a NumPy archive, which is not read any more.",
            expected="an HDF5 file (.h5)",
            fix="export the features again: pipeline cache export DATA FILE.h5",
        )
    try:
        arrays = _read_hdf5(file)
        recipe = Recipe.from_fields(json.loads(arrays["recipe"]))
        rows = np.ascontiguousarray(arrays["features"], np.float32)
        labels = arrays["labels"].astype(np.int64)
        digests = arrays["digests"]
        paths, splits, classes = ([str(text) for text in arrays[name]] for name in _TEXTS)
        groups = tuple(str(text) for text in arrays.get(_GROUPS, ()))
    except Exception as error:  # h5py and NumPy raise many kinds for a damaged file
        raise _unusable(file, f"it cannot be read ({error})") from error
    count = len(rows)
    if rows.ndim != 4 or rows.shape[1:] != recipe.shape or not count:
        raise _unusable(file, f"features have the shape {rows.shape}, rows are {recipe.shape}")
    if (
        labels.ndim != 1
        or not count == len(labels) == len(paths) == len(splits)
        or digests.shape != (count, 32)
        or len(groups) not in (0, count)
    ):
        raise _unusable(file, "its arrays are not equally long")
    if labels.min() < 0 or labels.max() >= len(classes) or not set(splits) <= set(SPLITS):
        raise _unusable(file, "a label or a split has no name")
    if (bad := np.flatnonzero(~np.isfinite(rows).all(axis=(1, 2, 3)))).size:
        raise _unusable(file, f"{len(bad)} rows are not finite, the first is {bad[0]}")
    if arrays.pop(_DIGEST) not in (None, _digest(arrays)):
        raise _unusable(file, f"it is not as it was exported: its {_DIGEST} differs")
    dataset = Dataset(
        name=file.stem,
        paths=tuple(locate(path) for path in paths),
        digests=tuple(digest.tobytes() for digest in digests),
        targets=Targets(labels, tuple(classes)),
        splits=np.array(splits, dtype="<U10"),
        groups=groups,
    )
    dataset.check_learnable()
    return dataset, recipe, rows


def _write_hdf5(stream: BinaryIO, arrays: Mapping[str, Any]) -> None:
    with h5py.File(stream, "w") as file:
        for name in _ARRAYS:
            compression = "gzip" if name == "features" else None
            file.create_dataset(name, data=arrays[name], compression=compression)
        for name in (*_TEXTS, *({_GROUPS} & arrays.keys())):
            file.create_dataset(name, data=arrays[name], dtype=h5py.string_dtype())
        file.attrs["recipe"] = arrays["recipe"]
        file.attrs[_DIGEST] = _digest(arrays)


def _read_hdf5(file: Path) -> dict[str, Any]:
    with h5py.File(file, "r") as content:
        texts = (*_TEXTS, *({_GROUPS} & content.keys()))
        for name in (*_ARRAYS, *texts):
            linked = not isinstance(content.get(name, getlink=True), h5py.HardLink)
            if linked or content[name].is_virtual or content[name].external:
                raise ValueError(f"it has no {name} of its own")
            _check_size(content[name], file.stat().st_size)
        arrays: dict[str, Any] = {name: content[name][:] for name in _ARRAYS}
        arrays |= {name: content[name].asstr()[:].tolist() for name in texts}
        arrays["recipe"] = content.attrs["recipe"]
        return {**arrays, _DIGEST: content.attrs.get(_DIGEST)}


def _digest(arrays: Mapping[str, Any]) -> str:
    """Give the SHA-256 of all that a file holds."""
    sha256 = hashlib.sha256()
    for name in sorted(arrays):
        values = arrays[name]
        if isinstance(values, np.ndarray):
            sha256.update(f"{name} {values.dtype.str} {values.shape}".encode())
            sha256.update(np.ascontiguousarray(values).tobytes())
        else:
            sha256.update(json.dumps([name, values]).encode())
    return sha256.hexdigest()


def _check_size(array: h5py.Dataset, file_bytes: int) -> None:
    """Refuse what would fill memory, or be read as zeros since it was never written."""
    if array.size * array.dtype.itemsize > _BEST_COMPRESSION * file_bytes:
        raise ValueError(f"{array.name} declares more than the file can hold")
    if array.chunks is None:
        whole = array.id.get_offset() is not None
    else:
        chunks = (-(-side // part) for side, part in zip(array.shape, array.chunks))
        whole = array.id.get_num_chunks() == math.prod(chunks)
    if not whole:
        raise ValueError(f"parts of {array.name} are missing")


def _unusable(file: Path, reason: str) -> DataError:
    return DataError(
        f"{file} cannot be used as features: {reason}.",
        expected="a file that `pipeline cache export` wrote",
    )
