"""Any of Pillow's modes to 8-bit grey or RGB: palettes, transparency, 16 bits, floats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageFile
from PIL.ExifTags import Base as Tag

from pipeline.data.decoding import MAX_16_BIT
from pipeline.errors import ImageError

_MAX_12_BIT = 4095
_PIXELS_AT_ONCE = 1 << 20  # a whole picture takes up to 28 bytes a pixel while it is converted


def to_8_bits(image: Image.Image, white: int | None = None) -> Image.Image:
    """Convert any of Pillow's modes to ``L`` or ``RGB``; `white` is that of 16-bit grey."""
    convert: Callable[[Image.Image], Image.Image] = _flatten
    if image.mode.startswith("I"):
        convert = _integers_converter(image, white)
    elif image.mode == "F":
        _check_floats(image)
        convert = _from_floats
    elif image.mode in ("L", "RGB") and not image.has_transparency_data:
        return image
    parts = map(convert, _parts(image))
    first = next(parts)
    if first.size == image.size:
        return first
    whole = Image.new(first.mode, image.size)
    whole.paste(first)
    top = first.height
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def is_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Whether an image that is not loaded yet has 16 bits a channel, of which Pillow takes 8."""
    return not image.mode.startswith("I") and any(";16" in str(tile.args) for tile in image.tile)


def is_12_bit(image: Image.Image) -> bool:
    """Whether a TIFF declares 12 bits, of which Pillow makes 16 without touching the values."""
    return getattr(image, "tag_v2", {}).get(Tag.BitsPerSample) == (12,)


def _parts(image: Image.Image) -> Iterator[Image.Image]:
    """Cut a picture into strips, from the top down."""
    rows = max(1, _PIXELS_AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def extremes(image: Image.Image) -> tuple[Any, Any]:
    """Return the least and the largest value, or NaN if there is one."""
    ends = [(values.min(), values.max()) for values in map(np.asarray, _parts(image))]
    return np.min(ends), np.max(ends)


def _flatten(image: Image.Image) -> Image.Image:
    """Lay a picture on white if it is transparent, and convert it to grey or RGB."""
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        # White is what a page, a viewer and a journal put behind a cut-out. What the file stores
        # under its transparent pixels was never meant to be seen, and is often black or garbage.
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


def _integers_converter(
    image: Image.Image, white: int | None
) -> Callable[[Image.Image], Image.Image]:
    """Scale 16-bit grey by the white level, else by the range that the file declares.

    A 12-bit camera's values in a 16-bit file come out dark without a white level. Stretching each
    image to its own range would look better and make a dim sample and a bright one the same.
    Pillow's `convert` clips at 255: nearly all white.
    """
    low, high = map(int, extremes(image))
    if low < 0 or high > (white or MAX_16_BIT):
        raise ImageError(
            f"integers from {low} to {high}",
            expected=f"8-bit values, or 16-bit values from 0 to {white or MAX_16_BIT}",
            fix=f"Give a higher white level: --white {2 ** high.bit_length() - 1}."
            if white and low >= 0 and high <= MAX_16_BIT
            else "Rescale all images by one rule and save them with 8 or 16 bits.",
        )
    # Pillow unpacks 12-bit TIFFs, and leaves white-is-zero ones, without touching the values.
    declared = _MAX_12_BIT if is_12_bit(image) else MAX_16_BIT
    inverted = getattr(image, "tag_v2", {}).get(Tag.PhotometricInterpretation) == 0
    return partial(_from_integers, white=white or declared, inverted=inverted)


def _from_integers(image: Image.Image, *, white: int, inverted: bool) -> Image.Image:
    values = np.asarray(image)
    grey = values.astype(np.uint32)
    grey *= 255
    grey += white // 2
    grey //= white
    pixels = np.minimum(grey, 255).astype(np.uint8)
    if inverted:
        pixels = 255 - pixels
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        pixels[values == transparent] = 255
    return Image.fromarray(pixels)


def _check_floats(image: Image.Image) -> None:
    low, high = map(float, extremes(image))
    if not (low >= 0 and high <= 1):  # NaN fails this too
        raise ImageError(
            f"floating-point values from {low:g} to {high:g}",
            expected="floating-point values from 0 (black) to 1 (white)",
            fix="Rescale all images by one rule and save them with 8 or 16 bits.",
        )


def _from_floats(image: Image.Image) -> Image.Image:
    levels = np.asarray(image) * 255
    return Image.fromarray(np.rint(levels, out=levels).astype(np.uint8))
