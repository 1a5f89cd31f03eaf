"""Templates and style sheets."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.errors import printable

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **context: Any) -> str:
    """Fill in a template; all text is escaped."""
    return _environment().get_template(template).render(context)


def asset(name: str) -> str:
    """Read a style sheet or script."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def page_style() -> str:
    """Return the style sheet of a page; what it has of charts is in a file of its own."""
    return asset("page.css") + asset("charts.css")


@cache
def chart_style() -> str:
    """Return the style sheet of a chart that stands alone: on paper, with the page's colours.

    Drawing programs do not know CSS variables, so the values take their places.
    """
    light = asset("page.css").partition("@media")[0]
    colours = dict(re.findall(r"(--\w+): (#\w+)", light))
    style = asset("charts.css") + asset("paper.css")
    return re.sub(r"var\((--\w+)\)", lambda match: colours[match[1]], style)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_finish,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["removeprefix"] = str.removeprefix
    return environment


def _finish(value: object) -> object:
    """Make names printable; the output of other templates is so already."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return printable(str(value)) if is_text else value
