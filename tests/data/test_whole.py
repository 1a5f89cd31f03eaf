"""Tests of pipeline.data.whole and jpeg: a picture of which a part is missing is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import sklearn
from hostile import encode, picture, tiff
from PIL import Image

from pipeline.data import whole
from pipeline.data.images import decode, thumbnail
from pipeline.data.jpeg import MAX_SCANS
from pipeline.errors import ImageError

SIDE = 128
_PHOTOS = Path(sklearn.__file__).parent / "datasets" / "images"
PHOTO = Image.open(_PHOTOS / "china.jpg").resize((SIDE, SIDE))
TURNED = PHOTO.rotate(90)
END = b"\xff\xd9"


# --- files ----------------------------------------------------------------------------------


def jpeg(**options: object) -> bytes:
    return encode(PHOTO, "JPEG", **options)


def scan_by_component() -> bytes:
    """Return a baseline JPEG with a scan for each of its components."""
    parts = [encode(band, "JPEG") for band in PHOTO.convert("YCbCr").split()]
    tables, frame = parts[0].index(b"\xff\xdb"), parts[0].index(b"\xff\xc0")
    codes = parts[0].index(b"\xff\xc4")
    header = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, SIDE, SIDE, 3)
    header += b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    scans = b""
    for number, part in enumerate(parts, 1):
        start = part.index(b"\xff\xda")
        scans += b"\xff\xda\0\x08\1" + bytes([number]) + part[start + 6 : -2]
    between = parts[0][codes : parts[0].index(b"\xff\xda")]
    return parts[0][:2] + parts[0][tables:frame] + header + between + scans + END


def declare(data: bytes, height: int) -> bytes:
    """Write another height into a JPEG's header."""
    start = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: start + 5] + struct.pack(">H", height) + data[start + 7 :]


def cut(data: bytes, part: float) -> bytes:
    return data[: int(len(data) * part)] + END


def up_to(data: bytes, mark: bytes) -> bytes:
    """Return a JPEG up to a segment's last place, and an end marker."""
    return data[: data.rindex(mark)] + END


def but(data: bytes, first: bytes, second: bytes) -> bytes:
    """Return a JPEG without what lies between two marks."""
    return data[: data.index(first)] + data[data.index(second) :]


def png(pixels: np.ndarray, *, rows: int | None = None, interlaced: bool = False) -> bytes:
    """Write a PNG by hand; of the lines of pixels that it should have, the first `rows` only."""
    height, width = pixels.shape[:2]
    steps = [(0, 0, 1, 1)]
    if interlaced:
        steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
        steps += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    lines = [
        b"\0" + line.tobytes()
        for left, top, right, down in steps
        for line in pixels[top::down, left::right]
    ]
    depth, colours = pixels.dtype.itemsize * 8, {2: 0, 3: 2}[pixels.ndim]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, int(interlaced))),
        (b"IDAT", zlib.compress(b"".join(lines[:rows]))),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


class Tiff:
    """A TIFF that Pillow wrote, with its tags in place to be changed."""

    def __init__(self, **options: object) -> None:
        strips = {"tiffinfo": {278: 16}}
        mode = "1" if "group" in str(options.get("compression")) else "RGB"
        self.data = bytearray(encode(PHOTO.convert(mode), "TIFF", **strips, **options))
        self.at = int.from_bytes(self.data[4:8], "little")
        count = int.from_bytes(self.data[self.at : self.at + 2], "little")
        self.entries = {
            int.from_bytes(self.data[place : place + 2], "little"): place
            for place in range(self.at + 2, self.at + 2 + 12 * count, 12)
        }

    def halve(self, tag: int) -> Tiff:
        """Declare half as many values."""
        place = self.entries[tag] + 4
        count = int.from_bytes(self.data[place : place + 4], "little")
        assert count > 2
        self.data[place : place + 4] = (count // 2).to_bytes(4, "little")
        return self

    def last(self, tag: int, factor: float) -> Tiff:
        """Multiply the last value."""
        place = self.entries[tag]
        kind, count, values = struct.unpack_from("<HII", self.data, place + 2)
        size = {3: 2, 4: 4}[kind]
        at = values + size * (count - 1)
        value = int.from_bytes(self.data[at : at + size], "little")
        self.data[at : at + size] = int(value * factor).to_bytes(size, "little")
        return self


def planar(planes: int, *, compression: int = 1, strips: int = 4) -> bytes:
    """Write a TIFF whose colours lie one behind the other, with all strips of some of them."""
    pixels = np.asarray(PHOTO)
    rows = SIDE // strips
    parts = [
        pixels[top : top + rows, :, plane].tobytes()
        for plane in range(planes)
        for top in range(0, SIDE, rows)
    ]
    if compression == 8:
        parts = [zlib.compress(part) for part in parts]
    data, places = b"", []
    for part in parts:
        places.append(8 + len(data))
        data += part + bytes(len(part) % 2)
    lists = [(258, [8] * 3), (273, places), (279, [len(part) for part in parts])]
    tags = {256: SIDE, 257: SIDE, 259: compression, 262: 2, 277: 3, 278: rows, 284: 2}
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()}
    for tag, values in lists:
        entries[tag] = struct.pack("<HHII", tag, 4, len(values), 8 + len(data))
        data += struct.pack(f"<{len(values)}I", *values)
    listed = b"".join(entries[tag] for tag in sorted(entries))
    return (
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(entries))
    ) + (listed + bytes(4))


def frames(part: float) -> bytes:
    """Write an animated GIF of whose first picture only some blocks are there."""
    data = encode(PHOTO, "GIF", save_all=True, append_images=[TURNED])
    with Image.open(io.BytesIO(data)) as image:
        place = image.tile[0].offset
    places = []
    while data[place]:
        places.append(place)
        place += 1 + data[place]
    return data[: places[int(len(places) * part)]] + data[place:]


def ends_in_zeros(data: bytes) -> bytes:
    """Make zeros of the second half of an animated WebP's first picture."""
    at = data.index(b"VP8 ")
    length = int.from_bytes(data[at + 4 : at + 8], "little")
    return data[: at + 8 + length // 2] + bytes(length - length // 2) + data[at + 8 + length :]


def webp(part: float, **options: object) -> bytes:
    """Cut a WebP, and mend the lengths that it declares."""
    data = encode(PHOTO, "WEBP", **options)
    data = data[: 2 * int(len(data) * part / 2)]
    data = data[:16] + struct.pack("<I", len(data) - 20) + data[20:]
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def zeroed(data: bytes, part: float) -> bytes:
    """Make zeros of what follows a part of a file, as a broken download does."""
    kept = int(len(data) * part)
    return data[:kept] + bytes(len(data) - kept)


def bmp(part: float) -> bytes:
    """Cut a BMP, and mend the length that it declares."""
    data = encode(PHOTO, "BMP")
    data = data[: int(len(data) * part)]
    return data[:2] + struct.pack("<I", len(data)) + data[6:]


def run_lengths(rows: int) -> bytes:
    """Write a BMP in run lengths of which only some rows are there, and an end mark."""
    grey = PHOTO.quantize(16)
    palette = b"".join(bytes([value] * 3 + [0]) for value in range(0, 256, 16))
    lines = [
        b"".join(bytes([1, v]) for v in line) + b"\0\0" for line in np.asarray(grey)[::-1][:rows]
    ]
    data = b"".join(lines) + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 8, 1, len(data), 0, 0, 16, 0)
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


RGB = np.asarray(PHOTO)
GREY = np.asarray(PHOTO.convert("L"))
DEEP = GREY.astype(">u2") * 257
RESTARTS = {"restart_marker_rows": 1}
SCANS = jpeg(progressive=True).split(b"\xff\xda")
FIRST_SCAN = up_to(b"\xff\xda".join(SCANS[:2]), b"\xff\xc4")

LUCID = PHOTO.convert("RGBA")
LUCID.putalpha(PHOTO.convert("L"))

PARTIAL = {
    "JPEG cut in half, end marker put behind": cut(jpeg(), 0.5),
    "JPEG cut late, end marker put behind": cut(jpeg(), 0.97),
    "JPEG that declares ten times its height": declare(jpeg(), 10 * SIDE),
    "JPEG that declares one block more": declare(jpeg(subsampling=0), SIDE + 8),
    "JPEG of one component, cut": cut(encode(PHOTO.convert("L"), "JPEG"), 0.5),
    "JPEG of four components, cut": cut(encode(PHOTO.convert("CMYK"), "JPEG"), 0.5),
    "JPEG with optimized codes, cut": cut(jpeg(optimize=True), 0.5),
    "JPEG with restart markers, cut": cut(jpeg(**RESTARTS), 0.5),
    "JPEG with restart markers, cut at one": up_to(jpeg(**RESTARTS), b"\xff\xd5"),
    "JPEG with a restart interval missing": but(jpeg(**RESTARTS), b"\xff\xd1", b"\xff\xd2"),
    "JPEG whose rest was never written": jpeg()[:3000] + bytes(len(jpeg()) - 3000),
    "JPEG with another marker amid its data": jpeg()[:3000] + b"\xff\xe0\0\2" + jpeg()[3000:],
    "JPEG with a scan a component, cut": cut(scan_by_component(), 0.9),
    "JPEG with a scan a component, one missing": up_to(scan_by_component(), b"\xff\xda"),
    "progressive JPEG cut in half": cut(jpeg(progressive=True), 0.5),
    "progressive JPEG cut late": cut(jpeg(progressive=True), 0.95),
    "progressive JPEG of its first scan alone": FIRST_SCAN,
    "progressive JPEG without its last scan": up_to(jpeg(progressive=True), b"\xff\xda"),
    "progressive JPEG that declares ten times its height": declare(
        jpeg(progressive=True), 10 * SIDE
    ),
    "progressive JPEG with restart markers, cut": cut(jpeg(progressive=True, **RESTARTS), 0.95),
    "JPEG that begins a second time before it ends": jpeg()[:-2] + jpeg(),
    "JPEG with its scan twice": jpeg()[:-2] + jpeg()[jpeg().index(b"\xff\xda") :],
    "JPEG with its frame twice": jpeg()[:-2] + jpeg()[jpeg().index(b"\xff\xc0") :],
    "PNG with half its rows": png(RGB, rows=SIDE // 2),
    "PNG without its last row": png(RGB, rows=SIDE - 1),
    "grey PNG with half its rows": png(GREY, rows=SIDE // 2),
    "16-bit PNG with half its rows": png(DEEP, rows=SIDE // 2),
    "interlaced PNG without its last pass": png(RGB, rows=SIDE, interlaced=True),
    "interlaced PNG without its last row": png(RGB, rows=15 * SIDE // 8 - 1, interlaced=True),
    "PNG with no pixels at all": png(RGB, rows=0),
    "TIFF with half of its strips": bytes(Tiff().halve(273).data),
    "TIFF with a strip that has no place": bytes(Tiff().last(273, 0).data),
    "TIFF with one of three planes": planar(1),
    "TIFF with two of three planes, in one strip each": planar(2, strips=1),
    "deflated TIFF with two of three planes": planar(2, compression=8),
    **{
        f"TIFF by {compression}, {what}": bytes(change(Tiff(compression=compression)).data)
        for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "jpeg")
        for what, change in {
            "half of its strips' places": lambda file: file.halve(273),
            "half of its strips' lengths": lambda file: file.halve(279),
            "a strip without a place": lambda file: file.last(273, 0),
            "a strip of no bytes": lambda file: file.last(279, 0),
            "a strip of half its bytes": lambda file: file.last(279, 0.5),
        }.items()
    },
    **{
        f"TIFF by {compression}, {what}": bytes(change(Tiff(compression=compression)).data)
        for compression in ("group3", "group4")
        for what, change in {
            "half of its strips' places": lambda file: file.halve(273),
            "a strip without a place": lambda file: file.last(273, 0),
        }.items()
    },
    "WebP cut in half, lengths mended": webp(0.5),
    "WebP cut late, lengths mended": webp(0.98),
    "lossless WebP cut in half, lengths mended": webp(0.5, lossless=True),
    **{
        f"{name} WebP whose last {lost} % are zeros": zeroed(encode(image, "WEBP", **options), kept)
        for lost, kept in ((2, 0.98), (30, 0.7), (60, 0.4))
        for name, image, options in (
            ("lossy", PHOTO, {}),
            ("fine", PHOTO, {"quality": 100}),
            ("lossless", PHOTO, {"lossless": True}),
            ("transparent", LUCID, {"exact": True}),
        )
    },
    "animated WebP whose first picture ends in zeros": ends_in_zeros(
        encode(PHOTO, "WEBP", save_all=True, append_images=[TURNED])
    ),
    **{
        f"TIFF by {compression}, a strip {what}": bytes(change(Tiff(compression=compression)).data)
        for compression in ("raw", "tiff_lzw", "packbits")
        for what, change in {
            "of no bytes": lambda file: file.last(279, 0),
            "beyond its end": lambda file: file.last(273, 9),
        }.items()
    },
    "animated GIF whose first picture is cut": frames(0.5),
    "animated GIF whose first picture is cut late": frames(0.95),
    "GIF cut in half, end marks put behind": encode(PHOTO, "GIF")[:5000] + b"\0;",
    "BMP cut in half, length mended": bmp(0.5),
    "BMP in run lengths, with half its rows": run_lengths(SIDE // 2),
}


@pytest.mark.parametrize("name", PARTIAL)
@pytest.mark.parametrize("size", [16, SIDE])  # a JPEG is decoded small, or as it is
def test_a_picture_that_is_not_all_there_is_refused(name, size):
    with pytest.raises(ImageError):
        decode(PARTIAL[name], size)
    with pytest.raises(ImageError):
        thumbnail(PARTIAL[name], size)


def test_a_refusal_says_what_is_missing():
    for name, found in {
        "JPEG cut in half, end marker put behind": "its data end before the picture does",
        "JPEG whose rest was never written": "it has no end marker",
        "JPEG with a restart interval missing": "restart markers are missing",
        "progressive JPEG without its last scan": "its last scans are missing",
        "PNG with half its rows": "it has fewer rows than it declares",
        "TIFF with one of three planes": "it has 4 of 12 strips",
    }.items():
        with pytest.raises(ImageError) as caught:
            decode(PARTIAL[name], SIDE)
        assert caught.value.found == f"truncated: {found}"


# --- whole pictures --------------------------------------------------------------------------


def before_the_frame(data: bytes, segment: bytes) -> bytes:
    return data[:2] + segment + data[2:]


BLACK = Image.new("RGB", (SIDE, SIDE))
BLACK_BELOW = PHOTO.copy()
BLACK_BELOW.paste("black", (0, SIDE // 3, SIDE, SIDE))
MPO = encode(PHOTO, "MPO", save_all=True, append_images=[TURNED])
ARITHMETIC = jpeg().replace(b"\xff\xc0", b"\xff\xc9", 1)  # its data are nonsense, and decode
WHOLE = {
    "JPEG": jpeg(),
    "JPEG, full colour": jpeg(subsampling=0, quality=100),
    "JPEG, optimized": jpeg(optimize=True),
    "grey JPEG": encode(PHOTO.convert("L"), "JPEG"),
    "CMYK JPEG": encode(PHOTO.convert("CMYK"), "JPEG"),
    "progressive JPEG": jpeg(progressive=True),
    "grey progressive JPEG": encode(PHOTO.convert("L"), "JPEG", progressive=True),
    "JPEG of a single colour": encode(BLACK, "JPEG"),
    "progressive JPEG of a single colour": encode(BLACK, "JPEG", progressive=True),
    "JPEG with restart markers": jpeg(**RESTARTS),
    "JPEG with a restart marker a block": jpeg(restart_marker_blocks=1),
    "progressive JPEG with restart markers": jpeg(progressive=True, restart_marker_blocks=3),
    "JPEG with one restart marker too many": jpeg(**RESTARTS)[:-2] + b"\xff\xd7" + END,
    "JPEG with a scan a component": scan_by_component(),
    "JPEG with bytes behind its end": jpeg() + b"\0\0\0\x18ftypmp42" + bytes(5000),
    "JPEG with another behind its end": jpeg() + encode(TURNED, "JPEG"),
    "JPEG with bytes before its end marker": jpeg()[:-2] + bytes(37) + END,
    "progressive JPEG with bytes before its end marker": jpeg(progressive=True)[:-2]
    + bytes(37)
    + END,
    "JPEG with fill bytes before a marker": jpeg()[:2] + b"\xff" * 5 + jpeg()[2:],
    "JPEG with fill bytes before its end marker": jpeg()[:-2] + b"\xff" * 5 + END,
    "JPEG with markers in its metadata": before_the_frame(
        jpeg(), b"\xff\xe5\0\x10" + b"\xff\xd9\xff\xda\xff\xc0\xff\xd8" + bytes(6)
    ),
    "JPEG with a thumbnail in its metadata": before_the_frame(
        jpeg(), b"\xff\xe6" + struct.pack(">H", 2 + len(jpeg())) + jpeg()
    ),
    "JPEG with arithmetic coding": ARITHMETIC,
    "MPO": MPO,
    "PNG": png(RGB),
    "interlaced PNG": png(RGB, interlaced=True),
    "interlaced 16-bit PNG": png(DEEP, interlaced=True),
    "black PNG": encode(BLACK, "PNG"),
    "PNG that is black at the bottom": encode(np.where(np.arange(SIDE) < 99, GREY.T, 0).T, "PNG"),
    "PNG in one bit, black": encode(BLACK.convert("1"), "PNG"),
    "PNG in a palette of four colours": encode(PHOTO.quantize(4), "PNG"),
    "animated PNG": encode(PHOTO, "PNG", save_all=True, append_images=[TURNED]),
    "PNG with bytes behind its end": png(RGB) + bytes(300),
    **{
        f"TIFF by {compression}": bytes(Tiff(compression=compression).data)
        for compression in (
            *("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma", "jpeg"),
            *("group3", "group4"),
        )
    },
    **{
        f"{mode} TIFF by jpeg": encode(PHOTO.convert(mode), "TIFF", compression="jpeg")
        for mode in ("L", "LA", "RGBA", "CMYK", "YCbCr")
    },
    "TIFF that is black at the bottom": encode(BLACK_BELOW, "TIFF"),
    "TIFF in tiles": encode(PHOTO, "TIFF", tiffinfo={322: 48, 323: 64}, compression="tiff_lzw"),
    "TIFF with separate planes": planar(3),
    "TIFF with separate planes, in one strip each": planar(3, strips=1),
    "deflated TIFF with separate planes": planar(3, compression=8),
    "TIFF without a number of rows": tiff(
        {256: SIDE, 257: SIDE, 258: 8, 259: 1, 262: 1, 277: 1}, GREY.tobytes()
    ),
    "WebP": encode(PHOTO, "WEBP"),
    "WebP of a single colour": encode(Image.new("RGB", (SIDE, SIDE), (200, 10, 30)), "WEBP"),
    "WebP that is black at the bottom": encode(BLACK_BELOW, "WEBP"),
    "lossless WebP that is black at the bottom": encode(BLACK_BELOW, "WEBP", lossless=True),
    "animated WebP": encode(PHOTO, "WEBP", save_all=True, append_images=[TURNED]),
    "GIF": encode(PHOTO, "GIF"),
    "animated GIF": encode(PHOTO, "GIF", save_all=True, append_images=[TURNED]),
    "GIF without its end mark": encode(PHOTO, "GIF")[:-1],
    "BMP": encode(PHOTO, "BMP"),
    "BMP in run lengths": run_lengths(SIDE),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_picture_has_the_pixels_that_pillow_gives_it(name):
    data = WHOLE[name]
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I;16"):
            expected = np.repeat((np.asarray(image) // 257).astype(np.uint8)[..., None], 3, -1)
        else:
            expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode(data, SIDE), expected)


def test_a_webp_whose_data_end_in_zeros_and_are_all_there_is_read():
    data = encode(Image.new("RGB", (1280, 855), (200, 10, 30)), "WEBP")
    assert data.endswith(bytes(50))
    assert decode(data, 8).tolist()[7][7] == [200, 9, 30]


@pytest.mark.parametrize("name", [name for name in WHOLE if "JPEG" in name])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_whole_jpeg_is_the_same_decoded_small(name, scale):
    small = SIDE // scale // 2
    with Image.open(io.BytesIO(WHOLE[name])) as image:
        _, box = image.draft(None, (2 * small, 2 * small))
        rgb = image.convert("RGB")
        expected = rgb.resize((small, small), 2, box=box, reducing_gap=3.0)
    assert np.array_equal(decode(WHOLE[name], small), np.asarray(expected))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, RESTARTS])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_cut_anywhere_lacks_no_more_than_its_last_block(mode, options):
    data = encode(PHOTO.convert(mode), "JPEG", **options)
    whole = decode(data, SIDE)
    start = data.index(b"\xff\xda") + 20
    for end in {*range(start, len(data) - 3, 97), *range(len(data) - 40, len(data) - 2)}:
        try:
            pixels = decode(data[:end] + END, SIDE)
        except ImageError:
            continue
        assert np.array_equal(pixels[:-17], whole[:-17])
        assert np.array_equal(pixels[:, :-17], whole[:, :-17])


@pytest.mark.parametrize("apart", [0, 2])  # the same bytes for each, or some that overlap
def test_a_tiff_cannot_have_one_large_jpeg_decoded_for_each_of_its_strips(apart, monkeypatch):
    file = Tiff(compression="jpeg")
    large = encode(Image.new("RGB", (1500, 1500)), "JPEG")
    places = [len(file.data) + apart * number for number in range(SIDE // 16)]
    for tag, values in ((273, places), (279, [len(large) - 20] * len(places))):
        kind, count, at = struct.unpack_from("<HII", file.data, file.entries[tag] + 2)
        assert count == len(values)
        struct.pack_into(f"<{count}{'_HI'[kind - 2]}", file.data, at, *values)
    decoded = []
    monkeypatch.setattr(whole, "check_jpeg", lambda *_: decoded.append(1))
    with pytest.raises(ImageError, match="cannot be decoded: "):
        decode(bytes(file.data) + large, 8)
    assert not decoded


def test_too_many_scans_are_refused_before_they_are_decoded():
    data = encode(picture(16, 16), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    with pytest.raises(ImageError, match=f"of 5010 scans: more than the limit of {MAX_SCANS}"):
        decode(data[:last] + scan * 5001 + END, 8)
    decode(data, 8)


def test_too_many_exif_segments_are_refused_before_they_are_put_together():
    data = encode(picture(16, 16), "JPEG")
    segment = b"\xff\xe1\0\x0aExif\0\0\0\0"
    with pytest.raises(ImageError, match="300000 parts of EXIF data: more than the limit"):
        decode(data[:2] + 300_000 * segment + data[2:], 8)
    decode(data[:2] + 100 * segment + data[2:], 8)
