"""TensorFlow and Keras, imported late and without their start-up noise."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import cache
from types import ModuleType

_LOADING = threading.Lock()


def load() -> tuple[ModuleType, ModuleType]:
    """Import ``tensorflow`` and ``keras``, which takes seconds, and start the CPU device."""
    with _LOADING:  # the first of several threads imports it, and the others wait
        return _load()


@cache
def _load() -> tuple[ModuleType, ModuleType]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # without it, the last bits of features differ
    with _silent_stderr():
        import keras
        import tensorflow as tf

        tf.constant(0)  # starts the device, which logs a line
    tf.get_logger().setLevel("ERROR")  # it warns that each new network "retraces"
    return tf, keras


def limit_threads(count: int) -> None:
    """Use so many threads in this process; call it before the first `load`."""
    for setting in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[setting] = str(count)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hold back what is written to file descriptor 2, and show it only if the block fails.

    TensorFlow's C++ code logs before it reads its settings, so no setting can silence it.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
