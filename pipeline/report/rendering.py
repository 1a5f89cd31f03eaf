"""Templates and style sheets."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.errors import printable
from pipeline.report.words import NO_BREAK

_TEMPLATES = Path(__file__).parent / "templates"
_LETTERS = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]+"
_RIGHT_TO_LEFT = re.compile(f"{_LETTERS}(?:[ _-]+{_LETTERS})*")


def render(template: str, *, templates: Path = _TEMPLATES, **context: Any) -> str:
    """Fill in a template of a folder, which may import the report's; all text is escaped."""
    return _environment(templates).get_template(template).render(context)


def lay_out(
    sections: Sequence[tuple[str, str, str]],
    *,
    style: str,
    script: str,
    policy: str = "img-src data:",
    **header: Any,
) -> str:
    """Put a page together, whose policy lets the browser do nothing but what it needs.

    Parameters
    ----------
    sections : sequence of (key, heading, HTML)
        The parts of the page.
    style, script : str
        The one style sheet and the one script that the browser may apply.
    policy : str
        What it may load.
    header : texts
        What stands above the sections.
    """
    return render(
        "page.html.j2",
        sections=sections,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        policy=policy,
        **header,
    )


def _hash(text: str) -> str:
    """Return the SHA-256 of a style or script in the form that content policies use."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def asset(name: str, *, templates: Path = _TEMPLATES) -> str:
    """Read a style sheet or script."""
    return (templates / name).read_text(encoding="utf-8")


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
def _environment(templates: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([templates, _TEMPLATES]),
        autoescape=True,
        finalize=_finish,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["removeprefix"] = str.removeprefix
    environment.filters["verbatim"] = _verbatim
    environment.filters["with_commands"] = _with_commands
    return environment


def _finish(value: object) -> object:
    """Make texts fit to read; the output of other templates is so already.

    Arabic and Hebrew are isolated, or the figures beside them would change places; no line ends
    before a per cent sign.
    """
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    text = printable(value).replace(" %", f"{NO_BREAK}%")
    return _RIGHT_TO_LEFT.sub("\N{FIRST STRONG ISOLATE}\\g<0>\N{POP DIRECTIONAL ISOLATE}", text)


def _verbatim(text: str) -> Markup:
    """Keep a path or command as it is, so that it can be copied."""
    return escape(printable(text))


def _with_commands(sentence: str) -> Markup:
    """Set the commands in a sentence, which stand between backticks, as such."""
    parts = sentence.split("`")
    if len(parts) % 2 == 0:  # a name may hold one
        return escape(_finish(sentence))
    return Markup().join(
        Markup("<code>{}</code>").format(_verbatim(part)) if place % 2 else escape(_finish(part))
        for place, part in enumerate(parts)
    )
