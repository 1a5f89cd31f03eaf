"""A journal: lines that are on disk when `append` returns, in a file that several processes share.

Each line has a checksum. A line that a killed process has half written was never promised; it is
passed over, and does no harm to the next one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
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
        with open_regular(path, write=True, buffering=0) as file:
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

    def append(self, *lines: Sequence[str]) -> None:
        """Add lines of texts; all are on disk when this returns, and none after an error."""
        # ASCII, so that any file's name can be in it.
        contents = [json.dumps(texts).encode() for texts in lines]
        # The first line is empty: a killed process may have left half a line.
        text = b"\n" + b"".join(_checksum(each) + b" " + each + b"\n" for each in contents)
        end = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(text):
                written += self._file.write(text[written:])
            os.fsync(self._file.fileno())
        except BaseException:  # Ctrl-C, too
            self._file.truncate(end)
            raise

    def clear(self) -> None:
        """Empty it: what it holds is on disk elsewhere."""
        # Not synced: lines that come back after a power loss say what is on disk already.
        self._file.truncate(0)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:_CHECKSUM].encode()
