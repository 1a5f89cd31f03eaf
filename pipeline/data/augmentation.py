"""Which random views of a picture may be drawn; `pipeline.data.views` draws and applies them.

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

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from pipeline.errors import PipelineError

DRAWING = "1"
"""Version of how a view is drawn and applied: it goes up when either changes, since it is part of
every recipe with views."""

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
        shear of 0.2, as in the textbook, is a fifth of a degree and hardly to be seen.
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
        """Text for this augmentation: the version of drawing, then the parameters that are not off.

        ``"none"`` if all are off. Augmentations have the same name if and only if they are equal.
        """
        settings = [_setting(name, getattr(self, name)) for name in _PARAMETERS]
        return " ".join([DRAWING, *filter(None, settings)]) if any(settings) else "none"

    @classmethod
    def from_name(cls, text: str) -> Augmentation:
        """Read a text that `name` gave.

        Raises
        ------
        PipelineError
            The text is something else, or of another version of drawing.
        """
        if text == "none":
            return cls()
        version, *settings = text.split(" ")
        if version.isdecimal() and version != DRAWING:
            raise PipelineError(
                f"the augmentation {text!r} is of version {version} of drawing views.",
                expected=f"version {DRAWING}, the one that is installed",
                fix="compute the features again, or use the release that they were made with",
            )
        try:
            pairs = (setting.partition("=") for setting in settings)
            values: dict[str, Any] = {key: _value(key, given or "yes") for key, _, given in pairs}
            augmentation = cls(**values)
        except PipelineError as error:
            raise _bad_name(text) from error
        if augmentation.name != text:
            raise _bad_name(text)
        return augmentation


_PARAMETERS = tuple(field.name for field in fields(Augmentation))

PRESETS: Mapping[str, Augmentation] = MappingProxyType(
    {
        "textbook": Augmentation(
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
"""Augmentations by name: ``"textbook"`` is Chollet's, for few photographs; ``"mild"`` is for
aligned pictures without a right way up."""


_FORMER_NAMES = {"recipe": "textbook"}  # up to version 0.1


def get_augmentation(text: str) -> Augmentation:
    """Read an augmentation as it is typed.

    Parameters
    ----------
    text : str
        A name in `PRESETS`, settings of `Augmentation`, or a name and settings that change it,
        separated by commas: ``"mild"``, ``"rotation=10"``, ``"textbook,shear=0"``.

    Raises
    ------
    PipelineError
        There is no such preset or parameter, or a value is out of its range.
    """
    first, *rest = [part.strip() for part in text.split(",")]
    if "=" in first:
        first, rest = "none", [first, *rest]
    first = _FORMER_NAMES.get(first, first)
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
                f"{part!r} in the augmentation {text!r} is not a setting.",
                expected="at most one preset, which comes first, then settings as in 'rotation=10'",
            )
        if key in settings:
            raise PipelineError(f"{key} is set twice in the augmentation {text!r}.")
        settings[key] = _value(key, value)
    return replace(PRESETS[first], **settings)


def _setting(name: str, value: float) -> str:
    """Write one parameter as in a name; nothing where it is off."""
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


def _bad_name(text: str) -> PipelineError:
    return PipelineError(
        f"{text!r} is not the name of an augmentation.",
        expected=f"a text that Augmentation.name gives, as {PRESETS['mild'].name!r}",
    )


def typed(augmentation: str) -> str:
    """Write an augmentation's name as a user types it: the preset's name, or its settings."""
    presets = {preset.name: name for name, preset in PRESETS.items()}
    _, *settings = augmentation.split(" ")
    shown = (setting if "=" in setting else f"{setting}=yes" for setting in settings)
    return presets.get(augmentation, ",".join(shown))
