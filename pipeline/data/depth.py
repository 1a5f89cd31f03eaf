"""What to know of a data set's 16-bit images and TIFFs of several pages, from a sample of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zlib import crc32

from PIL import Image

from pipeline.data.decoding import MAX_16_BIT, Decoding
from pipeline.data.images import EXTENSIONS
from pipeline.data.levels import extremes, is_12_bit, is_deep_colour
from pipeline.data.urls import Location
from pipeline.system.files import open_regular

_MOST_OPENED = 500
_MOST_READ = 32  # whole, of those in 16-bit grey and in 16-bit colour
_OF_8_BITS = EXTENSIONS - {".png", ".tif", ".tiff"}
_FORMATS = ("PNG", "TIFF")
_BITS = (8, 10, 12, 14, 15)
_MAX_PIXELS = 50_000_000
_DARK = 4095  # a sixteenth of the range: 12 bits
_BRIGHT = {"grey": MAX_16_BIT // 2, "colour": _DARK}  # beyond that, no others need be looked at


def remarks_on_decoding(paths: Sequence[Location], decoding: Decoding) -> tuple[str, ...]:
    """Say where 16-bit images are seen too dark, and where only one of several pages is used.

    Parameters
    ----------
    paths : sequence of Path or Url
        The images of a data set; up to 500 of those that may hold 16 bits by their suffix are
        opened, always the same, and none behind URLs. Those in 16 bits are read whole until one is
        found that is bright, 32 at most.
    decoding : Decoding
        What was chosen.
    """
    may_be_deep = [path for path in paths if path.suffix.lower() not in _OF_8_BITS]
    sample = [path for path in may_be_deep if isinstance(path, Path)]
    if len(sample) > _MOST_OPENED:  # the same whether a broken one is among them or not
        sample = sorted(sample, key=lambda path: crc32(os.fsencode(path)))[:_MOST_OPENED]
    left = {"grey": 0 if decoding.white else _MOST_READ, "colour": _MOST_READ}
    looked_at: list[_Found] = []
    for path in sample:
        if found := _look_at(path, decoding.page, [depth for depth in left if left[depth]]):
            looked_at.append(found)
            if found.brightest is not None:
                is_bright = found.brightest > _BRIGHT[found.depth]
                left[found.depth] = 0 if is_bright else left[found.depth] - 1
    is_whole = len(sample) == len(may_be_deep)
    return tuple(_remarks(looked_at, decoding, is_whole=is_whole))


def _remarks(looked_at: Sequence[_Found], decoding: Decoding, *, is_whole: bool) -> Iterator[str]:
    read: dict[str, list[int]] = {"grey": [], "colour": []}
    for found in looked_at:
        if found.brightest is not None:
            read[found.depth].append(found.brightest)
    counts = Counter(found.depth for found in looked_at)
    bits = max(read["grey"], default=MAX_16_BIT).bit_length()
    if decoding.white is None and bits < 16:
        white = 2 ** next(number for number in _BITS if number >= bits) - 1
        whole = is_whole and len(read["grey"]) == counts["grey"]
        dark = _are_dark(len(read["grey"]), "grey", white + 1, is_whole=whole)
        yield f"{dark}: --white {white} makes that value white"
    if decoding.white is not None and looked_at and not counts["grey"]:
        if is_whole:
            yield "none of the images is in 16-bit grey: --white changes nothing"
        else:
            yield (
                f"of {_were_looked_at(len(looked_at))}, none is in 16-bit grey, which "
                "alone --white changes; others may be"
            )
    if read["colour"] and max(read["colour"]) <= _DARK:
        whole = is_whole and len(read["colour"]) == counts["colour"]
        dark = _are_dark(len(read["colour"]), "colour", _DARK + 1, is_whole=whole)
        yield f"{dark}: save them with 8 bits a channel, all by one rule"
    if of_pages := sum(found.has_pages for found in looked_at):
        among = "" if is_whole else f" of {_were_looked_at(len(looked_at))}"
        yield (
            f"{of_pages:,}{among or (' image' if of_pages == 1 else ' images')} "
            f"{'has' if of_pages == 1 else 'have'} more than one page: page {decoding.page} is "
            "used; --page names another"
        )


def _are_dark(count: int, depth: str, limit: int, *, is_whole: bool) -> str:
    """Say that all images of a depth are dark, or all that were looked at."""
    of_depth = f" in 16-bit {depth}"
    if count == 1:
        seen = "" if is_whole else " that was looked at"
        return f"the one image{of_depth}{seen} stays below {limit}, and is seen dark"
    seen = "" if is_whole else " that were looked at"
    return f"all {count:,} images{of_depth}{seen} stay below {limit}, and are seen dark"


def _were_looked_at(count: int) -> str:
    return "1 image that was looked at" if count == 1 else f"{count:,} images that were looked at"


@dataclass(frozen=True)
class _Found:
    depth: Literal["", "grey", "colour"]
    brightest: int | None  # None where it was not read
    has_pages: bool


def _look_at(path: Path, page: int, read: Collection[str]) -> _Found | None:
    # What cannot be read is refused, with its reason, when its row is made.
    with (
        suppress(Exception),
        open_regular(path, follow=True) as file,
        Image.open(file, formats=_FORMATS) as image,
    ):
        has_pages = False
        if image.format == "TIFF":
            with suppress(EOFError):
                image.seek(1)
                has_pages = True
            image.seek(page - 1)
        depth: Literal["", "grey", "colour"] = ""
        if image.mode.startswith("I") and not is_12_bit(image):
            depth = "grey"
        elif is_deep_colour(image):
            depth = "colour"
        if depth not in read or image.width * image.height > _MAX_PIXELS:
            return _Found(depth, None, has_pages)
        image.load()
        if depth == "colour":
            # Of each channel Pillow took the upper eight bits.
            return _Found(depth, 256 * int(extremes(image.convert("RGB"))[1]) + 255, has_pages)
        return _Found(depth, int(extremes(image)[1]), has_pages)
    return None
