"""Image files that a data set should not hold but does: made here, the same for the same seed."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from collections.abc import Iterator
from itertools import chain
from itertools import count as counting

import numpy as np
from PIL import Image


def hostile_images(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` files as (name, bytes): first those made by hand, then mutations.

    Names are distinct, safe in a folder, and end in a suffix of the format that the file was, or
    pretends to be. A few mutations do no harm, so a file may still be a whole image.
    """
    rng = random.Random(seed)
    made = chain(_by_hand().items(), _mutations(rng))
    for number, (name, data) in zip(range(count), made, strict=False):
        yield f"{number:04d}-{name}", data


def picture(height: int = 30, width: int = 40) -> np.ndarray:
    """Return smooth colour ramps, uint8 (height, width, 3): black at the top left."""
    y, x = np.mgrid[:height, :width]
    down, right = y / (height - 1), x / (width - 1)
    return np.rint(np.stack([255 * right, 255 * down, 120 * (right + down)], -1)).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    """Write an image with Pillow, into memory."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    file = io.BytesIO()
    # A copy: saving as JPEG leaves settings behind in the image that break its saving as TIFF.
    image.copy().save(file, kind, **options)
    return file.getvalue()


@functools.cache
def samples() -> dict[str, bytes]:
    """Return small, whole files by name: every format, each kind that is decoded its own way."""
    rgb = Image.fromarray(picture())
    grey = rgb.convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    return {
        "baseline.jpg": encode(rgb, "JPEG", exif=exif),
        "progressive.jpg": encode(rgb, "JPEG", progressive=True),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG"),
        "grey.jpg": encode(grey, "JPEG"),
        "large.jpg": encode(rgb.resize((400, 300)), "JPEG"),
        "rgb.png": encode(rgb, "PNG", exif=exif),
        "palette.png": encode(rgb.quantize(16), "PNG", transparency=3),
        "alpha.png": encode(rgb.convert("RGBA"), "PNG"),
        "deep.png": encode(deep, "PNG"),
        "bilevel.png": encode(rgb.convert("1"), "PNG"),
        "animated.png": encode(rgb, "PNG", save_all=True, append_images=[grey.convert("RGB")]),
        "lossy.webp": encode(rgb, "WEBP", exif=exif),
        "lossless.webp": encode(rgb.convert("RGBA"), "WEBP", lossless=True),
        "rgb.bmp": encode(rgb, "BMP"),
        "palette.bmp": encode(rgb.quantize(16), "BMP"),
        "still.gif": encode(rgb, "GIF"),
        "animated.gif": encode(rgb, "GIF", save_all=True, append_images=[grey, rgb.rotate(90)]),
        "raw.tif": encode(rgb, "TIFF", exif=exif),
        "lzw.tif": encode(rgb, "TIFF", compression="tiff_lzw"),
        "deflate.tif": encode(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": encode(rgb, "TIFF", compression="jpeg"),
        "deep.tif": encode(deep, "TIFF"),
        "float.tif": encode((deep / 65535).astype(np.float32), "TIFF"),
        "pages.tiff": encode(rgb, "TIFF", save_all=True, append_images=[grey]),
    }


def tiff(tags: dict[int, int], strip: bytes) -> bytes:
    """Return a little-endian TIFF of one uncompressed strip, with these tags and no others."""
    tags = {**tags, 273: 8, 279: len(strip)}  # where the strip begins; how long it is
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    strip += b"\0" * (len(strip) % 2)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<L", 0)
    return b"II*\0" + struct.pack("<L", 8 + len(strip)) + strip + directory


def bombs(side: int = 16_000) -> dict[str, bytes]:
    """Return files under 1 kB whose headers declare `side` x `side` pixels.

    No more than 16,384: WebP has no room for it.
    """
    frame = Image.fromarray(picture(8, 8))
    jpeg = bytearray(encode(frame, "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", side, side)
    gif = bytearray(encode(frame, "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    bmp = bytearray(encode(frame, "BMP"))
    bmp[18:26] = struct.pack("<ll", side, side)
    last = struct.pack("<L", max(side - 1, 0))[:3]
    canvas = _riff_chunk(b"VP8X", b"\0\0\0\0" + last + last)
    webp = b"WEBP" + canvas + encode(frame, "WEBP")[12:]
    return {
        "bomb.jpg": bytes(jpeg),
        "bomb.png": _png(side, side, zlib.compress(bytes(1000))),
        "bomb.gif": bytes(gif),
        "bomb.bmp": bytes(bmp),
        "bomb.webp": b"RIFF" + struct.pack("<L", len(webp)) + webp,
        "bomb.tif": tiff({256: side, 257: side, 258: 8, 259: 1, 262: 1, 277: 1}, bytes(64)),
    }


def _png(width: int, height: int, pixels: bytes) -> bytes:
    header = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _riff_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<L", len(body)) + body


def _by_hand() -> dict[str, bytes]:
    whole = samples()
    return {
        "empty.jpg": b"",
        "one-byte.png": b"\x89",
        "signature-only.png": b"\x89PNG\r\n\x1a\n",
        "zeros.jpg": bytes(5000),
        "text.jpg": b"not an image\n",
        "page.jpg": b"<!DOCTYPE html><title>404 Not Found</title>",
        "document.png": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "phone.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
        "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        **{f"half-{name}": data[: len(data) // 2] for name, data in whole.items()},
        "zero-tail.png": whole["rgb.png"][:-200] + bytes(200),
        **bombs(),
    }


def _mutations(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    names = sorted(samples())
    for turn in counting():
        name = names[turn % len(names)]
        change = rng.choice([_flip, _cut, _insert, _blank, _swap, _double])
        yield f"{change.__name__.strip('_')}-{name}", change(samples()[name], rng)


def _flip(data: bytes, rng: random.Random) -> bytes:
    # Half of the flips go to the first bytes: that is where formats keep what they trust.
    end = rng.choice([64, len(data)])
    changed = bytearray(data)
    for _ in range(rng.choice([1, 2, 8, 64])):
        changed[rng.randrange(min(end, len(data)))] = rng.randrange(256)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randint(1, 40)) + data[at:]


def _blank(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randint(1, 200))
    return data[:start] + rng.choice([b"\0", b"\xff"]) * (end - start) + data[end:]


def _swap(data: bytes, rng: random.Random) -> bytes:
    first, second, third = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def _double(data: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start:end] + data[end:]
