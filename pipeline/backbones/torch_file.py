"""Reading the weights in a file that PyTorch wrote before version 1.6, without PyTorch.

Such a file is a pickle, which could run any code. Here it may build dictionaries and tensors, and
nothing else.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py, MAGIC_NUMBER
_TYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


@dataclass(frozen=True)
class _Tensor:
    """A tensor before the numbers of its storage are read."""

    storage: tuple[str, str, str, str, int, None]  # "storage", type, key, device, length, view
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, storages: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        numbers = storages[self.storage[2]][self.offset :]
        last = sum((side - 1) * stride for side, stride in zip(self.shape, self.strides))
        if min(self.strides, default=0) < 0 or min(self.shape, default=1) < 1:
            raise ValueError(f"a tensor has the shape {self.shape} and strides {self.strides}")
        if self.offset < 0 or max(last + 1, math.prod(self.shape)) > len(numbers):
            raise ValueError(f"a tensor of shape {self.shape} reaches beyond its storage")
        steps = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(numbers, self.shape, steps).copy()


class _Unpickler(pickle.Unpickler):
    """An unpickler that can make tensors and ordered dictionaries, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(
                storage, offset, shape, strides
            )
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which weights do not need")

    def persistent_load(self, pid: Any) -> Any:
        return pid


def read_tensors(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """Read a dictionary of tensors, in the order in which it was written.

    Raises
    ------
    ValueError, pickle.UnpicklingError, EOFError or another exception of damaged pickles
        The content is none, or holds anything beside tensors.
    """
    file = io.BytesIO(content)
    if _Unpickler(file).load() != _MAGIC:
        raise ValueError("it does not begin as a file of PyTorch does")
    for _ in ("version of the format", "sizes of types"):
        _Unpickler(file).load()
    tensors = _Unpickler(file).load()
    lengths = {t.storage[2]: (np.dtype(t.storage[1]), int(t.storage[4])) for t in tensors.values()}
    storages = {}
    for key in _Unpickler(file).load():
        kind, length = lengths[key]
        written = int.from_bytes(file.read(8), "little")
        numbers = file.read(length * kind.itemsize) if written == length >= 0 else b""
        if len(numbers) != length * kind.itemsize:
            raise ValueError(f"a storage has not the {length} numbers that it is said to have")
        storages[key] = np.frombuffer(numbers, kind)
    return {name: tensor.read(storages) for name, tensor in tensors.items()}
