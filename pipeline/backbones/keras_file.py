"""Reading the weights in a ``.keras`` file, without building the network that it describes.

That network may be a stranger's: its layers could be of any size, and hold code.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.backbones.weights import Weights
from pipeline.system.hdf5 import arrays, groups, name_of, open_image

_WEIGHTS = "model.weights.h5"
_LITTLE, _MOST_TIMES = 1 << 28, 4  # bytes; numbers that were trained shrink by a tenth

Shapes = Mapping[str, list[tuple[int, ...]]]
"""For each layer, by name, the shapes of its arrays."""


def read_layers(file: Path, shapes: Shapes) -> Weights:
    """Read the arrays of some layers, wherever in the network they are, in the order of `shapes`.

    Raises
    ------
    ValueError, KeyError, zipfile.BadZipFile or another exception of damaged files
        The file has no such layers, or other ones of these names.
    """
    with zipfile.ZipFile(file) as archive:
        size = archive.getinfo(_WEIGHTS).file_size
        if size > max(_LITTLE, _MOST_TIMES * file.stat().st_size):
            raise ValueError(f"it holds {size:,} bytes, packed into {file.stat().st_size:,}")
        content = archive.read(_WEIGHTS)
    layers: dict[str, Weights] = {}
    with open_image(content) as stored:
        for group in groups(stored):
            name = name_of(group)
            if name not in shapes:
                continue
            if name in layers:
                raise ValueError(f"two of its layers are named {name}")
            own = sorted(arrays(group), key=lambda array: int(array.name))
            if [array.shape for array in own] != shapes[name]:
                raise ValueError(f"its layer {name} has another shape")
            kinds = [array.data.dtype for array in own]
            layers[name] = [
                array.in_one_piece(content, kind).astype(np.float32)
                for array, kind in zip(own, kinds)
            ]
    if absent := [name for name in shapes if name not in layers]:
        raise ValueError(f"it has no layer {absent[0]}, or an old release of Keras wrote it")
    return [array for name in shapes for array in layers[name]]
