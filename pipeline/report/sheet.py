"""The views of an image on one sheet."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from pipeline.system.files import clear_unfinished, file_errors, write_file

_MARK = "views of an image, by cached-feature-pipeline"
_COLUMNS = 4
_SIDE = 300  # pixels: smaller views are enlarged to it
_MARGIN = 12
_TEXT = 20
_CHARACTER = 7.5  # mean width


def draw_sheet(pictures: npt.NDArray[np.uint8], captions: Sequence[str] = ()) -> Image.Image:
    """Draw pictures side by side, and below each its number, from 0, and its caption.

    `pictures` has shape (n, height, width, 3).
    """
    scale = max(1, round(_SIDE / max(pictures.shape[1:3])))
    height, width = (side * scale for side in pictures.shape[1:3])
    texts = [f"{place}: {caption}" for place, caption in enumerate(captions)]
    lines = [
        textwrap.wrap(text, max(8, int(width / _CHARACTER)))
        for text in texts or map(str, range(len(pictures)))
    ]
    columns = min(len(pictures), _COLUMNS)
    rows = -(-len(pictures) // columns)
    across, down = width + _MARGIN, height + _TEXT * max(map(len, lines)) + _MARGIN
    sheet = Image.new("RGB", (columns * across + _MARGIN, rows * down + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_TEXT * 0.75)
    for number, pixels in enumerate(pictures):
        row, column = divmod(number, columns)
        left, top = _MARGIN + column * across, _MARGIN + row * down
        view = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(view, (left, top))
        for place, line in enumerate(lines[number]):
            middle = (left + width / 2, top + height + _TEXT * (place + 0.5))
            draw.text(middle, line, "black", font, anchor="mm")
    return sheet


def write_sheet(pictures: npt.NDArray[np.uint8], file: Path, captions: Sequence[str] = ()) -> None:
    """Draw a sheet into a PNG file, in place of none but another sheet."""
    sheet, told = draw_sheet(pictures, captions), PngInfo()
    told.add_text("Software", _MARK)
    with file_errors(f"write {file}", fix="name another file with --out"):
        clear_unfinished(file.parent)
        write_file(
            file, lambda stream: sheet.save(stream, "PNG", pnginfo=told), over=_MARK.encode()
        )
