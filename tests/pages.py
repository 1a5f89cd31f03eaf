"""Pages read as a tree, and what holds for every page."""

import base64
import hashlib
import re
from html.parser import HTMLParser

from conftest import paint

from pipeline.report.page import write_report

VOID = {"meta", "link", "img", "input", "br"}
SVG = {"path", "circle", "text", "g", "svg"}


class Element:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children, self.own_text = [], []

    def all(self, tag=None, **attributes):
        """Find all elements within, by tag and attributes (class_: one of the classes)."""
        for child in self.children:
            if (tag is None or child.tag == tag) and all(
                value in child.attributes.get(name.rstrip("_"), "").split()
                if name == "class_"
                else child.attributes.get(name) == value
                for name, value in attributes.items()
            ):
                yield child
            yield from child.all(tag, **attributes)

    def one(self, tag=None, **attributes):
        [found] = self.all(tag, **attributes)
        return found

    @property
    def text(self):
        parts = (part if isinstance(part, str) else part.text for part in self.own_text)
        return " ".join(" ".join(parts).replace("\xa0", " ").split())


class Page(HTMLParser):
    """A page as a tree; it is an error if elements are not properly nested."""

    def __init__(self, file):
        super().__init__()
        self.source = file.read_bytes().decode("utf-8")
        self.root = self.here = Element("", {}, None)
        self.feed(self.source)
        self.close()
        assert self.here is self.root, f"<{self.here.tag}> is never closed"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names), (tag, names)
        new = Element(tag, {name: value or "" for name, value in attributes}, self.here)
        self.here.children.append(new)
        self.here.own_text.append(new)
        if tag not in VOID:
            self.here = new

    def handle_startendtag(self, tag, attributes):
        assert tag in SVG, tag
        self.handle_starttag(tag, attributes)
        self.here = self.here.parent

    def handle_endtag(self, tag):
        assert tag == self.here.tag, f"</{tag}> where <{self.here.tag}> is open"
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.own_text.append(data)

    def section(self, key):
        return self.root.one("section", id=key)

    @property
    def verdict(self):
        return [line.text for line in self.root.one("header").all("p")]


def report(folder):
    return Page(write_report(folder))


def rows_of(table):
    return [[cell.text for cell in row.children] for row in next(table.all("tbody")).all("tr")]


def painted(tmp_path):
    files = (tmp_path / f"{number}.png" for number in range(120))
    return tuple(paint(file, (90, 90, 200), seed) for seed, file in enumerate(files))


def nothing_leaves(found):
    """Hold that a page refers to nothing but itself, and runs only its own script."""
    for element in found.root.all():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), (element.tag, name)
            assert name != "style", element.tag
            if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                assert value.startswith(("data:", "#")), value[:80]
    tags = {element.tag for element in found.root.all()}
    assert not tags & {"iframe", "object", "embed", "form", "base", "foreignobject", "use", "image"}
    [style], [script] = found.root.all("style"), found.root.all("script")
    css, js = style.own_text[0], script.own_text[0]
    assert not re.search(r"url\(|@import|expression", css)
    assert not re.search(r"https?:|fetch|XMLHttp|import|innerHTML|eval", js)
    policy = found.root.one("meta", **{"http-equiv": "Content-Security-Policy"})
    rules = dict(rule.split(" ", 1) for rule in policy.attributes["content"].split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind, text in (("style", css), ("script", js)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"


def speaks(found):
    """Hold that whatever is to be seen is also said in words."""
    assert found.root.one("html").attributes["lang"] == "en"
    for picture in found.root.all("img"):
        assert picture.attributes["alt"].strip()
    figures = list(found.root.all("figure"))
    for figure in figures:
        assert figure.one("figcaption").text
    for drawing in found.root.all("svg"):
        hidden = drawing.attributes.get("aria-hidden") == "true"
        assert hidden or (
            drawing.attributes["role"] == "img" and len(drawing.attributes["aria-label"]) > 20
        )
    ids = [element.attributes["id"] for element in found.root.all() if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    for element in found.root.all():
        assert element.attributes.get("aria-labelledby", ids[0]) in ids
    return figures
