"""Drawing the parameters of one random view, and applying them to a picture."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.augmentation import DRAWING, Augmentation


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

    def __str__(self) -> str:
        """Say what is changed, as a person sees it."""
        shifts = {"left": self.tx, "up": self.ty}
        opposite = {"left": "right", "up": "down"}
        parts = [
            self.theta and f"turned {self.theta:+.1f}°",
            *(
                share and f"{abs(share):.0%} {way if share > 0 else opposite[way]}"
                for way, share in shifts.items()
            ),
            self.shear and f"shear {self.shear:+.1f}°",
            (self.zx, self.zy) != (1, 1) and f"size {1 / self.zx:.0%} x {1 / self.zy:.0%}",
            self.flip_horizontal and "left and right swapped",
            self.flip_vertical and "top and bottom swapped",
            self.brightness and f"brightness {self.brightness:+.0%}",
            self.contrast != 1 and f"contrast {self.contrast:.0%}",
        ]
        return ", ".join(part for part in parts if isinstance(part, str)) or "the image itself"


def draw(augmentation: Augmentation, digest: bytes, view: int) -> View:
    """Draw the parameters of one view; the same on every call and on every machine.

    The ranges scale the random numbers, and do not change them: with a rotation of 10 and of 20
    degrees, a view turns to the same side, and no parameter depends on which others are on. So two
    augmentations are compared on the same random numbers.
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
    """Make one view of a picture of shape (height, width, 3), in a new array."""
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
    """Return the matrix and offset that lead from a view's (row, column) to the picture's."""
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
    """Make an image's first views: the image itself, then ``count - 1`` drawn ones."""
    if count < 1:
        raise ValueError(f"count is {count}: it must be at least 1")
    _check(pixels)
    drawn = (apply(pixels, draw(augmentation, digest, view)) for view in range(1, count))
    return np.stack([pixels, *drawn])
