"""What was computed from a store's rows: kept beside them, as computing it again takes seconds."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.system.files import read_regular, write_file

DERIVED = "derived.bin"
_HEAD_BYTES = 64  # two digests: of what it was computed from, and of the values

Values = npt.NDArray[np.float32]


def remember(folder: Path, source: bytes, compute: Callable[[], Values]) -> Values:
    """Give values by the digest of all that decides them, in one dimension; compute new ones.

    Those of the last source are kept; a file that is damaged or cannot be written costs only time.
    """
    file = folder / DERIVED
    with contextlib.suppress(OSError):
        stored = memoryview(read_regular(file))
        content = stored[_HEAD_BYTES:]
        if stored[:_HEAD_BYTES] == source + hashlib.sha256(content).digest():
            return np.frombuffer(content, np.float32).copy()
    values = compute()
    content = values.data.cast("B")
    head = source + hashlib.sha256(content).digest()
    with contextlib.suppress(OSError):
        write_file(file, lambda out: (out.write(head), out.write(content)))
    return values.reshape(-1)


def forget(folder: Path) -> None:
    """Remove what was computed from rows that go."""
    (folder / DERIVED).unlink(missing_ok=True)
