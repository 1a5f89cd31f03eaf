"""Networks by name, and recipes for their features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from pipeline.backbones.applications import APPLICATIONS
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.choices import DEFAULT, EVERY_LAYER, FINE_LAYERS, LAYERS, PRECISIONS
from pipeline.backbones.efficientnet_lite import EfficientNetLite0
from pipeline.backbones.int8 import read_peaks
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.vgg16 import VGG16
from pipeline.data import images
from pipeline.data.decoding import Decoding
from pipeline.errors import PipelineError, did_you_mean
from pipeline.system.machine import native_precision

BACKBONES: Mapping[str, Backbone] = MappingProxyType(
    {backbone.name: backbone for backbone in (VGG16(), EfficientNetLite0(), *APPLICATIONS)}
)


def get_backbone(name: str) -> Backbone:
    """Return a network by name.

    Raises
    ------
    PipelineError
        There is no such network.
    """
    _check_known("backbone", name, tuple(BACKBONES))
    return BACKBONES[name]


def make_recipe(
    backbone: str = DEFAULT,
    *,
    layer: str | None = None,
    size: int | None = None,
    scaling: str | None = None,
    precision: str = "auto",
    resize: str = "bilinear",
    calibration: str = "none",
    white: int | None = None,
    page: int = 1,
    weights: Path | None = None,
) -> Recipe:
    """Make the recipe for features of a network.

    Parameters
    ----------
    backbone : str
        A name in `BACKBONES`.
    layer : str, optional
        Where the network is cut: one of `Backbone.layers`, or ``"layers"`` for a row of the maxima
        of every layer, which in float32 is ``"layers-fine"``. The default is the network's own, as
        for `size` and `scaling`.
    size : int, optional
        Side of the square input in pixels.
    scaling : str, optional
        What is done to pixels: a name in `pipeline.backbones.scaling.RULES` that the network
        takes, as ``"unit"`` (divided by 255, the textbook's way).
    precision : {"auto", "float32", "bfloat16", "int8"}
        ``"auto"`` is bfloat16 where this CPU computes in it natively, else float32.
    resize : str
        One of `pipeline.data.images.FILTERS`.
    calibration : str
        For ``"int8"``: what `pipeline.backbones.running.calibrate` measured, or ``"none"`` before.
    white, page
        As in `pipeline.data.decoding.Decoding`.
    weights : Path, optional
        A file with weights of the network; the default is the published ones.

    Raises
    ------
    PipelineError
        A value is not one of these.
    WeightsError
        The weights cannot be read.
    """
    precision = native_precision() if precision == "auto" else precision
    if layer is not None:
        _check_known("layer", layer, (*get_backbone(backbone).layers, LAYERS))
    recipe = _make(
        backbone,
        layer=_layers_in(precision) if layer == LAYERS else layer,
        size=size,
        scaling=scaling,
        precision=precision,
        resize=resize,
        calibration=calibration,
        decoding=Decoding(white, page),
    )
    return replace(recipe, weights=get_backbone(backbone).weights_digest(weights))


def _make(
    backbone: str,
    *,
    layer: str | None,
    size: int | None,
    scaling: str | None,
    precision: str,
    resize: str,
    calibration: str,
    decoding: Decoding,
) -> Recipe:
    """Make a recipe that lacks only its weights."""
    network = get_backbone(backbone)
    layer = network.default_layer if layer is None else layer
    size = network.default_size if size is None else size
    scaling = network.scalings[0] if scaling is None else scaling
    _check_known("layer", layer, (*network.layers, *EVERY_LAYER))
    _check_known("scaling", scaling, network.scalings)
    _check_known("precision", precision, PRECISIONS)
    _check_known("resize", resize, tuple(images.FILTERS))
    if size < network.least_size:
        raise PipelineError(
            f"size {size} is too small for {network.title}.",
            expected=f"at least {network.least_size} pixels",
        )
    steps = network.steps(layer) if precision == "int8" else ()
    if calibration != "none" and not steps:
        raise PipelineError(f"a calibration is for precision int8 only, not for {precision}.")
    if calibration != "none":
        read_peaks(calibration, steps)
    return Recipe(
        backbone=backbone,
        weights="",
        layer=layer,
        shape=network.row_shape(layer, size),
        size=size,
        decoding=decoding.name,
        resize=resize,
        scaling=scaling,
        precision=precision,
        engine="openvino" if precision == "int8" else network.engine,
        calibration=calibration,
    )


def remake_recipe(recipe: Recipe, *, layer: str | None = None) -> Recipe:
    """Make a recipe again as this installation would, perhaps with another layer.

    A calibration is kept only if it still fits.
    """
    remade = _make(
        recipe.backbone,
        layer=layer or recipe.layer,
        size=recipe.size,
        scaling=recipe.scaling,
        precision=recipe.precision,
        resize=recipe.resize,
        calibration=recipe.calibration if layer in (None, recipe.layer) else "none",
        decoding=Decoding.from_name(recipe.decoding),
    )
    return replace(remade, weights=recipe.weights)


def layers_recipe(recipe: Recipe) -> Recipe | None:
    """Return the recipe for the maxima of every layer, of the same pass as a recipe's last layer.

    None where the recipe's network is cut below its last layer: other layers are not computed then.
    """
    backbone = get_backbone(recipe.backbone)
    if recipe.layer != backbone.top:
        return None
    layer = _layers_in(recipe.precision)
    return replace(recipe, layer=layer, shape=backbone.row_shape(layer, recipe.size))


def _layers_in(precision: str) -> str:
    return FINE_LAYERS if precision == "float32" else LAYERS


def _check_known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise PipelineError(
            f"unknown {what} {value!r}.",
            expected=f"one of {', '.join(known)}",
            fix=did_you_mean(value, known),
        )
