"""An image file's bytes to the square of pixels that the backbone is shown.

Whatever a file holds (a phone's rotated photo, a palette, CMYK, 16-bit microscopy), what comes out
is ``uint8 (size, size, 3)`` RGB; a file that cannot be read whole is refused with an `ImageError`,
never shown in part. Colour profiles are not applied, as Keras does not apply them either.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.ExifTags import Base as Tag

from pipeline.errors import ImageError

FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What is read, by Pillow's names. Pillow's other decoders are never tried."""

DECODING = "1"
"""Version of the rules below; part of every recipe, so it goes up when pixels change."""

EXTENSIONS: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
)
"""Suffixes, in lower case, of the files that are taken for images."""


FILTERS: dict[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
}
"""Resize rules by name. Pillow widens all but ``nearest`` when it shrinks (antialiasing)."""

MAX_PIXELS = 178_956_970
"""Pixels beyond which a file is refused as a decompression bomb: Pillow's own limit for an error.

At 4 bytes a pixel in Pillow, a picture of this size takes 0.7 GB while it is decoded.
"""

_THUMBNAIL_QUALITY = 80

_MAX_12_BIT = 4095
_MAX_16_BIT = 65_535

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    data: bytes, size: int, *, resize: str = "bilinear", scaled: bool = True
) -> npt.NDArray[np.uint8]:
    """Decode one image file and stretch it to a square.

    The same bytes give the same pixels on every call, in any thread.

    Parameters
    ----------
    data : bytes
        A whole file in one of `FORMATS`. Of an animation or a stack, the first picture is used.
    size : int
        Side of the square in pixels. The aspect ratio is not kept.
    resize : {"bilinear", "nearest", "bicubic"}
        Resize rule. ``nearest`` is what Keras's ``flow_from_directory`` does by default, and gives
        the pixels of ``keras.utils.load_img`` for opaque 8-bit images without an EXIF orientation.
    scaled : bool
        Let a large image be shrunk cheaply to at least twice `size` before the filter: a JPEG by
        decoding only its low frequencies, any other by averaging whole blocks of pixels. Turn it
        off to measure what that changes. Never done for ``nearest``.

    Returns
    -------
    ndarray of uint8, shape (size, size, 3)
        RGB, 0 to 255; upright by the EXIF orientation; transparency laid on white; 16-bit values
        divided by 257.

    Raises
    ------
    ImageError
        The file is empty, truncated, damaged, too large, of another format, or holds values that
        have no fixed place between black and white.
    """
    if resize not in FILTERS:
        raise ValueError(f"resize is {resize!r}: it must be one of {', '.join(FILTERS)}")
    if size < 1:
        raise ValueError(f"size is {size}: it must be at least 1")
    # Nearest takes single pixels, and which ones depends on the size of what it takes them from.
    scaled = scaled and resize != "nearest"
    return np.array(_load(data, size, lambda width, height: (size, size), resize, scaled))


def thumbnail(data: bytes, side: int) -> bytes:
    """Decode one image file and make a small picture of it, to be shown to people.

    Parameters
    ----------
    data : bytes
        As for `decode`.
    side : int
        Pixels that neither side exceeds. The aspect ratio is kept; nothing is enlarged.

    Returns
    -------
    bytes
        A JPEG file, upright, without metadata.

    Raises
    ------
    ImageError
        As for `decode`.
    """

    def fit(width: int, height: int) -> tuple[int, int]:
        scale = min(1.0, side / max(width, height))
        return max(1, round(scale * width)), max(1, round(scale * height))

    file = io.BytesIO()
    _load(data, side, fit, "bilinear", True).save(file, "JPEG", quality=_THUMBNAIL_QUALITY)
    return file.getvalue()


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Write pixels of shape (height, width, 3), or with opacity (height, width, 4), as a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def _load(
    data: bytes, size: int, fit: Callable[[int, int], tuple[int, int]], resize: str, scaled: bool
) -> Image.Image:
    """Decode to RGB at the size that `fit` makes of the picture's: at most `size` a side."""
    if not data:
        raise ImageError("0 bytes")
    try:
        return _decode(data, size, fit, resize, scaled)
    except ImageError:
        raise
    # A damaged file makes Pillow's decoders raise nearly anything (OSError, SyntaxError, KeyError,
    # struct.error, MemoryError, ...) and each means the same here: this image cannot be read.
    except Exception as error:
        raise _refusal(error, data) from error


def _decode(
    data: bytes, size: int, fit: Callable[[int, int], tuple[int, int]], resize: str, scaled: bool
) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check(image)
        if image.format == "PNG":
            # Loading skips the checksums of the pixels, so that a half-written file whose rest is
            # zeros would be a half-black picture. Verifying uses an image up, hence a second one.
            with Image.open(io.BytesIO(data), formats=FORMATS) as probe:
                probe.verify()
        drafted = image.draft(None, (2 * size, 2 * size)) if scaled else None
        image.load()
        # Sides that are no multiple of the scale are rounded up by draft; the box is what they
        # should have been.
        box = drafted[1] if drafted else None
        turn = _turn(image)
        target = fit(*image.size)  # a TIFF is turned, a JPEG drafted, by the time it is loaded
        small = _eight_bits(image).resize(
            target, FILTERS[resize], box=box, reducing_gap=3.0 if scaled else None
        )
    # The filters are symmetric, so turning the small picture is turning the large one, for less.
    if turn is not None:
        small = small.transpose(turn)
    return small.convert("RGB")


def _check(image: ImageFile.ImageFile) -> None:
    """Refuse, by its header alone, a picture that is too large or not all there."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise _too_large(pixels)
    # Pillow leaves black what no strip of an uncompressed TIFF covers. (Only of a TIFF: a GIF's
    # frame may be smaller than its canvas, and a WebP has no tiles before it is loaded.)
    if image.format == "TIFF":
        boxes = (tile.extents or (0, 0, 0, 0) for tile in image.tile)
        covered = sum((right - left) * (low - high) for left, high, right, low in boxes)
        if covered < pixels:
            raise ImageError(f"truncated: {covered} of {pixels} pixels are there")


def _too_large(pixels: int) -> ImageError:
    megapixels = -(-pixels // 1_000_000)
    return ImageError(
        f"{megapixels} megapixels: more than the limit of {MAX_PIXELS // 1_000_000}",
        fix="If the image is genuine, save a smaller copy of it.",
    )


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Read what turns the stored picture upright, if anything.

    Not `ImageOps.exif_transpose`: it also writes the EXIF block anew, and fails where some other
    tag is damaged. A TIFF has been turned by Pillow, and lost its tag, by the time it is loaded.
    """
    try:
        return _UPRIGHT.get(image.getexif().get(Tag.Orientation, 1))
    # A damaged EXIF block is worth less than the picture that it comes with.
    except Exception:  # noqa: BLE001
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert any of Pillow's modes to ``L`` or ``RGB``."""
    if image.mode.startswith("I"):
        return _from_integers(image)
    if image.mode == "F":
        return _from_floats(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        # White is what a page, a viewer and a journal put behind a cut-out. What the file stores
        # under its transparent pixels was never meant to be seen, and is often black or garbage.
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey by the range that the file declares, the same for every image.

    A 12-bit camera's values in a 16-bit file thus come out dark. Stretching each image to its own
    range would look better and make a dim sample and a bright one the same. Pillow's `convert`
    clips at 255: nearly all white.
    """
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _MAX_16_BIT:
        raise ImageError(
            f"integers from {low} to {high}",
            expected=f"8-bit values, or 16-bit values from 0 to {_MAX_16_BIT}",
            fix="Rescale all images by one rule and save them with 8 or 16 bits.",
        )
    tags: dict[int, Any] = getattr(image, "tag_v2", {})
    # Pillow unpacks 12-bit TIFFs, and leaves white-is-zero ones, without touching the values.
    white = _MAX_12_BIT if tags.get(Tag.BitsPerSample) == (12,) else _MAX_16_BIT
    grey = values.astype(np.uint32)
    grey *= 255
    grey += white // 2
    grey //= white
    pixels = np.minimum(grey, 255).astype(np.uint8)
    if tags.get(Tag.PhotometricInterpretation) == 0:
        pixels = 255 - pixels
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        pixels[values == transparent] = 255
    return Image.fromarray(pixels)


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN fails this too
        raise ImageError(
            f"floating-point values from {low:g} to {high:g}",
            expected="floating-point values from 0 (black) to 1 (white)",
            fix="Rescale all images by one rule and save them with 8 or 16 bits.",
        )
    levels = values * 255
    return Image.fromarray(np.rint(levels, out=levels).astype(np.uint8))


def _refusal(error: Exception, data: bytes) -> ImageError:
    if isinstance(error, UnidentifiedImageError):
        kind = next((name for name in FORMATS if Image.OPEN[name][1](data[:16])), None)  # type: ignore[misc]
        if kind is None:
            return ImageError(
                f"not a known image format: starts with {data[:12]!r}",
                expected=", ".join(FORMATS),
                fix="Convert it to JPEG or PNG, or take it out of the data set.",
            )
        return ImageError(
            f"damaged, cut short, or an unusual kind of {kind}: its header cannot be read",
            fix="If it opens elsewhere, save it from there as PNG or JPEG.",
        )
    message = " ".join(str(error).split())[:120] or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"(\d+) pixels", message)
        return _too_large(int(pixels[1])) if pixels else ImageError(message)
    kind = "truncated" if "truncated" in message.lower() else "cannot be decoded"
    return ImageError(f"{kind}: {message}")


# Pillow logs an error for some damaged TIFFs; where nobody set logging up, Python would print it.
logging.getLogger("PIL").addHandler(logging.NullHandler())
