"""JPEG files, decoded scan by scan, so that a missing part of the picture is noticed.

libjpeg makes grey what a file lacks, and says so in a warning that Pillow drops. Here its decoder
gets a scan without the marker that ends it, and has to show that it needs no more data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageFile

from pipeline.errors import ImageError

MAX_SCANS = 100
"""Scans beyond which a progressive JPEG is refused: 168 kB with 5,000 of them took 28 s.

Encoders write about 10, and each goes over the whole picture.
"""

_EXIF = b"Exif\0\0"
_MAX_EXIF = 1000  # cameras write one. Pillow copies all that came before for each

_HUFFMAN = (0xC0, 0xC1, 0xC2)  # frames: baseline, extended, progressive
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START, _END, _SCAN, _INTERVAL, _NOTHING = 0xD8, 0xD9, 0xDA, 0xDD, 0x01
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")

# Eight bits of one. As a code these are invalid; between two segments a decoder ignores them.
_PADDING = b"\xff\0"
_READ_AHEAD = 8  # bytes, at most, that libjpeg takes before it needs them
_PROBES = 4
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "CMYK"}  # by the number of components
_SMALL = 8  # the factor by which a JPEG can be decoded smaller


@dataclass(frozen=True)
class _Frame:
    kind: int
    height: int
    width: int
    sampling: dict[int, tuple[int, int]]  # of each component: horizontal, vertical

    def units(self, components: bytes) -> int:
        """Count what a scan of these components is made of."""
        across = max(horizontal for horizontal, _ in self.sampling.values())
        down = max(vertical for _, vertical in self.sampling.values())
        own = self.sampling[components[0]] if len(components) == 1 else (1, 1)
        columns = -(-self.width * own[0] // (8 * across))
        return columns * -(-self.height * own[1] // (8 * down))


@dataclass(frozen=True)
class _Scan:
    components: bytes
    first: int  # coefficient
    last: int
    low: int  # the lowest bit that has been sent by now
    interval: int
    start: int
    end: int


def check_exif(data: bytes) -> None:
    """Refuse a JPEG that is not opened yet whose metadata would take long to put together."""
    if (found := data.count(_EXIF)) > _MAX_EXIF:
        raise ImageError(
            f"{found} parts of EXIF data: more than the limit of {_MAX_EXIF}",
            fix="If the image is genuine, save a copy of it.",
        )


def load_jpeg(image: ImageFile.ImageFile, data: bytes) -> None:
    """Load a picture that Pillow opened, with the pixels of `image.load()`, or refuse it.

    A JPEG with arithmetic coding is loaded as it is: its data do not tell where they end.

    Raises
    ------
    ImageError
        A part of the picture is missing, or it has more than `MAX_SCANS` scans.
    """
    if (found := _check(data)) is None:
        image.load()
        return
    image.load_prepare()
    (tile,) = image.tile
    decoder: Any = Image._getdecoder(image.mode, tile.codec_name, tile.args, image.decoderconfig)
    decoder.setimage(image.im, tile.extents)
    _decode(decoder, data, *found)
    image.tile = []


def size_of_jpeg(data: bytes) -> tuple[int, int]:
    """Read the width and height that a JPEG declares."""
    frame = _read(data)[0]
    if frame is None:
        raise ImageError("cannot be decoded: a JPEG without a header")
    return frame.width, frame.height


def check_jpeg(data: bytes) -> None:
    """Refuse a JPEG of which a part is missing; one of two components, too, as `load_jpeg`."""
    if (found := _check(data)) is None:
        return
    frame = found[0]
    mode = _MODES.get(len(frame.sampling))
    if mode is None:
        raise ImageError(f"cannot be decoded: a JPEG of {len(frame.sampling)} components")
    size = -(-frame.width // _SMALL), -(-frame.height // _SMALL)
    decoder: Any = Image._getdecoder(mode, "jpeg", (mode, ""), (_SMALL, 0))
    decoder.setimage(Image.new(mode, size).im, (0, 0, *size))
    _decode(decoder, data, *found)


def _check(data: bytes) -> tuple[_Frame, list[_Scan]] | None:
    """Find what is to be decoded; None where the data do not tell whether all is there."""
    frame, scans, ended = _read(data)
    if len(scans) > MAX_SCANS:
        raise ImageError(
            f"a JPEG of {len(scans)} scans: more than the limit of {MAX_SCANS}",
            fix="If the image is genuine, save a copy of it.",
        )
    if frame is None or frame.kind not in _HUFFMAN:
        return None
    at_once = _is_at_once(frame, scans)
    if at_once and len(scans) > 1:
        raise ImageError("cannot be decoded: it has another JPEG within")
    if not ended:
        raise _truncated("it has no end marker")
    if not all(_has_all_intervals(data, frame, scan) for scan in scans):
        raise _truncated("restart markers are missing")
    if not at_once and not _has_all_coefficients(frame, scans):
        raise _truncated("its last scans are missing")
    return frame, scans


def _is_at_once(frame: _Frame, scans: list[_Scan]) -> bool:
    return frame.kind != 0xC2 and len(scans[0].components) == len(frame.sampling)


def _read(data: bytes) -> tuple[_Frame | None, list[_Scan], bool]:
    """Find the frame and the scans, up to the marker that ends the picture."""
    frame, interval, place = None, 0, 2
    scans: list[_Scan] = []
    while match := _MARKER.search(data, place):
        kind, place = data[match.end() - 1], match.end()
        if kind == _END:
            return frame, scans, True
        if kind == _NOTHING:
            continue
        if kind == _START or (kind in _FRAMES and frame):
            raise ImageError("cannot be decoded: it has another JPEG within")
        place += int.from_bytes(data[place : place + 2])
        body = data[match.end() + 2 : place]
        if kind in _FRAMES:
            parts = (body[at : at + 3] for at in range(6, 6 + 3 * body[5], 3))
            sampling = {part[0]: (part[1] >> 4, part[1] & 15) for part in parts}
            height, width = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
            frame = _Frame(kind, height, width, sampling)
        elif kind == _INTERVAL:
            interval = int.from_bytes(body[:2])
        elif kind == _SCAN:
            after = _MARKER.search(data, place)
            end = after.start() if after else len(data)
            count = body[0]
            first, last, bits = body[1 + 2 * count : 4 + 2 * count]
            components = body[1 : 1 + 2 * count : 2]
            scans.append(_Scan(components, first, last, bits & 15, interval, place, end))
            place = end
    return frame, scans, False


def _has_all_intervals(data: bytes, frame: _Frame, scan: _Scan) -> bool:
    """Compare the restart markers with those that there should be: libjpeg makes up for others."""
    found = b"".join(_RESTART.findall(data, scan.start, scan.end))
    if not scan.interval:
        return not found
    count = -(-frame.units(scan.components) // scan.interval) - 1
    return len(found) >= count and all(
        marker == 0xD0 + number % 8 for number, marker in zip(range(count), found)
    )


def _has_all_coefficients(frame: _Frame, scans: list[_Scan]) -> bool:
    low = {
        (component, place): scan.low
        for scan in scans
        for component in scan.components
        for place in range(scan.first, scan.last + 1)
    }
    return all(
        low.get((component, place)) == 0 for component in frame.sampling for place in range(64)
    )


def _decode(decoder: Any, data: bytes, frame: _Frame, scans: list[_Scan]) -> None:
    """Decode all scans, and let go of the decoder."""
    try:
        _feed(decoder, data, scans, at_once=_is_at_once(frame, scans))
    finally:
        decoder.cleanup()


def _feed(decoder: Any, data: bytes, scans: list[_Scan], *, at_once: bool) -> None:
    """Give a decoder scan after scan, and after each make sure that it lacks nothing."""
    rest = b""

    def is_done(more: bytes) -> bool:
        nonlocal rest
        rest += more
        used: int
        used, error = decoder.decode(rest)
        if error < 0:
            raise OSError("broken data stream when reading image file")
        rest = rest[used:] if used >= 0 else b""
        return used < 0

    start = 0
    for scan in scans:
        if is_done(data[start : scan.end] + _READ_AHEAD * _PADDING):
            return
        # What a decoder does not use has to wait for more data, so it is still within the scan.
        for _ in range(_PROBES):
            if at_once or is_done(_PADDING) or rest:
                raise _truncated("its data end before the picture does")
        start = scan.end
    if not is_done(b"\xff" + bytes([_END])):
        raise _truncated("its data end before the picture does")


def _truncated(reason: str) -> ImageError:
    return ImageError(f"truncated: {reason}")
