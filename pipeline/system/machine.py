"""What this machine can do: number formats of its CPU, and free memory."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

_CPU_HAS_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})
CPU_HAS_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def native_precision() -> str:
    """Return ``"bfloat16"`` where this CPU multiplies in it natively, else ``"float32"``.

    Elsewhere TensorFlow emulates bfloat16, slower than float32.
    """
    return "float32" if _CPU_HAS_BFLOAT16.isdisjoint(cpu_flags()) else "bfloat16"


def cpu_flags() -> list[str]:
    """List the CPU's features as Linux names them; empty on other systems."""
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        with contextlib.suppress(OSError), Path("/proc/cpuinfo").open() as cpuinfo:
            return next((line.split() for line in cpuinfo if line.startswith("flags")), [])
    return []


def free_memory() -> int:
    """Return the bytes of memory that can be used without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)
