"""What to know of a data set's 16-bit images and TIFFs of several pages, from a sample of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from pipeline.data.decoding import MAX_16_BIT, Decoding
from pipeline.data.levels import extremes, is_12_bit, is_deep_colour
from pipeline.data.urls import Location
from pipeline.system.files import open_regular

_SAMPLE = 32
_SUFFIXES = (".png", ".tif", ".tiff")  # of the formats that can hold 16 bits, or pages
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
        The images of a data set; up to 32 are opened, and none behind URLs. Those in 16 bits are
        read whole until one is found that is bright.
    decoding : Decoding
        What was chosen.
    """
    named = [path for path in paths if isinstance(path, Path) and path.suffix.lower() in _SUFFIXES]
    sample = named[:: max(1, -(-len(named) // _SAMPLE))]
    looked_at: list[_Found] = []
    settled = {"grey"} if decoding.white else set()
    for path in sample:
        if found := _look_at(path, decoding.page, settled):
            looked_at.append(found)
            if found.brightest > _BRIGHT.get(found.depth, MAX_16_BIT):
                settled.add(found.depth)
    grey = [found.brightest for found in looked_at if found.depth == "grey"]
    colour = [found.brightest for found in looked_at if found.depth == "colour"]
    of_pages = sum(found.has_pages for found in looked_at)
    are = "" if len(sample) == len(named) else f" of the {len(sample)} that were looked at"
    remarks = []
    bits = max(grey, default=MAX_16_BIT).bit_length()
    if decoding.white is None and bits < 16:
        white = 2 ** next(number for number in _BITS if number >= bits) - 1
        remarks.append(
            f"all {len(grey)} images in 16-bit grey{are} stay below {white + 1}, and are seen "
            f"dark: --white {white} makes that value white"
        )
    if decoding.white is not None and looked_at and not grey:
        remarks.append(f"none of the images{are} is in 16-bit grey: --white changes nothing")
    if colour and max(colour) <= _DARK:
        remarks.append(
            f"all {len(colour)} images in 16-bit colour{are} stay below {_DARK + 1}, and are seen "
            "dark: save them with 8 bits a channel, all by one rule"
        )
    if of_pages:
        remarks.append(
            f"{of_pages} of {len(looked_at)} images{are} have more than one page: page "
            f"{decoding.page} is used; --page names another"
        )
    return tuple(remarks)


@dataclass(frozen=True)
class _Found:
    depth: Literal["", "grey", "colour"]
    brightest: int
    has_pages: bool


def _look_at(path: Path, page: int, settled: Collection[str]) -> _Found | None:
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
        if image.width * image.height <= _MAX_PIXELS:
            depth = "grey" if image.mode.startswith("I") and not is_12_bit(image) else ""
            depth = "colour" if is_deep_colour(image) else depth
        if depth in settled:
            return _Found(depth, MAX_16_BIT, has_pages)
        if depth:
            image.load()
        if depth == "colour":
            # Of each channel Pillow took the upper eight bits.
            return _Found(depth, 256 * int(extremes(image.convert("RGB"))[1]) + 255, has_pages)
        return _Found(depth, int(extremes(image)[1]) if depth else 0, has_pages)
    return None
