"""A run's page in a real browser: nothing is asked for, all is seen, and it can be worked with."""

from pathlib import Path

import pytest
from conftest import paint
from imitated import HISTORY, imitate, put_markup

from pipeline.data.dataset import Quarantined
from pipeline.report.page import write_comparison, write_report

WIDTHS = (400, 1400)
SCHEMES = ("light", "dark")
HOSTILE = ("<script>alert(1)</script>", '" onload="alert(1)', "x" * 80 + "\udcff\n")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pages of several kinds, by name."""
    home = tmp_path_factory.mktemp("pages")
    colours = ((90, 90, 200), (200, 90, 90), (90, 200, 90))
    pictures = tuple(
        paint(home / "pictures" / f"{number}.png", colours[number % 3], number, side=30 + number)
        for number in range(150)
    )
    counts = (40, 20, 90)
    heads = ("logistic", "knn", "linear-svm", "rbf-svm", "dense")
    bad = tuple(Quarantined(Path(f"/photos/{n}/{'long' * 40}.jpg"), "0 bytes") for n in range(3))
    plain = imitate(
        home / "plain",
        classes=("blue", "green", "red"),
        counts=counts,
        heads=heads,
        paths=pictures,
        quarantined=bad,
        history=HISTORY,
        skill=0.6,
        looked_into=True,
    )
    other = imitate(
        home / "other",
        classes=("blue", "green", "red"),
        counts=counts,
        heads=("finetuned",),
        paths=pictures,
        history=HISTORY,
        seed=1,
    )
    hostile = imitate(
        home / "hostile",
        classes=HOSTILE,
        counts=counts,
        heads=(HOSTILE[0], "b" * 60),
        paths=tuple(Path(f"/gone/{'d' * 100}/<b>{n}\udce9.png") for n in range(150)),
        history=HISTORY,
        skill=0.6,
        looked_into=True,
    )
    for name in ("run", "problems", "examples", "pictures"):
        put_markup(hostile.folder / f"{name}.json")
    many = imitate(
        home / "many",
        classes=tuple(f"class {number}" for number in range(60)),
        counts=(60, 60, 300),
        skill=0.8,
    )
    return {
        **{run.folder.name: write_report(run.folder) for run in (plain, hostile, many)},
        "comparison": write_comparison([plain.folder, other.folder], home / "comparison.html"),
    }


NAMES = ("plain", "hostile", "many", "comparison")


@pytest.fixture
def visit(watched, files):
    """Open pages, and hold at the end that they asked for nothing and complained of nothing."""

    def open_page(name, width=1400, scheme="light", **settings):
        page = watched.page(width, scheme, **settings)
        page.goto(files[name].as_uri())
        return page

    yield open_page
    assert watched.complaints == []
    opened = {file.as_uri() for file in files.values()}
    asked = [url for url in watched.requests if not url.startswith("data:")]
    assert set(asked) <= opened


@pytest.mark.parametrize("name", NAMES)
def test_a_page_opens_in_silence_and_every_picture_is_there(visit, name):
    page = visit(name)
    sizes = page.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth])")
    assert all(complete and width > 0 for complete, width in sizes)
    assert bool(sizes) == (name == "plain")
    assert page.evaluate("document.scripts.length") == 1


def column(page, place):
    return page.locator("#heads table.sortable tbody tr").evaluate_all(
        "(rows, place) => rows.map(row => row.cells[place].textContent.trim())", place
    )


def figures(page, place):
    """Without the intervals below them."""
    return [float(text.split()[0]) for text in column(page, place)]


@pytest.mark.parametrize("way", ["mouse", "keyboard"])
def test_the_table_is_sorted_by_its_headings(visit, way):
    page = visit("plain")
    titles = page.locator("#heads table.sortable thead th")

    def press(place):
        button = titles.nth(place).get_by_role("button")
        if way == "mouse":
            button.click()
        else:
            button.focus()
            page.keyboard.press("Enter")

    before = column(page, 0)
    for place, first in ((1, "descending"), (6, "ascending"), (9, "ascending")):
        press(place)
        values = figures(page, place)
        assert values == sorted(values, reverse=first == "descending")
        assert titles.nth(place).get_attribute("aria-sort") == first
        press(place)
        again = figures(page, place)
        assert again == sorted(values, reverse=first == "ascending")
        assert page.locator("#heads [aria-sort]").count() == 1
    press(0)
    assert column(page, 0) == sorted(before, key=str.lower)


def test_a_value_that_is_undefined_is_sorted_below_all_others(visit):
    page = visit("many")
    page.evaluate(
        "document.querySelector('table.sortable tbody tr').cells[4].removeAttribute('data-value')"
    )
    first = column(page, 0)[0]
    page.locator("#heads thead th").nth(4).get_by_role("button").click()
    assert column(page, 0)[-1] == first


@pytest.mark.parametrize("way", ["mouse", "keyboard"])
def test_a_mistake_is_enlarged_and_made_small_again_without_a_script(visit, way):
    page = visit("plain", java_script_enabled=False)
    picture = page.locator("#mistakes .large-or-small").first
    image = picture.locator("img").first

    def press():
        if way == "mouse":
            image.click()
        else:
            picture.locator("input").focus()
            page.keyboard.press("Space")

    small = image.bounding_box()
    press()
    large = image.bounding_box()
    assert large["width"] > 3 * small["width"]
    assert 0 <= large["x"] < large["x"] + large["width"] <= 1400
    assert 0 <= large["y"] < large["y"] + large["height"] <= 900
    press()
    again = image.bounding_box()
    assert (again["width"], again["height"]) == (small["width"], small["height"])


def test_mistakes_stand_in_equal_boxes(visit):
    page = visit("plain")
    boxes = (
        page.locator("#mistakes > .gallery")
        .first.locator("figure")
        .evaluate_all(
            """(figures) => figures.map((figure) => {
          const box = figure.querySelector(".box").getBoundingClientRect();
          return [Math.round(box.width), Math.round(box.height)];
        })"""
        )
    )
    assert len(boxes) > 5
    assert len(set(map(tuple, boxes))) == 1


def test_the_first_screen_answers_before_anything_is_scrolled(visit):
    page = visit("plain")
    for text in ("How many of each class are found", "What goes wrong", "What to do next"):
        box = page.get_by_role("heading", name=text).bounding_box()
        assert box["y"] + box["height"] < 900
    assert page.locator("header .strip img").count() == 6
    assert page.locator("header .large").inner_text().split()[0].replace(".", "").isdigit()


def test_no_column_of_the_comparison_is_cut_off(visit):
    page = visit("comparison")
    cut = page.locator(".scroll").evaluate_all(
        "(boxes) => boxes.filter((box) => box.scrollWidth > box.clientWidth).length"
    )
    assert cut == 0


def test_maps_are_shown_when_asked_for_and_lie_exactly_over_their_pictures(visit):
    page = visit("plain")
    assert page.locator(".map:visible").count() == 0
    assert page.locator(".map-words:visible").count() == 0
    page.locator("#mistakes > details").evaluate_all(
        "(all) => all.forEach((one) => one.open = true)"
    )
    page.locator(".maps input").check()
    boxes = page.evaluate(
        """[...document.querySelectorAll("#mistakes .map")].map((map) => {
          const [one, other] = [map, map.parentElement.querySelector("img")].map((image) => {
            const box = image.getBoundingClientRect();
            return [box.x, box.y, box.width, box.height];
          });
          return one.map((value, place) => Math.abs(value - other[place]));
        })"""
    )
    assert len(boxes) > 5
    assert max(map(max, boxes)) < 0.6
    assert page.locator(".map:visible").count() == len(boxes)
    assert page.locator(".map-words:visible").count() == 1


def test_the_lists_of_problems_open_and_are_filtered_each_by_its_own_field(visit):
    page = visit("plain")
    suspects = page.locator("details", has=page.locator("[data-filtered=suspects]"))
    assert suspects.locator("table:visible").count() == 0
    suspects.locator("summary").click()
    rows = suspects.locator("tbody tr:visible")
    names = suspects.locator("tbody th").all_inner_texts()
    assert len(names) > 5
    suspects.get_by_label("Filter").fill(names[0])
    assert rows.count() == sum(names[0] in name for name in names)
    assert page.locator("#heads tbody tr:visible").count() == 5
    margin = suspects.locator("thead th").nth(4)
    margin.get_by_role("button").click()
    assert margin.get_attribute("aria-sort") == "descending"


def test_all_can_be_reached_with_the_keyboard(visit):
    page = visit("plain", width=400)
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    wanted = "a[href], button, input, select, summary, [tabindex='0']"
    count = page.locator(wanted).count()
    reached = set()
    for _ in range(count):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                f"[...document.querySelectorAll(`{wanted}`)].indexOf(document.activeElement)"
            )
        )
    assert reached == set(range(count))


OUTSIDE = """
() => [...document.querySelectorAll("body *")].filter((element) => {
  const scrolls = element.closest(".scroll");
  if (scrolls && scrolls !== element) return false;
  const box = element.getBoundingClientRect();
  return box.width > 0 && (box.left < 0 || box.right > document.documentElement.clientWidth);
}).map((element) => element.outerHTML.slice(0, 200))
"""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wider_than_the_window(visit, name, width):
    page = visit(name, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(OUTSIDE) == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_text_in_charts_is_of_a_size_that_can_be_read(visit, name, width):
    page = visit(name, width)
    sizes = page.evaluate(
        """[...document.querySelectorAll("svg text")].map((text) => {
          const matrix = text.getScreenCTM();
          return 12 * Math.hypot(matrix.a, matrix.b);
        })"""
    )
    assert min(sizes) > 10


CONTRASTS = """
() => {
  const channels = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = (top, below) =>
    [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * below[i]).concat(1);
  const luminance = (colour) => {
    const [r, g, b] = colour.map((value) => {
      value /= 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const page = channels(getComputedStyle(document.body).backgroundColor);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script, option, [hidden]")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    const under = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    if (!under.some((element) => element === parent || parent.contains(element))) continue;
    const layers = [];
    for (const element of under) {
      const style = getComputedStyle(element);
      if (element.matches(".shade")) {
        const fill = channels(style.fill);
        fill[3] = Number(style.fillOpacity);
        layers.push(fill);
      } else if (!(element instanceof SVGElement)) {
        layers.push(channels(style.backgroundColor));
      }
    }
    const below = layers.reverse().reduce((sum, layer) => over(layer, sum), page);
    const style = getComputedStyle(parent);
    const ink = channels(parent instanceof SVGElement ? style.fill : style.color);
    const [high, low] = [luminance(ink), luminance(below)].sort((a, b) => b - a);
    found.push([(high + 0.05) / (low + 0.05), node.data.trim().slice(0, 40)]);
  }
  return found;
}
"""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NAMES)
def test_all_text_has_contrast_in_the_light_and_in_the_dark(visit, name, scheme):
    page = visit(name, scheme=scheme)
    height = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": 1400, "height": height})  # or nothing is found further down
    found = page.evaluate(CONTRASTS)
    assert len(found) > 80
    assert [one for one in found if one[0] < 4.5] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, background[4:-1].split(",")))
    assert (brightness > 600) == (scheme == "light")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_lines_of_charts_stand_out_from_the_page(visit, scheme):
    page = visit("plain", scheme=scheme)
    colours = page.evaluate(
        """[...document.querySelectorAll(".line, .rule")].map(
          (line) => getComputedStyle(line).stroke)"""
    )
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert len(set(colours)) >= 3
    assert min(contrast(colour, background) for colour in colours) > 3


def contrast(one, other):
    def luminance(colour):
        values = [int(value) / 255 for value in colour[4:-1].split(",")]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_without_scripts_all_is_there_but_the_controls(visit):
    page = visit("plain", java_script_enabled=False)
    assert page.locator("#heads table.sortable tbody tr:visible").count() == 5
    assert page.locator(".gallery img:visible").count() > 5
    assert page.locator(".filter:visible").count() == 0
    assert page.locator("th button").count() == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_in_print_it_is_light_whole_and_without_controls(visit, scheme):
    page = visit("plain", scheme=scheme)
    page.emulate_media(media="print")
    assert page.locator(".filter:visible").count() == 0
    assert page.locator("nav:visible").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == (
        "visible"
    )
    assert page.pdf(format="A4").startswith(b"%PDF")
