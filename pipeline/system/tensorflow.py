"""TensorFlow and Keras: imported late and quietly, their settings that change values pinned."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from pipeline.errors import PipelineError
from pipeline.system.packages import import_error, too_little_memory

# Variables that change values, and what they have to be (None: absent). TensorFlow, Keras and
# oneDNN read them once.
_ENVIRONMENT: Mapping[str, str | None] = MappingProxyType(
    {
        "TF_ENABLE_ONEDNN_OPTS": "1",  # without it, the last bits of features differ
        "TF_XLA_FLAGS": None,
        "TF_SET_ONEDNN_FPMATH_MODE": None,
        "ONEDNN_DEFAULT_FPMATH_MODE": None,
        "ONEDNN_MAX_CPU_ISA": None,
    }
)
_KERAS_SETTINGS: Mapping[str, Any] = MappingProxyType(
    {
        "floatx": "float32",
        "epsilon": 1e-7,
        "image_data_format": "channels_last",
        "max_epochs": None,
        "max_steps_per_epoch": None,
    }
)
_LOADING = threading.Lock()
_PINNING = threading.Lock()
_blocks: list[int] = []  # threads with a `pinned` under way, as often as each has one
_unpin = contextlib.ExitStack()
_ALWAYS_LISTED = ("disable_model_pruning", "disable_meta_optimizer")  # of the optimiser's options


def load() -> tuple[ModuleType, ModuleType]:
    """Import ``tensorflow`` and ``keras``, which takes seconds, and start the CPU device.

    Raises
    ------
    PipelineError
        They cannot be imported, or run already in a way in which values would be others.
    """
    with _LOADING:  # the first of several threads imports it, and the others wait
        return _load()


@cache
def _load() -> tuple[ModuleType, ModuleType]:
    _set_environment()
    try:
        with _silent_stderr():
            import keras
            import tensorflow as tf

            if tf.executing_eagerly():
                tf.constant(0)  # starts the device, which logs a line
    except Exception as error:  # Keras raises ValueError, and others, for what keras.json says
        raise _explained(error) from error
    if (backend := keras.config.backend()) != "tensorflow":
        raise PipelineError(
            f"Keras runs on the backend {backend} in this process.",
            expected="the backend tensorflow, which networks are computed with here",
            fix="set KERAS_BACKEND=tensorflow before Keras is imported, or use a process of its "
            "own for this",
        )
    tf.get_logger().setLevel("ERROR")  # it warns that each new network "retraces"
    return tf, keras


def _set_environment() -> None:
    """Set the variables that are read at import; refuse others that were read before."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"  # goes before keras.json
    for name, value in _ENVIRONMENT.items():
        before = os.environ.get(name)
        if "tensorflow" in sys.modules and before not in (None, "", value):
            raise PipelineError(
                f"TensorFlow was imported with {name}={before}, which changes features.",
                expected=f"{name}={value}" if value else f"no {name}",
                fix=f"set it so before TensorFlow is imported, or import {__name__} first",
            )
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def limit_threads(count: int) -> None:
    """Use so many threads in this process; call it before the first `load`."""
    for setting in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[setting] = str(count)


def _explained(error: Exception) -> PipelineError:
    if isinstance(error, ImportError):
        return import_error(error)
    if isinstance(error, MemoryError | SystemError | RuntimeError):
        return too_little_memory(error)
    return PipelineError(
        f"Keras cannot be imported: {type(error).__name__}: {error}",
        expected="valid settings in Keras's keras.json",
        fix=f"correct or delete {os.environ.get('KERAS_HOME', '~/.keras')}/keras.json",
    )


@contextlib.contextmanager
def pinned(policy: str = "float32") -> Iterator[None]:
    """Pin all settings of Keras and TensorFlow that change values, and give them back at the end.

    Whatever builds, runs or trains a network does it in here. It can decorate a function, too.

    Parameters
    ----------
    policy : str
        Keras's dtype policy for the layers that are built.

    Raises
    ------
    PipelineError
        TensorFlow runs in a way that cannot be pinned.
    """
    tf, keras = load()
    _refuse_what_stays(tf)
    with contextlib.ExitStack() as own:
        own.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy(policy)
        own.enter_context(_without_debugging())
        with _PINNING:  # the other settings are those of all threads: the last one gives them back
            if not _blocks:
                _pin(tf, keras)
            _blocks.append(threading.get_ident())
        try:
            yield
        finally:
            with _PINNING:
                _blocks.remove(threading.get_ident())
                if not _blocks:
                    _unpin.close()


def _pin(tf: ModuleType, keras: ModuleType) -> None:
    for name, value in _KERAS_SETTINGS.items():
        read, write = getattr(keras.config, name), getattr(keras.config, f"set_{name}")
        _change(read(), value, write)
    optimizer, experimental = tf.config.optimizer, tf.config.experimental
    _change(tf.config.functions_run_eagerly(), False, tf.config.run_functions_eagerly)
    _change(optimizer.get_jit(), "", optimizer.set_jit)
    _change(
        experimental.tensor_float_32_execution_enabled(),
        True,
        experimental.enable_tensor_float_32_execution,
    )
    options = optimizer.get_experimental_options()
    default = dict.fromkeys(options) | dict.fromkeys(_ALWAYS_LISTED, False)  # None is unset
    _change(options, default, optimizer.set_experimental_options)
    from tensorflow.python.framework import config  # the public way only turns it on

    determinism = {True: config.enable_op_determinism, False: config.disable_op_determinism}
    _change(config.is_op_determinism_enabled(), False, lambda wanted: determinism[wanted]())


def _change(before: Any, value: Any, write: Callable[[Any], object]) -> None:
    if before != value:
        write(value)
        _unpin.callback(write, before)


@contextlib.contextmanager
def _without_debugging() -> Iterator[None]:
    """Leave out what `tf.debugging` adds to networks: it changes the last bits."""
    from tensorflow.python.eager import context

    callbacks = context.context().op_callbacks  # this thread's
    before = callbacks.copy()
    callbacks.clear()
    try:
        yield
    finally:
        callbacks[:] = before


def _refuse_what_stays(tf: ModuleType) -> None:
    """Refuse ways to run TensorFlow that are chosen once for a process."""
    from tensorflow.python.framework import ops

    if not tf.executing_eagerly():
        found = "TensorFlow does not execute eagerly here"
        cause = "a tf.Graph, tf.function, or tf.compat.v1.disable_eager_execution"
    elif ops.is_auto_dtype_conversion_enabled():
        found = "TensorFlow converts types by rules of its own here"
        cause = "experimental_enable_numpy_behavior(dtype_conversion_mode=...)"
    else:
        return
    raise PipelineError(
        f"{found}, which may change features.",
        expected="TensorFlow as it is by default",
        fix=f"use a process of its own for this, or leave out {cause}",
    )


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what is written to file descriptor 2.

    TensorFlow's C++ code logs before it reads its settings, so no setting can silence it.
    """
    if sys.__stderr__ is None:  # then descriptor 2 may be any file
        yield
        return
    sys.__stderr__.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
