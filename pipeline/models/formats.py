"""The formats that a model is exported to: writing a Keras graph in each, and running the file."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backbones import openvino_engine
from pipeline.models.graphs import Float
from pipeline.models.onnx_file import KEY, with_description
from pipeline.system import tensorflow

Pixels = npt.NDArray[np.uint8]
Run = Callable[[Pixels], npt.NDArray[Any]]
Description = Mapping[str, Any]

_MEMBER = f"{KEY}.json"
_OPSET = 18


class Format(ABC):
    """A format of files that other programs run.

    Attributes
    ----------
    name, title : str
        On the command line, and in sentences.
    suffix : str
        Of a file's name; empty where it is a folder.
    beside : tuple of str
        Suffixes of other files that belong to it.
    packages : tuple of str
        What it takes beside what is installed with this project.
    tolerance : float
        How far probabilities may be from those of the model in float32.
    precise : str
        As for `pipeline.models.graphs.HeadGraph`.
    """

    name: str
    title: str
    suffix: str
    beside: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    tolerance: float = 1e-4
    precise: Float = "float64"

    @abstractmethod
    def write(self, graph: Any, file: Path, description: Description) -> None:
        """Write a Keras model that takes pixels, with what is to be known of it."""

    @abstractmethod
    def load(self, file: Path) -> Run:
        """Load what was written in the library that it is for."""


class Onnx(Format):
    """ONNX, for ONNX Runtime and others; see `pipeline.models.portable`."""

    name, title, suffix = "onnx", "ONNX", ".onnx"
    packages = ("tf2onnx", "onnxruntime")

    def write(self, graph: Any, file: Path, description: Description) -> None:  # noqa: D102
        _, keras = tensorflow.load()
        [source] = graph.inputs
        pixels = keras.InputSpec(source.dtype, source.shape, name="pixels")
        options = {"input_signature": [pixels], "opset_version": _OPSET, "verbose": False}
        with _quiet():
            graph.export(str(file), format="onnx", **options)
        content = file.read_bytes()
        file.write_bytes(with_description(content, description))

    def load(self, file: Path) -> Run:  # noqa: D102
        from pipeline.models.portable import Portable

        return Portable.load(file).probabilities


class OpenVino(Format):
    """OpenVINO's intermediate representation: two files, .xml and .bin."""

    name, title, suffix, beside = "openvino", "OpenVINO", ".xml", (".bin",)
    tolerance, precise = 1e-3, "float32"  # it has no float64 on CPUs

    def write(self, graph: Any, file: Path, description: Description) -> None:  # noqa: D102
        self.write_above(None, graph, file, description)

    def write_above(self, below: Any, graph: Any, file: Path, description: Description) -> None:
        """Write a Keras model whose inputs are the outputs of OpenVINO's graph `below`, if any."""
        tf, _ = tensorflow.load()
        signature = [tf.TensorSpec(own.shape, own.dtype, own.name) for own in graph.inputs]

        @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
        def run(*inputs: Any) -> Any:
            return graph(inputs[0] if len(inputs) == 1 else list(inputs), training=False)

        texts = {KEY: json.dumps(description)}
        openvino_engine.write_graph(run.get_concrete_function(), file, below, **texts)

    def load(self, file: Path) -> Run:  # noqa: D102
        run = openvino_engine.compile_graph(openvino_engine.read_graph(file), "float32")
        return lambda pixels: openvino_engine.joined(run(pixels))[0]


class LiteRt(Format):
    """LiteRT, formerly TensorFlow Lite, for phones and small computers."""

    name, title, suffix = "litert", "LiteRT", ".tflite"
    packages = ("ai_edge_litert",)
    tolerance, precise = 1e-3, "float32"

    def write(self, graph: Any, file: Path, description: Description) -> None:  # noqa: D102
        tf, _ = tensorflow.load()
        built_in = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
        with _quiet():
            graph.export(str(file), format="litert", verbose=False, target_spec=built_in)
        _add_member(file, description)

    def load(self, file: Path) -> Run:  # noqa: D102
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(file), num_threads=1)
        [source], [target] = interpreter.get_input_details(), interpreter.get_output_details()

        def run(pixels: Pixels) -> npt.NDArray[Any]:
            interpreter.resize_tensor_input(source["index"], pixels.shape)
            interpreter.allocate_tensors()
            interpreter.set_tensor(source["index"], pixels)
            interpreter.invoke()
            return np.array(interpreter.get_tensor(target["index"]))

        return run


class SavedModel(Format):
    """TensorFlow's own format, as TensorFlow Serving takes it."""

    name, title, suffix = "saved-model", "SavedModel", ""

    def write(self, graph: Any, file: Path, description: Description) -> None:  # noqa: D102
        graph.export(str(file), format="tf_saved_model", verbose=False)
        extra = file / "assets.extra"  # which TensorFlow leaves alone
        extra.mkdir()
        (extra / _MEMBER).write_text(json.dumps(description))

    def load(self, file: Path) -> Run:  # noqa: D102
        tf, _ = tensorflow.load()
        loaded = tf.saved_model.load(str(file))
        return lambda pixels: np.asarray(loaded.serve(pixels))


class KerasFile(Format):
    """Keras's own format, without classes of this project."""

    name, title, suffix = "keras", "Keras", ".keras"

    def write(self, graph: Any, file: Path, description: Description) -> None:  # noqa: D102
        graph.save(file)
        _add_member(file, description)

    def load(self, file: Path) -> Run:  # noqa: D102
        _, keras = tensorflow.load()
        loaded = keras.models.load_model(file, compile=False)
        return lambda pixels: np.asarray(loaded(pixels, training=False))


FORMATS: Mapping[str, Format] = MappingProxyType(
    {own.name: own for own in (Onnx(), OpenVino(), LiteRt(), SavedModel(), KerasFile())}
)
"""By the names on the command line."""


def _add_member(file: Path, description: Description) -> None:
    """Put the description into a zip archive, or behind a .tflite file, as LiteRT's are added."""
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(_MEMBER, json.dumps(description))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep converters from telling what they do, and what of NumPy they use is old."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
