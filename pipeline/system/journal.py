"""A journal: lines that are on disk when `append` returns, in a file that several processes share.

Each line has a checksum. A line that a killed process has half written was never promised; it is
passed over, and does no harm to the next one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.system.files import lock, open_regular

_CHECKSUM = 16  # hexadecimal digits


class Journal:
    """The lines of a file that is locked: see `opened`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Journal]:
        """Open a journal, once no other process or thread has it open; one is made if missing."""
        with open_regular(path, write=True) as file:
            lock(file, wait=True)
            yield cls(file)

    def lines(self) -> list[list[str]]:
        """Return the texts that were appended and not cleared, in order."""
        self._file.seek(0)
        found = []
        for line in self._file.read().split(b"\n"):
            checksum, _, content = line.partition(b" ")
            if checksum == _checksum(content):
                found.append([str(text) for text in json.loads(content)])
        return found

    def append(self, *texts: str) -> None:
        """Add a line of texts; it is on disk when this returns."""
        content = json.dumps(texts).encode()  # ASCII, so that any file's name can be in it
        end = self._file.seek(0, os.SEEK_END)
        if end:
            self._file.seek(end - 1)
            if self._file.read(1) != b"\n":  # a killed process was here
                self._file.write(b"\n")
        self._file.write(_checksum(content) + b" " + content + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def clear(self) -> None:
        """Empty it: what it holds is on disk elsewhere."""
        # Not synced: lines that come back after a power loss say what is on disk already.
        self._file.truncate(0)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:_CHECKSUM].encode()
