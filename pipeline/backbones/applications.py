"""The image networks of `keras.applications`, behind one class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.cuts import clean_cuts
from pipeline.backbones.findings import remember_shapes
from pipeline.backbones.weights import Published
from pipeline.system import tensorflow

_SCALING_INSIDE = ("ConvNeXt", "EfficientNetV2", "MobileNetV3")
_DEVIATION = (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue


class Facts(NamedTuple):
    """What is known of a network before it is built.

    Attributes
    ----------
    constructor : str
        Its name in `keras.applications`.
    scaling : str
        Name of the rule in `pipeline.backbones.scaling` that it was trained with; ``"none"`` where
        the network scales pixels itself and that cannot be left out.
    size : int
        Side of the pictures that it was trained with, in pixels.
    parameters : int
        As Keras counts them without the classifier.
    multiply_adds : float
        Of its convolutions for one such picture, in billions.
    licence : str
        Of the weights, as https://keras.io/api/applications and their sources name it.
    keras_file : str
        Name of the file that Keras downloads them into.
    """

    constructor: str
    scaling: str
    size: int
    parameters: int
    multiply_adds: float
    licence: str
    keras_file: str


class Application(Backbone):
    """A network of `keras.applications`; its layers are found in its graph."""

    def __init__(self, facts: Facts) -> None:
        self.name, self.title = facts.constructor.lower(), facts.constructor
        self.default_size = facts.size
        self.least_size = 75 if self.title.startswith(("Inception", "Xception")) else 32
        self.scalings = (facts.scaling,)
        self.parameters, self.multiply_adds = facts.parameters, facts.multiply_adds
        self.licence = facts.licence
        self.published = Published(keras_file=facts.keras_file)
        self._shapes = cache(partial(remember_shapes, self.name, find=self._find_shapes))

    @cached_property
    def layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """Where the network can be cut, from the input up."""
        return tuple(self._shapes(self.default_size))

    @property
    def cuts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Every such place but the first."""
        return self.layers[1:]

    @property
    def default_layer(self) -> str:  # type: ignore[override]
        """The last layer."""
        return self.top

    @property
    def default_cut(self) -> str:  # type: ignore[override]
        """The block in which height and width are halved for the last time: all of it is trained.

        Where such a block first makes its rows wider, the narrower ones below are those to keep.
        """
        shapes = list(self._shapes(self.default_size).values())
        at = [height for height, _, _ in shapes].index(shapes[-1][0])
        while at > 1 and shapes[at - 2][2] < shapes[at - 1][2]:
            at -= 1
        return self.layers[at]

    @property
    def taps(self) -> tuple[str, ...]:
        """The layers that see a picture at an eighth of its size, or less."""
        shapes = self._shapes(self.default_size)
        return tuple(layer for layer in shapes if shapes[layer][0] <= self.default_size / 7)

    def shape(self, layer: str, size: int) -> tuple[int, int, int]:
        """Return the shape of a row, as the network has it at that size."""
        return self._shapes(size)[layer]

    def architecture(self, size: int | None = None, weights: str | None = None) -> Any:
        """Build Keras's model without its classifier and, where that can be, its preprocessing."""
        _, keras = tensorflow.load()
        options = {"include_preprocessing": False} if self.title.startswith(_SCALING_INSIDE) else {}
        build = getattr(keras.applications, self.title)
        shape = (size, size, 3) if size else None
        return build(weights=weights, include_top=False, input_shape=shape, **options)

    def build(
        self, size: int, precision: str, weights: Sequence[npt.NDArray[np.float32]] | None
    ) -> Any:
        """Build the network as Keras does with its published weights.

        With these Keras divides the pictures of EfficientNet once more, by the root of ImageNet's
        deviation; here the variance that the network divides by has that factor.
        """
        if weights is not None and self.title.startswith("EfficientNetB"):
            mean, variance, *rest = weights
            weights = [mean, variance * np.array(_DEVIATION, np.float32), *rest]
        network = super().build(size, precision, weights)
        for layer in network.layers:
            if hasattr(
                layer, "finalize_state"
            ):  # Normalization computes with copies of its weights
                layer.finalize_state()
        return network

    def output(self, network: Any, layer: str) -> Any:
        """Return a layer's output in a network that `build` has built."""
        return clean_cuts(network)[layer]

    @tensorflow.pinned()
    def _find_shapes(self, size: int) -> dict[str, tuple[int, int, int]]:
        cuts = clean_cuts(self.architecture(size))
        return {layer: tuple(output.shape[1:]) for layer, output in cuts.items()}


def _usual(name: str) -> str:
    return f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"


_APACHE, _MIT, _BSD = "Apache-2.0", "MIT", "BSD-3-Clause"

APPLICATIONS = tuple(
    Application(Facts(*row))
    for row in (
        ("VGG19", "caffe", 224, 20_024_384, 19.508, "CC BY 4.0", _usual("vgg19")),
        ("ResNet50", "caffe", 224, 23_587_712, 3.856, _MIT, _usual("resnet50")),
        ("ResNet101", "caffe", 224, 42_658_176, 7.568, _MIT, _usual("resnet101")),
        ("ResNet152", "caffe", 224, 58_370_944, 11.28, _MIT, _usual("resnet152")),
        ("ResNet50V2", "tf", 224, 23_564_800, 3.48, _APACHE, _usual("resnet50v2")),
        ("ResNet101V2", "tf", 224, 42_626_560, 7.192, _APACHE, _usual("resnet101v2")),
        ("ResNet152V2", "tf", 224, 58_331_648, 10.905, _APACHE, _usual("resnet152v2")),
        ("InceptionV3", "tf", 299, 21_802_784, 5.711, _APACHE, _usual("inception_v3")),
        (
            "InceptionResNetV2",
            "tf",
            299,
            54_336_736,
            13.154,
            _APACHE,
            _usual("inception_resnet_v2"),
        ),
        ("Xception", "tf", 299, 20_861_480, 8.355, _MIT, _usual("xception")),
        ("MobileNet", "tf", 224, 3_228_864, 0.568, _APACHE, "mobilenet_1_0_224_tf_no_top.h5"),
        (
            "MobileNetV2",
            "tf",
            224,
            2_257_984,
            0.299,
            _APACHE,
            "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
        ),
        (
            "MobileNetV3Small",
            "tf",
            224,
            939_120,
            0.055,
            _APACHE,
            "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        ),
        (
            "MobileNetV3Large",
            "tf",
            224,
            2_996_352,
            0.214,
            _APACHE,
            "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        ),
        ("DenseNet121", "torch", 224, 7_037_504, 2.833, _BSD, _usual("densenet121")),
        ("DenseNet169", "torch", 224, 12_642_880, 3.358, _BSD, _usual("densenet169")),
        ("DenseNet201", "torch", 224, 18_321_984, 4.289, _BSD, _usual("densenet201")),
        ("NASNetMobile", "tf", 224, 4_269_716, 0.563, _APACHE, "nasnet_mobile_no_top.h5"),
        ("NASNetLarge", "tf", 331, 84_916_818, 23.779, _APACHE, "nasnet_large_no_top.h5"),
        ("EfficientNetB0", "none", 224, 4_049_571, 0.385, _APACHE, "efficientnetb0_notop.h5"),
        ("EfficientNetB1", "none", 240, 6_575_239, 0.686, _APACHE, "efficientnetb1_notop.h5"),
        ("EfficientNetB2", "none", 260, 7_768_569, 0.992, _APACHE, "efficientnetb2_notop.h5"),
        ("EfficientNetB3", "none", 300, 10_783_535, 1.826, _APACHE, "efficientnetb3_notop.h5"),
        ("EfficientNetB4", "none", 380, 17_673_823, 4.392, _APACHE, "efficientnetb4_notop.h5"),
        ("EfficientNetB5", "none", 456, 28_513_527, 10.264, _APACHE, "efficientnetb5_notop.h5"),
        ("EfficientNetB6", "none", 528, 40_960_143, 19.065, _APACHE, "efficientnetb6_notop.h5"),
        ("EfficientNetB7", "none", 600, 64_097_687, 37.743, _APACHE, "efficientnetb7_notop.h5"),
        ("EfficientNetV2B0", "torch", 224, 5_919_312, 0.717, _APACHE, "efficientnetv2-b0_notop.h5"),
        ("EfficientNetV2B1", "torch", 240, 6_931_124, 1.196, _APACHE, "efficientnetv2-b1_notop.h5"),
        ("EfficientNetV2B2", "torch", 260, 8_769_374, 1.696, _APACHE, "efficientnetv2-b2_notop.h5"),
        ("EfficientNetV2B3", "torch", 300, 12_930_622, 3.01, _APACHE, "efficientnetv2-b3_notop.h5"),
        ("EfficientNetV2S", "signed", 384, 20_331_360, 8.364, _APACHE, "efficientnetv2-s_notop.h5"),
        (
            "EfficientNetV2M",
            "signed",
            480,
            53_150_388,
            24.581,
            _APACHE,
            "efficientnetv2-m_notop.h5",
        ),
        (
            "EfficientNetV2L",
            "signed",
            480,
            117_746_848,
            56.078,
            _APACHE,
            "efficientnetv2-l_notop.h5",
        ),
        ("ConvNeXtTiny", "torch", 224, 27_820_128, 4.455, _MIT, "convnext_tiny_notop.h5"),
        ("ConvNeXtSmall", "torch", 224, 49_454_688, 8.683, _MIT, "convnext_small_notop.h5"),
        ("ConvNeXtBase", "torch", 224, 87_566_464, 15.354, _MIT, "convnext_base_notop.h5"),
        ("ConvNeXtLarge", "torch", 224, 196_230_336, 34.36, _MIT, "convnext_large_notop.h5"),
        ("ConvNeXtXLarge", "torch", 224, 348_147_968, 60.919, _MIT, "convnext_xlarge_notop.h5"),
    )
)
"""All of them but VGG16. Sizes of pictures and of networks are those of Keras 3.15."""
