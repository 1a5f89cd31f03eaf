"""Texts in CSV files, harmless to spreadsheets.

A spreadsheet takes for a formula whatever begins with one of a few signs, and a formula can read
files and send them away. So an apostrophe is put before such a text: it is then text, for Excel,
LibreOffice and others. Numbers are left as they are.
"""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def to_cell(text: str) -> str:
    """Write a text into a CSV file; `from_cell` reads it."""
    return f"'{text}" if _is_formula(text) else text


def from_cell(cell: str) -> str:
    """Read what `to_cell` wrote."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _is_formula(text: str) -> bool:
    text = text.lstrip("' ")
    return text.startswith(_FORMULA) and len(text) > 1 and not _is_number(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
