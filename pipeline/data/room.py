"""A bound on the memory that pictures take while they are decoded, by all threads together."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_MUCH = 1 << 27


class Room:
    """Lets threads in while what they need fits; who needs more than there is waits to be alone.

    Parameters
    ----------
    size : int
        In bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, amount: int) -> Iterator[None]:
        """Take so many bytes, as soon as they are free, and give them back."""
        amount = min(amount, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            if amount > _MUCH:
                _return_memory()
            with self._changed:
                self._free += amount
                self._changed.notify_all()


def _return_memory() -> None:
    # glibc keeps freed memory for the thread that used it: without this, eight threads that decode
    # one after the other hold six times as much as one of them.
    with suppress(AttributeError, OSError, TypeError):  # another C library, another system
        ctypes.CDLL(None).malloc_trim(0)
