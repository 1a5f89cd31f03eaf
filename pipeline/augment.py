"""The parameters of one random view of a picture, and the one affine warp that applies them.

The parameters mean what they mean to Keras's ``ImageDataGenerator``, whose ``apply_transform``
moves pixels in the same way, about the same centre, and fills what comes from outside with the
nearest pixel. What differs, and why:

- Flips are part of the warp's matrix, so every view is one interpolation of the picture.
- Levels are rounded to ``uint8``, as the backbone's input is: up to half a level.
- Keras draws ``height_shift_range`` for its parameter ``tx``, which moves pixels sideways, and
  the other way round. Here `Augmentation.width_shift` moves them sideways, as its name says.
- Keras turns a picture that is not square about another point than its centre. Here it is always
  the centre.
- Brightness is added, and contrast is about each channel's mean, as in Keras's layers
  ``RandomBrightness`` and then ``RandomContrast``, which models are built from today;
  ``ImageDataGenerator`` multiplies by a brightness, and knows no contrast.

A view's parameters follow from the digest of the image's file and the view's number alone, and
are the same on every machine. The pixels are too, but where a level lies within a rounding error
of a half, which another CPU's arithmetic may round to its other neighbour.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError

DRAWING = "1"
"""Version of how a view is drawn and applied; part of every recipe with views, so it goes up when
either changes."""

_LIMITS = {
    "rotation": (180.0, "a number from 0 to 180"),
    "width_shift": (1.0, "a number from 0 to 1"),
    "height_shift": (1.0, "a number from 0 to 1"),
    "shear": (math.nextafter(90, 0), "a number from 0 to below 90"),
    "zoom": (math.nextafter(1, 0), "a number from 0 to below 1"),
    "brightness": (1.0, "a number from 0 to 1"),
    "contrast": (1.0, "a number from 0 to 1"),
}
_FLAGS = {"yes": True, "true": True, "no": False, "false": False}


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The ranges that a view's parameters are drawn from, uniformly; all are off by default.

    Parameters
    ----------
    rotation : float
        Largest angle in degrees, to either side.
    width_shift, height_shift : float
        Largest shift to either side, as a fraction of the picture's width or height.
    shear : float
        Largest shear in degrees, to either side. Keras's ``shear_range`` is in degrees too: a
        shear of 0.2, as many recipes have it, is a fifth of a degree and hardly to be seen.
    zoom : float
        Largest zoom: two factors from ``1 - zoom`` to ``1 + zoom``, one for each direction.
    horizontal_flip, vertical_flip : bool
        Flip every other picture left to right, or top to bottom.
    brightness : float
        Largest brightness that is added or taken away, as a fraction of white.
    contrast : float
        Largest change of contrast: a factor from ``1 - contrast`` to ``1 + contrast``.

    Raises
    ------
    PipelineError
        A range is no number, or lies outside what makes sense.
    """

    rotation: float = 0.0
    width_shift: float = 0.0
    height_shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    horizontal_flip: bool = False
    vertical_flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        for name in _PARAMETERS:
            value = getattr(self, name)
            if name not in _LIMITS:
                if not isinstance(value, bool):
                    raise _bad_value(name, value, "yes or no")
                continue
            limit, expected = _LIMITS[name]
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _bad_value(name, value, expected)
            if not 0 <= value <= limit:  # NaN fails this too
                raise _bad_value(name, value, expected)
            # 40 and 40.0 are equal, and so must their names be.
            object.__setattr__(self, name, float(value))

    @property
    def name(self) -> str:
        """The one text for this augmentation: the rules' version, then what is not off.

        ``"none"`` if all is off. Equal augmentations have equal names, others have others.
        """
        settings = [_setting(name, getattr(self, name)) for name in _PARAMETERS]
        return " ".join([DRAWING, *filter(None, settings)]) if any(settings) else "none"

    @classmethod
    def from_name(cls, text: str) -> Augmentation:
        """Read what `name` gave.

        Raises
        ------
        PipelineError
            The text is something else, or of another version of the rules.
        """
        if text == "none":
            return cls()
        version, *settings = text.split(" ")
        if version.isdecimal() and version != DRAWING:
            raise PipelineError(
                f"the augmentation {text!r} follows version {version} of the rules for views.",
                expected=f"version {DRAWING}, which is what this installation follows",
                fix="make the features anew, or use the release that they were made with",
            )
        try:
            pairs = (setting.partition("=") for setting in settings)
            values: dict[str, Any] = {key: _value(key, given or "yes") for key, _, given in pairs}
            augmentation = cls(**values)
        except PipelineError as error:
            raise _not_a_name(text) from error
        if augmentation.name != text:
            raise _not_a_name(text)
        return augmentation


_PARAMETERS = tuple(field.name for field in fields(Augmentation))

PRESETS: Mapping[str, Augmentation] = MappingProxyType(
    {
        "recipe": Augmentation(
            rotation=40,
            width_shift=0.2,
            height_shift=0.2,
            shear=0.2,
            zoom=0.2,
            horizontal_flip=True,
        ),
        "mild": Augmentation(
            rotation=3,
            width_shift=0.02,
            height_shift=0.02,
            zoom=0.02,
            horizontal_flip=True,
            vertical_flip=True,
        ),
        "none": Augmentation(),
    }
)
"""Augmentations by name: that of the classic Keras recipe for few photographs, one for aligned
pictures that have no upside, and none."""


def get_augmentation(text: str) -> Augmentation:
    """Read an augmentation as somebody types it.

    Parameters
    ----------
    text : str
        A name in `PRESETS`, settings of `Augmentation`, or a name and settings that change it,
        separated by commas: ``"mild"``, ``"rotation=10"``, ``"recipe,shear=0,vertical_flip=yes"``.

    Raises
    ------
    PipelineError
        There is no such preset or parameter, or a value is not one that it can have.
    """
    first, *rest = [part.strip() for part in text.split(",")]
    if "=" in first:
        first, rest = "none", [first, *rest]
    if first not in PRESETS:
        raise PipelineError(
            f"unknown augmentation {first!r}.",
            expected=f"one of {', '.join(PRESETS)}, or settings as in {'rotation=10,zoom=0.1'!r}",
        )
    settings: dict[str, Any] = {}
    for part in rest:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise PipelineError(
                f"{part!r} in the augmentation {text!r} is no setting.",
                expected="at most one preset, which comes first, then settings as in 'rotation=10'",
            )
        if key in settings:
            raise PipelineError(f"{key} is set twice in the augmentation {text!r}.")
        settings[key] = _value(key, value)
    return replace(PRESETS[first], **settings)


def _setting(name: str, value: float) -> str:
    """Write one parameter as it stands in a name; nothing where it is off."""
    if not value:
        return ""
    # repr is the shortest text that gives the same number back.
    return name if value is True else f"{name}={repr(value).removesuffix('.0')}"


def _value(name: str, text: str) -> float:
    if name not in _PARAMETERS:
        raise PipelineError(
            f"an augmentation has no parameter {name!r}.",
            expected=f"one of {', '.join(_PARAMETERS)}",
        )
    if name not in _LIMITS:
        if text.lower() not in _FLAGS:
            raise _bad_value(name, text, "yes or no")
        return _FLAGS[text.lower()]
    try:
        return float(text)
    except ValueError:
        raise _bad_value(name, text, _LIMITS[name][1]) from None


def _bad_value(name: str, value: object, expected: str) -> PipelineError:
    return PipelineError(f"the augmentation's {name} is {value!r}.", expected=expected)


def _not_a_name(text: str) -> PipelineError:
    return PipelineError(
        f"{text!r} is no augmentation's name.",
        expected=f"a text as in {PRESETS['mild'].name!r}, which Augmentation.name gives",
    )


@dataclass(frozen=True, kw_only=True)
class View:
    """The parameters of one view, by Keras's names, in the order in which they take effect.

    The defaults change nothing.

    Parameters
    ----------
    theta : float
        Angle in degrees; the picture turns counter-clockwise.
    tx, ty : float
        What fraction of the width the picture moves to the left, and of the height upwards.
    shear : float
        Shear in degrees: the lower part moves to the right, and the picture grows taller.
    zx, zy : float
        How much of the picture's width and height the view takes in: above 1, the picture shrinks.
    flip_horizontal, flip_vertical : bool
        Left becomes right, or top becomes bottom.
    brightness : float
        What is added, as a fraction of white.
    contrast : float
        What distances from each channel's mean are multiplied by; after the brightness.
    """

    theta: float = 0.0
    tx: float = 0.0
    ty: float = 0.0
    shear: float = 0.0
    zx: float = 1.0
    zy: float = 1.0
    flip_horizontal: bool = False
    flip_vertical: bool = False
    brightness: float = 0.0
    contrast: float = 1.0


def draw(augmentation: Augmentation, digest: bytes, view: int) -> View:
    """Draw the parameters of one view; the same ones on every call, on every machine.

    The ranges do not enter the random numbers, only scale them: under a rotation of 10 and of 20
    degrees, a view turns to the same side, and no parameter depends on which others are on. So two
    augmentations are compared on the same luck.

    Parameters
    ----------
    augmentation : Augmentation
        The ranges.
    digest : bytes
        SHA-256 of the image's file.
    view : int
        Number of the view, from 1; view 0 is the image itself.
    """
    if view < 1:
        raise ValueError(f"view is {view}: it must be at least 1, as view 0 is the image itself")
    # Not NumPy's generators: their numbers may change from one release to the next. A longer
    # stream starts with the same bytes, so what a new parameter needs can be taken at its end.
    seed = f"pipeline.augment {DRAWING} ".encode() + digest + view.to_bytes(8, "big")
    stream = hashlib.shake_256(seed).digest(8 * 10)
    numbers = [int.from_bytes(stream[at : at + 8], "big") / 2**64 for at in range(0, 80, 8)]

    def around(middle: float, reach: float, number: float) -> float:
        return middle + reach * (2 * number - 1)

    return View(
        theta=around(0, augmentation.rotation, numbers[0]),
        tx=around(0, augmentation.width_shift, numbers[1]),
        ty=around(0, augmentation.height_shift, numbers[2]),
        shear=around(0, augmentation.shear, numbers[3]),
        zx=around(1, augmentation.zoom, numbers[4]),
        zy=around(1, augmentation.zoom, numbers[5]),
        flip_horizontal=augmentation.horizontal_flip and numbers[6] < 0.5,
        flip_vertical=augmentation.vertical_flip and numbers[7] < 0.5,
        brightness=around(0, augmentation.brightness, numbers[8]),
        contrast=around(1, augmentation.contrast, numbers[9]),
    )


def apply(pixels: npt.NDArray[np.uint8], view: View) -> npt.NDArray[np.uint8]:
    """Make one view of a picture, in a new array.

    Other threads run meanwhile.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, 3)
        The picture; left as it is.
    view : View
        What `draw` gave.
    """
    from scipy.ndimage import affine_transform

    _check(pixels)
    matrix, offset = _warp(view, pixels.shape[0], pixels.shape[1])
    levels = np.empty(pixels.shape)
    for channel in range(3):
        affine_transform(
            pixels[..., channel],
            matrix,
            offset,
            output=levels[..., channel],
            order=1,
            mode="nearest",
        )
    if view.brightness != 0:
        levels += 255 * view.brightness
        np.clip(levels, 0, 255, out=levels)
    if view.contrast != 1:
        mean = levels.mean(axis=(0, 1))
        levels -= mean
        levels *= view.contrast
        levels += mean
        np.clip(levels, 0, 255, out=levels)
    return np.rint(levels, out=levels).astype(np.uint8)


def _check(pixels: npt.NDArray[np.uint8]) -> None:
    # Other numbers would be cut to 8 bits without a word.
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"pixels are {pixels.dtype} {pixels.shape}: they must be uint8 (height, width, 3)"
        )


def _warp(
    view: View, height: int, width: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Give the matrix and offset that lead from a view's (row, column) to the picture's."""
    theta, shear = math.radians(view.theta), math.radians(view.shear)
    turn = np.array([[math.cos(theta), math.sin(theta)], [-math.sin(theta), math.cos(theta)]])
    slant = np.array([[math.cos(shear), 0.0], [-math.sin(shear), 1.0]])
    stretch = np.diag(
        [
            -view.zy if view.flip_vertical else view.zy,
            -view.zx if view.flip_horizontal else view.zx,
        ]
    )
    matrix = turn @ slant @ stretch
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    shift = np.array([view.ty * height, view.tx * width])
    return matrix, centre + turn @ shift - matrix @ centre


def views_of(
    pixels: npt.NDArray[np.uint8], augmentation: Augmentation, digest: bytes, count: int
) -> npt.NDArray[np.uint8]:
    """Make an image's first views: the image itself, then ``count - 1`` drawn ones.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, 3)
        The image as decoded.
    augmentation : Augmentation
        The ranges to draw from.
    digest : bytes
        SHA-256 of the image's file.
    count : int
        Number of views, the image itself among them.

    Returns
    -------
    ndarray of uint8, shape (count, height, width, 3)
        The views; row 0 is `pixels`.
    """
    if count < 1:
        raise ValueError(f"count is {count}: it must be at least 1")
    _check(pixels)
    drawn = (apply(pixels, draw(augmentation, digest, view)) for view in range(1, count))
    return np.stack([pixels, *drawn])
