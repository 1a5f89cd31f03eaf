"""Recipes of backbones, by name."""

from __future__ import annotations

from pipeline.backbones.int8 import read_peaks
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.vgg16 import IMAGENET_WEIGHTS, LAYERS, feature_shape
from pipeline.data import images
from pipeline.errors import PipelineError
from pipeline.system.machine import native_precision

_MIN_SIZE = 32  # what keras.applications accepts: five poolings leave one pixel

SCALINGS = ("caffe", "unit")
PRECISIONS = ("auto", "float32", "bfloat16", "int8")


def vgg16_recipe(
    *,
    layer: str = "block5_pool",
    size: int = 150,
    scaling: str = "caffe",
    precision: str = "auto",
    resize: str = "bilinear",
    calibration: str = "none",
) -> Recipe:
    """Make the recipe for features of VGG16 with ImageNet weights.

    Parameters
    ----------
    layer : str
        Where the base is cut: one of `LAYERS`.
    size : int
        Side of the square input in pixels, at least 32. 150 is the textbook recipe's.
    scaling : {"caffe", "unit"}
        VGG16's own preprocessing (BGR, ImageNet's mean subtracted), or the textbook
        recipe's division by 255.
    precision : {"auto", "float32", "bfloat16", "int8"}
        ``"auto"`` is bfloat16 where this CPU computes in it natively, else float32.
    resize : str
        One of `pipeline.data.images.FILTERS`.
    calibration : str
        For ``"int8"``: what `calibrate` measured, or ``"none"`` where it has still to.

    Raises
    ------
    PipelineError
        A value is not one of these.
    """
    for name, value, known in (
        ("layer", layer, LAYERS),
        ("scaling", scaling, SCALINGS),
        ("precision", precision, PRECISIONS),
        ("resize", resize, tuple(images.FILTERS)),
    ):
        if value not in known:
            raise PipelineError(f"unknown {name} {value!r}.", expected=f"one of {', '.join(known)}")
    if size < _MIN_SIZE:
        raise PipelineError(f"size {size} is too small.", expected=f"at least {_MIN_SIZE} pixels")
    if calibration != "none":
        read_peaks(layer, precision, calibration)
    return Recipe(
        backbone="vgg16",
        weights=IMAGENET_WEIGHTS,
        layer=layer,
        shape=feature_shape(layer, size),
        size=size,
        decoding=images.DECODING,
        resize=resize,
        scaling=scaling,
        precision=native_precision() if precision == "auto" else precision,
        engine="openvino" if precision == "int8" else "tensorflow",
        calibration=calibration,
    )


def needs_calibration(recipe: Recipe) -> bool:
    """Tell whether `calibrate` has to come before rows can be computed."""
    return recipe.precision == "int8" and recipe.calibration == "none"
