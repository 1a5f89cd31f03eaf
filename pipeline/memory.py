"""How much memory there is for work that takes much of it."""

from __future__ import annotations

import psutil


def free_memory() -> int:
    """Return the bytes that programs can have without the system taking to the disk."""
    return int(psutil.virtual_memory().available)
