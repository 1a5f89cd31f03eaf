"""What could only be found out by building a network, remembered for later processes.

It takes seconds to import TensorFlow and to build a network, and what is found out never changes:
a network's layers and shapes, and the digest of the weights in a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from pipeline.backbones.cuts import VERSION
from pipeline.system.documents import Document, read_document, to_json
from pipeline.system.files import make_folder, read_regular, write_file

Shapes = dict[str, tuple[int, int, int]]

_MOST_BYTES = 2**24


class _Findings(Document, frozen=True, kw_only=True):
    """What `networks.json` holds: shapes by network and size, digests of weights by file."""

    shapes: dict[str, Shapes]
    weights: dict[str, str]


def remember_shapes(network: str, size: int, find: Callable[[int], Shapes]) -> Shapes:
    """Give the shapes of a network's layers, which `find` builds it for where they are new."""
    name = f"{network} {size}, Keras {version('keras')}, cuts {VERSION}"
    known = _read().shapes.get(name)
    if known is None:
        known = find(size)
        _add({name: known}, {})
    return known


def remember_weights(network: str, file: Path, find: Callable[[], str]) -> str:
    """Give the digest of the weights in a file, which `find` reads where its bytes are new."""
    with file.open("rb") as stream:
        name = f"{network} {hashlib.file_digest(stream, 'sha256').hexdigest()}"
    known = _read().weights.get(name)
    if known is None:
        known = find()
        _add({}, {name: known})
    return known


def _file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "cached-feature-pipeline" / "networks.json"


def _read() -> _Findings:
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # without it, all is found again
        return read_document(read_regular(_file(), _MOST_BYTES), _Findings)
    return _Findings(shapes={}, weights={})


def _add(shapes: dict[str, Shapes], weights: dict[str, str]) -> None:
    old = _read()
    both = _Findings(shapes=old.shapes | shapes, weights=old.weights | weights)
    with contextlib.suppress(OSError, RuntimeError):  # nothing is lost but time
        make_folder(_file().parent)
        write_file(_file(), to_json(both))
