"""Loading a picture whole: what was decoded is compared with what its file declares."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image, ImageFile
from PIL.ExifTags import Base as Tag

from pipeline.data.jpeg import check_jpeg, load_jpeg, size_of_jpeg
from pipeline.errors import ImageError

_JPEG_IN_TIFF = 7
_SEPARATE_PLANES = 2
_MAX_TABLES = 1 << 16  # bytes; they take up to 4 kB
_START_OF_JPEG = b"\xff\xd8"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's pixel, by its type of colour
_ALL_AT_ONCE = ((0, 0, 1, 1),)
_INTERLACED = (  # left, top, and the steps to the right and down
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_ZEROS = 8  # at the end of a WebP: pictures of few colours have as many, most have two or three
_INFLATED_AT_ONCE = 1 << 20


def load_whole(image: ImageFile.ImageFile, data: bytes) -> None:
    """Load a picture that Pillow opened from `data`, or refuse it if a part is missing.

    Raises
    ------
    ImageError
        A part is missing; other errors are Pillow's.
    """
    if image.format in ("JPEG", "MPO"):
        load_jpeg(image, data)
        return
    if image.format == "TIFF":
        _check_strips(image, data)
    elif image.format == "GIF":
        # Pillow would go on with the next frame's bytes.
        image.fp = io.BytesIO(data[: _end_of_frame(data, image.tile[0].offset)])
    elif image.format == "PNG":
        # Loading skips the checksums of the pixels, so that a half-written file whose rest is
        # zeros would be a half-black picture. Verifying uses an image up, hence a second one.
        with Image.open(io.BytesIO(data), formats=("PNG",)) as probe:
            probe.verify()
        interlaced = bool(image.info.get("interlace"))
        image.load()
        # Rows that are missing are black: most pictures need not be inflated again.
        if interlaced or not any(image.crop((0, image.height - 1, *image.size)).tobytes()):
            _check_rows(data)
        return
    elif image.format == "WEBP":
        _check_end(data)
    image.load()


def _check_end(data: bytes) -> None:
    """Refuse a WebP whose data end in zeros without which it can be decoded.

    Its decoder makes pixels of any bytes, and notices only that there are too few. What an
    encoder wrote cannot be decoded without its last four bytes, be they zeros or not.
    """
    kind, body = _data_of_webp(data)
    if not body.endswith(bytes(_ZEROS)):
        return
    less = body[:-6]
    chunk = kind + struct.pack("<I", len(less)) + less + bytes(len(less) % 2)
    try:
        webp = b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
        with Image.open(io.BytesIO(webp), formats=("WEBP",)) as probe:
            probe.load()
    except Exception:  # noqa: BLE001 -- Pillow raises nearly anything
        return
    raise ImageError("truncated: zeros are in place of its end")


def _data_of_webp(data: bytes) -> tuple[bytes, bytes]:
    """Find the pixels of the first picture, and how they are coded."""
    place = 12
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        place += 8
        if kind in (b"VP8 ", b"VP8L"):
            return kind, data[place : place + length]
        place += 16 if kind == b"ANMF" else length + length % 2  # a picture follows its place
    return b"", b""


def _end_of_frame(data: bytes, start: int) -> int:
    while start < len(data) and data[start]:
        start += data[start] + 1
    return start + 1


def _check_rows(data: bytes) -> None:
    """Compare the length of a PNG's inflated pixels with that of its rows."""
    header = next(body for kind, body in _chunks(data) if kind == b"IHDR")
    width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
    needed = 0
    for left, top, right, down in _INTERLACED if interlaced else _ALL_AT_ONCE:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        needed += rows * (1 + -(-columns * bits * _SAMPLES[colours] // 8)) if columns > 0 else 0
    inflater = zlib.decompressobj()
    for kind, body in _chunks(data):
        more = body if kind == b"IDAT" else b""
        while more and needed > 0 and not inflater.eof:
            needed -= len(inflater.decompress(more, _INFLATED_AT_ONCE))
            more = inflater.unconsumed_tail
    if needed > 0:
        raise ImageError("truncated: it has fewer rows than it declares")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        yield kind, data[place + 8 : place + 8 + length]
        place += length + 12


def _check_strips(image: ImageFile.ImageFile, data: bytes) -> None:
    """Make sure that a TIFF has all of its strips or tiles.

    Pillow leaves black what no strip covers, and takes a strip without a place from byte 0 on.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]
    width, height = tags[Tag.ImageWidth], tags[Tag.ImageLength]
    if Tag.TileOffsets in tags:
        what, offsets, lengths = "tiles", tags[Tag.TileOffsets], tags.get(Tag.TileByteCounts, ())
        across, down = tags[Tag.TileWidth], tags[Tag.TileLength]
    else:
        what, offsets, lengths = "strips", tags[Tag.StripOffsets], tags.get(Tag.StripByteCounts, ())
        across, down = width, min(tags.get(Tag.RowsPerStrip, height), height)
    separate = tags.get(Tag.PlanarConfiguration) == _SEPARATE_PLANES
    of_plane = -(-width // across) * -(-height // down)
    needed = of_plane * (tags.get(Tag.SamplesPerPixel, 1) if separate else 1)
    found = len(offsets) - offsets.count(0)
    if found < needed:
        raise ImageError(f"truncated: it has {found} of {needed} {what}")
    if 0 in lengths[:needed]:  # only files of a single strip may leave the lengths out
        raise ImageError(f"truncated: one of its {what} has no bytes")
    if tags.get(Tag.Compression) != _JPEG_IN_TIFF:
        return
    start = bytes(tags.get(Tag.JPEGTables, b""))[:-2] or _START_OF_JPEG
    # Those that are equal may share their bytes; others cannot, and would take long.
    listed = list(enumerate(zip(offsets[:needed], lengths)))
    parts = {part: number for number, part in reversed(listed)}
    if sum(length for _, length in parts) > len(data) or len(start) > _MAX_TABLES:
        raise ImageError(f"cannot be decoded: its {what} lie one over the other")
    for (offset, length), number in parts.items():
        jpeg = start + data[offset + 2 : offset + length]
        wide, high = size_of_jpeg(jpeg)
        rows = down if what == "tiles" else min(down, height - number % of_plane * down)
        if not separate and (wide < across or high < rows):
            raise ImageError(f"truncated: one of its {what} is too small")
        # The last strip of some files is as high as the others, though it need not be.
        if wide > across or (high > down and number + 1 < needed):
            raise ImageError(f"cannot be decoded: one of its {what} is too large")
        check_jpeg(jpeg)
