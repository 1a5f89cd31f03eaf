"""The documents name what there is: files, tests, links."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path for folder in ("", "docs", "docs/decisions") for path in (ROOT / folder).glob("*.md")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_that_are_there(page):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, heading = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_are_there(page):
    named = set(re.findall(r"\b(?:pipeline|tests)/[\w/]+\.py\b", page.read_text(encoding="utf-8")))
    for name in named - {"pipeline/backbones/vgg19.py"}:  # which an example adds
        assert (ROOT / name).exists(), name


def test_the_architecture_page_has_a_line_for_every_file():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    wings = re.split(r"^\| (\w+) \| \|$", page[page.index("## The files") :], flags=re.MULTILINE)
    listed = {
        f"{wing}/{name}"
        for wing, table in zip(wings[1::2], wings[2::2])
        for name in re.findall(r"^\| `([\w./]+)` \|", table, re.MULTILINE)
    }
    files = {
        path.relative_to(ROOT / "pipeline").as_posix()
        for path in (ROOT / "pipeline").glob("*/**/*.py")
        if path.name != "__init__.py"
    }
    assert listed == files


def test_every_test_of_the_promises_is_there():
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    named = 0
    for line in page.splitlines():
        file = "tests/test_torture.py"
        for text in re.findall(r"`([^`]+)`", line):
            if text.endswith(".py"):
                file = text
            elif text.startswith("test_"):
                named += 1
                assert f"def {text.rstrip('…')}" in (ROOT / file).read_text(), text
    assert named > 15
