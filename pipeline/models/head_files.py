"""The files of a head, looked through before a library reads them: they may be a stranger's."""

from __future__ import annotations

import io
import math
from hashlib import blake2b
from typing import Any
from zipfile import ZipFile

import numpy as np

from pipeline.system.documents import parse
from pipeline.system.hdf5 import arrays, groups, open_image
from pipeline.system.machine import free_memory

_MOST_GROWTH = 50  # of sparse rows, the only part that is compressed (measured: 1.2 to 4)
_ALWAYS_FINE = 2**27  # bytes: a few rows, all alike, grow more
_HEADER = 2**14  # bytes: NumPy reads no longer one either
_SCHEMA = "schema.json"
_TREE = ("sklearn.tree._tree", "Tree")
_LOSSES = ("sklearn._loss._loss", "sklearn.linear_model._sgd_fast")


def check_skops(content: bytes) -> None:
    """Refuse, with a ValueError, a file whose loading could fill memory or end the process.

    Arrays are as long as their headers say, no part stands for many others, and scikit-learn's
    trees are made from arguments that fit each other, which it does not check itself.
    """
    with ZipFile(io.BytesIO(content)) as archive:
        if sum(member.file_size for member in archive.infolist()) > len(content):
            raise ValueError("it declares more bytes than it has")
        names = [name for name in archive.namelist() if name != _SCHEMA]
        shapes = {name: _check_arrays(archive.read(name), len(content)) for name in names}
        schema = parse(archive.read(_SCHEMA))
    _look_through(schema, {}, shapes)


def _look_through(
    part: Any, numbered: dict[Any, bytes], shapes: dict[str, tuple[int, ...]]
) -> bytes:
    """Check a part of a schema and all that it holds; return a digest of what it says."""
    if not isinstance(part, dict | list):
        return repr(part).encode()
    digest = blake2b(type(part).__name__.encode())
    for name, value in part.items() if isinstance(part, dict) else enumerate(part):
        said = _look_through(value, numbered, shapes)
        if name not in ("__id__", "file"):
            digest.update(b"%d %d " % (len(str(name)), len(said)) + str(name).encode() + said)
    loader = part.get("__loader__") if isinstance(part, dict) else None
    if isinstance(part, dict) and loader is not None:
        kind, number = (part.get("__module__"), part.get("__class__")), part.get("__id__")
        # skops takes an earlier part of the same number in place of this one.
        if numbered.setdefault(number, digest.digest()) != digest.digest() and number is not None:
            raise ValueError("different parts of it have the same number")
        if kind == _TREE and loader != "TypeNode":
            _check_tree_arguments(part, shapes)
        if loader == "CachedNode" or (loader == "LossNode" and kind[0] not in _LOSSES):
            raise ValueError(f"it has a {loader} where skops writes none")
    return digest.digest()


def _check_arrays(content: bytes, limit: int) -> tuple[int, ...]:
    """Check an array, or those of sparse rows; return its shape."""
    if not content.startswith(b"PK"):
        return _check_header(content, len(content))
    with ZipFile(io.BytesIO(content)) as parts:
        members = parts.infolist()
        size = sum(member.file_size for member in members)
        if size > max(_ALWAYS_FINE, _MOST_GROWTH * limit) or size > free_memory():
            raise ValueError(f"it declares {size / 1e9:.1f} GB in {limit / 1e6:.1f} MB")
        for member in members:
            with parts.open(member) as file:
                _check_header(file.read(_HEADER), member.file_size)
    return ()


def _check_header(start: bytes, size: int) -> tuple[int, ...]:
    """Check that an array is as long as its header says; return its shape."""
    file = io.BytesIO(start)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array of it is in version {version} of NumPy's format")
    read = np.lib.format.read_array_header_1_0
    shape, _, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
    count = math.prod(shape)
    if dtype.hasobject or count > size or file.tell() + count * dtype.itemsize != size:
        raise ValueError("an array of it has another size than its header says")
    return tuple(shape)


def _check_tree_arguments(node: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """Check that a tree is made for one output, as all are that classify."""
    if node["__loader__"] != "TreeNode":
        raise ValueError("a tree of it is not made as scikit-learn makes one")
    arguments = node["__reduce__"]["args"]
    _, classes, outputs = arguments["content"]
    loaders = [part["__loader__"] for part in (arguments, classes, outputs)]
    if loaders != ["TupleNode", "NdArrayNode", "JsonNode"] or outputs["content"] != "1":
        raise ValueError("a tree of it is not for one output")
    if shapes.get(classes.get("file")) != (1,):
        raise ValueError("a tree of it does not tell its number of classes")


def check_weights(content: bytes) -> None:
    """Refuse, with a ValueError, weights that are not stored plainly in the file itself."""
    with open_image(content) as file:
        for array in (array for group in groups(file) for array in arrays(group)):
            if array.has_attributes:
                raise ValueError("it has weights that are not stored as Keras stores them")
            if math.prod(array.shape):
                array.in_one_piece(content, array.data.dtype)
