"""How figures and names are written on a page."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import printable
from pipeline.evaluation.significance import p_text

NO_BREAK = "\N{NO-BREAK SPACE}"

# Widths of characters of 12 pixels, in the wider of the fonts that systems use.
_WIDTHS = {**dict.fromkeys("fijlrtI.,:;'|!()[]/ ", 5.0), **dict.fromkeys("mwMW@%", 12.0)}
_WIDE, _UPPER, _OTHER = 12.0, 8.5, 7.7


def shortened(text: str, longest: int) -> str:
    """Cut a name that is too long for its place, and show that it is cut."""
    text = printable(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def width(text: str) -> float:
    """Estimate how wide a text is in a chart, in pixels."""
    return sum(map(_character_width, text))


def _character_width(char: str) -> float:
    if unicodedata.east_asian_width(char) in "WF":
        return _WIDE
    return _WIDTHS.get(char, _UPPER if char.isupper() else _OTHER)


def number(value: float | None) -> str:
    """Write a metric as everywhere else; a dash where it is undefined."""
    return "-" if value is None else f"{value:.3f}"


def percent(share: float) -> str:
    """Write a share for a sentence."""
    return f"{100 * share:.1f}{NO_BREAK}%"


def p_value(p: float) -> str:
    """Write a p-value so that no line ends within it."""
    return p_text(p).replace(" ", NO_BREAK)


def common_folder(paths: Sequence[str]) -> str:
    """Find what all paths begin with, up to a slash: it need not stand below each picture."""
    common = os.path.commonprefix(paths)  # noqa: RUF071 -- cut below; commonpath makes s3:/ of s3://
    folder = common[: max(common.rfind("/"), common.rfind(os.sep)) + 1]
    return folder if len(paths) > 1 and Path(folder).name else ""
