"""An image file's bytes to the square of pixels that the network gets.

Whatever a file holds (a rotated photo, a palette, CMYK, 16-bit microscopy), the result is
``uint8 (size, size, 3)`` RGB; a file that lacks a part of its picture is refused with an
`ImageError`. That cannot be had for fax compression in TIFF, nor for JPEG with arithmetic coding
or of the old kind in TIFF. Values that were changed are noticed only where a checksum covers them
(PNG), or where they cannot be decoded: docs/promises.md says what is not. Colour profiles are not
applied, as in Keras.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.ExifTags import Base as Tag

from pipeline.data.decoding import VERSION, Decoding
from pipeline.data.jpeg import check_exif
from pipeline.data.levels import is_deep_colour, to_8_bits
from pipeline.data.room import Room
from pipeline.data.whole import load_whole
from pipeline.errors import ImageError, PipelineError

FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What is read, by Pillow's names. Pillow's other decoders are never tried."""

EXTENSIONS: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
)
"""Suffixes, in lower case, of the files that are taken for images."""

FILTERS: dict[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
}
"""Resize rules by name. Pillow widens all but ``nearest`` when it shrinks (antialiasing)."""

MAX_PIXELS = 178_956_970
"""Pixels beyond which a file is refused as a decompression bomb: the limit of Pillow, too."""

DECODING_THREADS = 4
"""Pictures that are decoded at once; the memory that they take is bounded here."""

# Peak memory of decoding and converting a pixel, measured with Pillow 13, which decodes every WebP
# as an animation. A file of 6 kB can hold 169 million pixels.
_BYTES_PER_PIXEL = 8
_BYTES_PER_PIXEL_OF_WEBP = 16
_MAX_BYTES = _BYTES_PER_PIXEL * MAX_PIXELS
_ROOM = Room(_MAX_BYTES)  # 1.4 GB: large pictures take turns, others do not wait

_JPEG_QUALITY = 80

_PAGE = "Name a page that all images have with --page, or leave it out."

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
    data: bytes,
    size: int,
    *,
    resize: str = "bilinear",
    decoding: str = VERSION,
    scaled: bool = True,
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
    decoding : str
        What was chosen beside that: the name of a `pipeline.data.decoding.Decoding`.
    scaled : bool
        Shrink a large image cheaply to at least twice `size` before the filter: a JPEG by decoding
        only its low frequencies, any other by averaging whole blocks of pixels. Off, it shows in
        benchmarks and tests what that changes. Never done for ``nearest``.

    Returns
    -------
    ndarray of uint8, shape (size, size, 3)
        RGB, 0 to 255; upright by the EXIF orientation; transparency laid on white; 16-bit values
        divided by 257, or scaled by the white level that was chosen.

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
    wanted = _Wanted(size, lambda width, height: (size, size), resize, scaled, decoding)
    return np.array(_load(data, wanted))


def thumbnail(data: bytes, side: int, decoding: str = VERSION) -> bytes:
    """Make a small JPEG of an image file: upright, without metadata, in its aspect ratio.

    Neither side has more than `side` pixels; nothing is enlarged.
    """
    return jpeg(shrink(data, side, decoding))


def shrink(data: bytes, side: int, decoding: str = VERSION) -> npt.NDArray[np.uint8]:
    """Decode an image file as `thumbnail` does, to pixels of shape (height, width, 3)."""

    def fit(width: int, height: int) -> tuple[int, int]:
        scale = min(1.0, side / max(width, height))
        return max(1, round(scale * width)), max(1, round(scale * height))

    return np.array(_load(data, _Wanted(side, fit, "bilinear", True, decoding)))


def jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Write pixels of shape (height, width, 3) as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Write pixels of shape (height, width, 3), or with opacity (height, width, 4), as a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def as_file(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Write pixels as an image file's bytes, of which `decode` makes what it makes of a PNG's.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, 3) or (height, width)
        RGB or grey, 0 to 255.

    Raises
    ------
    PipelineError
        They are something else.
    """
    is_picture = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not is_picture or not pixels.size:
        raise PipelineError(
            f"an array of {pixels.dtype} of shape {pixels.shape} is no picture.",
            expected="uint8, 0 to 255, of shape (height, width, 3) in the order RGB, or of shape "
            "(height, width) for grey",
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")  # 20 times as fast as PNG
    return file.getvalue()


@dataclass(frozen=True)
class _Wanted:
    size: int  # the most that a side may have
    fit: Callable[[int, int], tuple[int, int]]  # gives the size, from the picture's
    resize: str
    scaled: bool
    decoding: str


def _load(data: bytes, wanted: _Wanted) -> Image.Image:
    """Decode to RGB."""
    decoding = Decoding.from_name(wanted.decoding)
    if not data:
        raise ImageError("0 bytes")
    try:
        return _decode(data, wanted, decoding)
    except ImageError:
        raise
    # A damaged file makes Pillow's decoders raise nearly anything (OSError, SyntaxError, KeyError,
    # struct.error, MemoryError, ...) and each means the same here: this image cannot be read.
    except Exception as error:
        raise _refusal(error, data) from error


def _decode(data: bytes, wanted: _Wanted, decoding: Decoding) -> Image.Image:
    check_exif(data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if decoding.page > 1:
            _turn_to(image, decoding.page)
        _check(image)
        if decoding.white and is_deep_colour(image):
            raise ImageError(
                "16-bit colour, to which no white level can be applied",
                fix="Save all images by one rule with 8 bits a channel, or in 16-bit grey.",
            )
        bytes_whole = _bytes(image)
        twice = (2 * wanted.size, 2 * wanted.size)
        drafted = image.draft(None, twice) if wanted.scaled else None
        # A progressive JPEG is held whole, however small it is decoded.
        with _ROOM.taking(bytes_whole if "progressive" in image.info else _bytes(image)):
            try:
                load_whole(image, data)
                turn = _turn(image)
                small = to_8_bits(image, decoding.white).resize(
                    # A TIFF is turned, and a JPEG drafted, by the time it is loaded.
                    wanted.fit(*image.size),
                    FILTERS[wanted.resize],
                    # Sides that are no multiple of the scale are rounded up by draft; the box is
                    # what they should have been.
                    box=drafted[1] if drafted else None,
                    reducing_gap=3.0 if wanted.scaled else None,
                )
            finally:
                image.close()
    # The filters are symmetric, so turning the small picture is turning the large one, for less.
    if turn is not None:
        small = small.transpose(turn)
    return small.convert("RGB")


def _turn_to(image: ImageFile.ImageFile, page: int) -> None:
    if image.format != "TIFF":
        raise ImageError(f"page {page} was asked for, and a {image.format} has no pages", fix=_PAGE)
    try:
        image.seek(page - 1)
    except EOFError:
        raise ImageError(f"it has no page {page}", fix=_PAGE) from None


def _check(image: ImageFile.ImageFile) -> None:
    """Refuse a picture that is too large, by its header alone."""
    most = _MAX_BYTES // _bytes_per_pixel(image)
    if image.width * image.height > most:
        raise _too_large(image.width * image.height, most)


def _bytes(image: Image.Image) -> int:
    return _bytes_per_pixel(image) * image.width * image.height


def _bytes_per_pixel(image: Image.Image) -> int:
    return _BYTES_PER_PIXEL_OF_WEBP if image.format == "WEBP" else _BYTES_PER_PIXEL


def _too_large(pixels: int, most: int = MAX_PIXELS) -> ImageError:
    megapixels = -(-pixels // 1_000_000)
    return ImageError(
        f"{megapixels} megapixels: more than the limit of {most // 1_000_000}",
        fix="If the image is genuine, save a smaller copy of it.",
    )


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Read how the stored picture is to be turned upright, if at all.

    Not `ImageOps.exif_transpose`: it also writes the EXIF block anew, and fails where some other
    tag is damaged. A TIFF has been turned by Pillow, and lost its tag, by the time it is loaded.
    """
    try:
        return _UPRIGHT.get(image.getexif().get(Tag.Orientation, 1))
    # A damaged EXIF block is worth less than the picture that it comes with.
    except Exception:  # noqa: BLE001
        return None


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
