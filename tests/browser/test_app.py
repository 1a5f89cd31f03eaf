"""The page of `pipeline app` in a real browser, with a stand-in for the network."""

import base64
import contextlib
import csv
import io
import math
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

import pytest
from hostile import samples
from served import Served, paint, picture

from pipeline.app.guard import Secrets
from pipeline.app.opening import open_site
from pipeline.app.server import PageServer, address_of, listen

WIDTHS = (400, 1400)
SCHEMES = ("light", "dark")
ALL = "Try", "Look"


@contextmanager
def running(site, port=0):
    """Serve a site; give the address that opens its page, and what stops it."""
    secrets = Secrets()
    listening = listen(port=port)
    host, port = address_of(listening)
    started = threading.Event()
    server = PageServer(site.guarded(secrets, port), started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})

    def stop():
        server.should_exit = True
        thread.join(20)

    thread.start()
    started.wait(20)
    try:
        yield (lambda: f"http://{host}:{port}{secrets.opening}"), stop
    finally:
        stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return Served(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def address(served):
    with running(served.site) as (opening, _):
        yield opening


@pytest.fixture
def visit(watched, address):
    """Open the page, and hold at the end that nothing was asked of any other server."""
    bases = []

    def open_page(part="try", width=1400, scheme="light", at=address, **settings):
        page = watched.page(width, scheme, **settings)
        url = at()
        page.goto(f"{url}#{part}")
        page.base = url.partition("/?")[0]
        bases.append(page.base)
        return page

    open_page.complaints = watched.complaints
    yield open_page
    assert watched.complaints == []
    ours = ("data:", "blob:", *(f"{base}/" for base in bases))
    assert [url for url in watched.requests if not url.startswith(ours)] == []


def pictures(count=1, name="new.png", colour=(180, 70, 70)):
    return [
        {"name": f"{at}-{name}", "mimeType": "image/png", "buffer": picture(colour, at)}
        for at in range(count)
    ]


def when_loaded(page, selector):
    """Wait until all pictures are there; give their number."""
    for _ in range(100):
        widths = page.locator(selector).evaluate_all("all => all.map((img) => img.naturalWidth)")
        if widths and all(widths):
            return len(widths)
        page.wait_for_timeout(100)
    raise AssertionError(widths)


def transfer(page, kind, target="body", files=1):
    """Drop or paste pictures, as the browser tells a page."""
    data = [base64.b64encode(each["buffer"]).decode() for each in pictures(files)]
    page.evaluate(
        """([kind, target, data]) => {
            const moved = new DataTransfer();
            data.forEach((text, at) => {
                const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
                moved.items.add(new File([bytes], `${at}.png`, { type: "image/png" }));
            });
            const event = kind === "drop"
                ? new DragEvent(kind, { dataTransfer: moved, bubbles: true, cancelable: true })
                : new ClipboardEvent(kind, { clipboardData: moved, bubbles: true });
            document.querySelector(target).dispatchEvent(event);
        }""",
        [kind, target, data],
    )


def test_the_address_opens_the_page_and_its_token_does_not_stay(visit, browser):
    page = visit()
    assert page.url == f"{page.base}/#try"
    page.reload()
    assert page.get_by_role("navigation").get_by_role("link").all_text_contents() == list(ALL)
    stranger = browser.new_context().new_page()
    assert stranger.goto(page.base).status == 403
    assert "terminal" in stranger.text_content("body")
    stranger.context.close()


@pytest.mark.parametrize("way", ["choose", "drop", "drop beside the box", "paste"])
def test_pictures_are_classified_however_they_come(visit, way):
    page = visit("look" if way == "paste" else "try")
    if way == "choose":
        page.set_input_files("#files", pictures(3))
    elif way == "paste":
        transfer(page, "paste", files=3)
    else:
        transfer(page, "drop", "#drop" if way == "drop" else "h1", files=3)
    page.get_by_text("3 of 3 pictures classified").wait_for()
    cards = page.locator("#answers > li")
    assert cards.locator("h3").all_text_contents() == ["red"] * 3
    assert cards.first.locator(".similar img").count() == 6
    assert when_loaded(page, "#answers img") == 21


def drop_files(page, *paths):
    """Drop files and folders of the disk on the page, as a person's mouse does."""
    box = page.locator("#drop").bounding_box()
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        place = {"x": box["x"] + 5, "y": box["y"] + 5}
        session.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})


LOSE_A_FILE = """(name) => {
    const entryOf = DataTransferItem.prototype.webkitGetAsEntry;
    DataTransferItem.prototype.webkitGetAsEntry = function () {
        const entry = entryOf.call(this), kind = Object.getPrototypeOf(entry), read = kind.file;
        if (entry.isFile) kind.file = function (give, refuse) {
            this.name === name ? refuse(new DOMException("gone")) : read.call(this, give, refuse);
        };
        const open = kind.createReader;
        if (entry.isDirectory) kind.createReader = function () {
            const reader = open.call(this), list = reader.readEntries.bind(reader);
            let times = 0;
            if (this.name === "torn") reader.readEntries = (give, refuse) => {
                times++ ? refuse(new DOMException("torn")) : list(give, refuse);
            };
            return reader;
        };
        return entry;
    };
}"""


def test_a_folder_that_is_dropped_is_classified_with_those_below_it(visit, tmp_path):
    folder, alone = tmp_path / "new", tmp_path / "alone.png"
    # Chromium lists 100 entries at a time.
    for below, count in {"": 101, "deep/er": 2, "torn": 2}.items():
        (folder / below).mkdir(parents=True, exist_ok=True)
        for at in range(count):
            (folder / below / f"{at}.png").write_bytes(picture((180, 70, 70), at))
    alone.write_bytes(picture((180, 70, 70), 0))
    (folder / "notes.txt").write_text("notes")
    (folder / "gone.png").write_bytes(picture((180, 70, 70), 0))
    page = visit()
    page.evaluate(LOSE_A_FILE, "gone.png")
    drop_files(page, folder, alone)
    page.get_by_text("106 of 107 pictures classified, 1 not; 2 files left out").wait_for()
    named = page.locator("#answers > li .path:not(.similar *)").all_text_contents()
    assert {"new/100.png", "new/deep/er/1.png", "alone.png"} <= set(named)
    gone = page.locator("#answers > li", has_text="gone.png")
    assert "Not classified" in gone.text_content()
    assert page.locator("#answers h3").count() == 106
    assert [text for text in visit.complaints if "422" not in text] == []
    visit.complaints.clear()  # Chromium tells of every answer that is an error


def test_what_is_no_picture_costs_only_itself_and_a_tiff_is_shown(visit):
    page = visit()
    files = pictures()
    files.append({"name": "bad.png", "mimeType": "image/png", "buffer": b"no picture"})
    files.append({"name": "a.tif", "mimeType": "image/tiff", "buffer": samples()["lzw.tif"]})
    files.append({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"notes"})
    page.set_input_files("#files", files)
    page.get_by_text("2 of 3 pictures classified, 1 not; 1 file left out").wait_for()
    bad = page.locator("#answers > li", has_text="bad.png")
    assert "Not classified: not a known image format" in bad.text_content()
    tiff = page.locator("#answers > li", has_text="a.tif").locator("img").first
    assert tiff.is_visible()
    when_loaded(page, "#answers > li:has-text('a.tif') img")
    assert [text for text in visit.complaints if "422" not in text] == []
    visit.complaints.clear()  # Chromium tells of every answer that is an error


def test_a_map_is_laid_over_the_picture_when_it_is_asked_for(visit):
    page = visit()
    page.set_input_files("#files", pictures())
    button = page.get_by_role("button", name="heat map")
    button.click()
    overlay = page.locator("#answers img.map")
    overlay.wait_for()
    assert button.get_attribute("aria-pressed") == "true"
    assert "orange speaks for red" in page.text_content("#answers")
    button.click()
    assert not overlay.is_visible()


def test_what_the_camera_sees_is_classified_again_and_again(visit):
    from playwright.sync_api import expect

    page = visit()
    button = page.get_by_role("button", name="use the camera")
    button.click()
    page.locator("#live-label").get_by_text("red").or_(
        page.locator("#live-label").get_by_text("blue")
    ).wait_for()
    first = page.text_content("#live-rate")
    assert float(first.removesuffix(" pictures a second")) > 0
    expect(page.locator("#live-rate")).not_to_have_text(first)
    page.get_by_role("button", name="keep this picture").click()
    page.get_by_text("1 of 1 picture classified").wait_for()
    button.click()
    assert not page.locator("#live").is_visible()
    assert page.evaluate("video.srcObject.getTracks().every((t) => t.readyState === 'ended')")


def spots(page):
    """Where the images lie on the map, in pixels of the window."""
    box = page.locator("#over").bounding_box()
    points = page.evaluate("fetch('points').then((answer) => answer.json())")
    return [
        (
            box["x"] + 12 + (box["width"] - 24) * x,
            box["y"] + 12 + (box["height"] - 24) * y,
        )
        for x, y in points
    ]


def look(visit, **settings):
    page = visit("look", **settings)
    page.get_by_text("40 images", exact=True).wait_for()
    return page


def test_pointing_at_an_image_shows_it_and_similar_ones(visit, served):
    page = look(visit)
    x, y = spots(page)[3]
    page.mouse.move(x, y)
    about = page.locator("#about")
    about.locator("img").wait_for()
    name = about.locator(".path").text_content()
    assert name in served.site.collection.columns()["names"]
    assert about.locator("dt").all_text_contents() == ["class", "split"]
    about.get_by_role("button", name="similar images").click()
    about.locator(".similar li").first.wait_for()
    assert about.locator(".similar li").count() == 20
    about.locator(".similar button").first.click()
    assert about.locator(".path").text_content() != name


def test_what_is_drawn_around_is_selected_and_saved(visit):
    page = look(visit)
    places = spots(page)
    left, right = min(x for x, _ in places) - 8, max(x for x, _ in places) + 8
    top, bottom = min(y for _, y in places) - 8, max(y for _, y in places) + 8
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in [(right, top), (right, bottom), (left, bottom), (left, top + 20)]:
        page.mouse.move(x, y, steps=3)
    page.mouse.up()
    page.get_by_text("40 images selected").wait_for()
    assert page.locator("#selection button").count() == 40
    with page.expect_download() as download:
        page.get_by_role("button", name="save as CSV").click()
    page.get_by_text("saved", exact=True).wait_for()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert len({row["path"] for row in rows}) == 40
    page.mouse.click(*places[0])
    page.get_by_text("39 images selected").wait_for()
    page.get_by_role("button", name="clear").click()
    page.get_by_text("no image is selected").wait_for()


def test_a_colour_of_the_legend_selects_its_images(visit):
    page = look(visit)
    page.get_by_role("button", name="blue (20)").click()
    page.get_by_text("20 images selected").wait_for()
    page.select_option("#colour", "predicted class")
    page.get_by_text("working out").wait_for(state="detached")
    assert page.locator("#legend button").all_text_contents() == ["blue (20)", "red (20)"]
    page.select_option("#colour", "suspicious label")
    page.get_by_role("button", name="label not checked (40)").wait_for()


def test_a_colour_that_arrives_late_is_not_drawn_under_the_name_of_another(visit):
    page = look(visit)
    held = []
    page.route("**/column?kind=predicted%20class", lambda route: held.append(route))  # noqa: PLW0108
    page.select_option("#colour", "predicted class")
    page.get_by_text("working out").wait_for()
    page.select_option("#colour", "split")
    drawn = page.locator("#legend button").first.text_content()
    assert drawn.startswith("test")
    with page.expect_response("**/column?*"):
        held[0].continue_()
    page.wait_for_timeout(300)
    assert page.locator("#legend button").first.text_content() == drawn
    assert page.input_value("#colour") == "split"
    page.get_by_text("40 images", exact=True).wait_for()


def test_a_colour_that_fails_late_leaves_what_was_chosen_since(visit):
    page = look(visit)
    held = []
    page.route("**/column?kind=copy", lambda route: held.append(route))  # noqa: PLW0108
    page.select_option("#colour", "copy")
    page.get_by_text("working out").wait_for()
    page.select_option("#colour", "split")
    with page.expect_response("**/column?*"):
        held[0].fulfill(status=422, json={"error": "full"})
    page.wait_for_timeout(300)
    assert page.input_value("#colour") == "split"
    page.wait_for_timeout(100)
    visit.complaints.clear()


def test_the_map_needs_no_mouse(visit):
    page = look(visit)
    page.locator("#over").focus()
    names = set()
    for key in ("ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp") * 3:
        page.keyboard.press(key)
        names.add(page.locator("#about .path").text_content())
    assert len(names) > 1
    page.keyboard.press("Space")
    page.get_by_text("1 image selected").wait_for()
    page.keyboard.press("Enter")
    page.locator("#about .similar li").first.wait_for()
    page.keyboard.press("+")
    page.keyboard.press("0")
    page.keyboard.press("Space")
    page.get_by_text("no image is selected").wait_for()


def test_the_other_button_of_the_mouse_neither_selects_nor_draws(visit):
    page = look(visit)
    x, y = spots(page)[3]
    page.mouse.click(x, y, button="right")
    page.mouse.move(x + 40, y + 40)
    assert page.get_by_text("no image is selected").is_visible()
    page.mouse.click(x, y)
    page.get_by_text("1 image selected").wait_for()


def test_keys_zoom_at_the_image_that_is_pointed_at(visit):
    page = look(visit)
    box = page.locator("#over").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    x, y = max(spots(page), key=lambda spot: math.dist(spot, middle))
    page.mouse.move(x, y)
    name = page.locator("#about .path").text_content()
    page.locator("#over").focus()
    for _ in range(6):
        page.keyboard.press("+")
    page.mouse.move(*middle)  # points at others; a click at the first still finds it there
    page.mouse.click(x, y)
    page.get_by_text("1 image selected").wait_for()
    assert page.locator("#about .path").text_content() == name


def test_the_grid_shows_every_image(visit):
    page = look(visit)
    page.get_by_role("button", name="grid", exact=True).click()
    images = page.locator("#grid img")
    assert images.count() == 40
    images.last.scroll_into_view_if_needed()
    when_loaded(page, "#grid li:last-child img")
    page.locator("#grid button").first.click()
    page.get_by_text("1 image selected").wait_for()
    assert page.locator("#grid [aria-pressed='true']").count() == 1


def test_two_presses_before_the_camera_is_allowed_open_it_once(visit):
    page = visit("try")
    page.evaluate(
        """() => {
            window.streams = [];
            const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = async (wanted) => {
                await new Promise((resolve) => setTimeout(resolve, 300));
                streams.push(await open(wanted));
                return streams.at(-1);
            };
        }"""
    )
    camera = page.get_by_role("button", name="use the camera")
    camera.click()
    camera.click()
    page.wait_for_timeout(1500)
    if camera.get_attribute("aria-pressed") == "true":
        camera.click()
    on = "streams.flatMap((s) => s.getTracks()).filter((t) => t.readyState === 'live').length"
    assert page.evaluate(on) == 0
    camera.click()
    page.locator("#live-label").get_by_text("e").wait_for()
    assert page.evaluate(on) == 1
    camera.click()
    assert page.evaluate(on) == 0


def test_the_grid_is_there_while_the_map_is_made(visit):
    page = visit("try")
    held = []
    page.route("**/points", lambda route: held.append(route))  # noqa: PLW0108
    page.get_by_role("link", name="Look").click()
    page.locator("#grid img").first.wait_for()
    page.get_by_text("laying the images out").wait_for()
    held[0].continue_()
    page.get_by_text("40 images", exact=True).wait_for()
    assert page.locator("#over").is_visible()
    assert not page.locator("#grid").is_visible()


def test_a_map_of_ten_thousand_images_stays_smooth(visit, served):
    images = served.site.collection.columns()
    count = 10_000
    images["names"] = [f"{at}.png" for at in range(count)]
    points = [[(at * 0.618) % 1, (at * 0.755) % 1] for at in range(count)]
    for column in images["colours"].values():
        column["of"] = (column["of"] * count)[:count]
    page = visit("try")
    page.route("**/images", lambda route: route.fulfill(json=images))
    page.route("**/points", lambda route: route.fulfill(json=points))
    page.get_by_role("link", name="Look").click()
    page.get_by_text("10,000 images").wait_for()
    box = page.locator("#over").bounding_box()
    page.evaluate(
        "window.frames_seen = []; (function next(now) "
        "{ frames_seen.push(now); requestAnimationFrame(next); })(performance.now())"
    )
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    for turn in range(40):
        page.mouse.move(box["x"] + 50 + 10 * turn, box["y"] + 60 + 5 * (turn % 7))
    page.mouse.up()
    for _ in range(10):
        page.mouse.wheel(0, -100)
    times = page.evaluate("frames_seen.slice(1).map((time, at) => time - frames_seen[at])")
    assert sorted(times)[len(times) // 2] < 50, times
    visit.complaints.clear()  # pictures that this map makes up are not there


def test_a_page_whose_program_was_stopped_says_so(visit, served):
    with running(served.site) as (opening, stop):
        page = visit(at=opening)
        assert not page.get_by_role("alert").is_visible()
        stop()
        page.get_by_text("The program behind this page has stopped").wait_for(timeout=8000)
    assert all("ERR_CONNECTION_REFUSED" in text for text in visit.complaints)
    visit.complaints.clear()


NAMELESS = """
[...document.querySelectorAll(
  "a, button, input, select, img, canvas[tabindex], video, section, ul")]
  .filter((e) => e.checkVisibility())
  .filter((e) => !(e.ariaLabel || e.getAttribute("aria-labelledby") || e.title || e.alt
    || (e.labels && e.labels.length) || (e.tagName !== "UL" && e.textContent.trim())
    || (e.tagName === "IMG" && e.alt === "") || (e.tagName === "UL" && e.closest("nav"))
    || (e.tagName === "UL" && e.className === "shares")))
  .map((e) => e.outerHTML.slice(0, 100))
"""


@pytest.mark.parametrize("part", ["try", "look"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_is_cut_off_and_everything_has_a_name(visit, part, width, scheme):
    page = visit(part, width=width, scheme=scheme)
    page.set_input_files("#files", pictures(2))
    page.get_by_text("2 of 2").wait_for(state="attached")
    if part == "look":
        page.get_by_text("40 images", exact=True).wait_for()
        page.mouse.move(*spots(page)[0])
        page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(NAMELESS) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_every_control_is_reached_by_the_tab_key(visit):
    page = visit("look")
    page.locator("#legend button").first.wait_for()
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
    wanted = ["colour", "as-map", "as-grid", "larger", "smaller", "whole"]
    assert reached[: len(wanted)] == wanted
    assert {"blue (20)", "red (20)", "over", "Try", "Look"} <= set(reached)


# --- Labelling ------------------------------------------------------------------------------


@pytest.fixture
def to_label(tmp_path, extractor):
    """Images to be labelled, whose names tell their classes."""
    colours = {"red": (180, 70, 70), "blue": (70, 70, 180)}
    for number in range(30):
        name = ("red", "blue")[number % 2]
        paint(tmp_path / "loose" / f"{number:02}-{name}.png", colours[name], number)
    labels = tmp_path / "labels.csv"
    return open_site(tmp_path / "loose", label=True, labels=labels, extractor=extractor)


@pytest.fixture
def labelled(to_label):
    """The page that asks for their labels."""
    with running(to_label) as (opening, _):
        yield opening, to_label.labelling.file


def kept(labels):
    with labels.open() as file:
        return {row["path"].rpartition("/")[2]: row["label"] for row in csv.DictReader(file)}


def start_labelling(visit, opening):
    page = visit("label", at=opening)
    page.locator("#question-name").get_by_text(".png").wait_for()
    when_loaded(page, "#question")
    return page


def asked_about(page):
    return page.locator("#question-name").text_content()


def number_of(site, name):
    return [path.name for path in site.labelling.dataset.paths].index(name)


def test_keys_label_and_take_back(visit, labelled):
    opening, labels = labelled
    page = start_labelling(visit, opening)
    for name in ("red", "blue"):
        page.get_by_label("New class").fill(name)
        page.keyboard.press("Enter")
        page.get_by_role("group", name="Classes").get_by_text(name).wait_for()
    assert page.locator("#classes button").all_text_contents() == ["1 red 1", "2 blue 1"]
    page.evaluate(
        """() => {
            window.searched = [];
            addEventListener("keydown", (event) => {
                if (!event.defaultPrevented) searched.push(event.key);
            });
        }"""
    )
    answers = {}
    for _ in range(12):
        name = asked_about(page)
        answers[name] = name.partition("-")[2].removesuffix(".png")
        page.keyboard.press("1" if answers[name] == "red" else "2")
        assert asked_about(page) != name  # at once
        assert page.locator("#question").evaluate("image => image.complete")
        page.wait_for_timeout(150)
    page.get_by_text("14 images labelled").wait_for()
    assert {name: kept(labels)[name] for name in answers} == answers
    assert "Accuracy in cross-validation: " in page.text_content("#accuracy")
    page.keyboard.press("z")
    page.get_by_text("13 images labelled").wait_for()
    assert asked_about(page) == name
    assert not kept(labels).get(name)
    page.keyboard.press("9")  # there is no such class
    page.keyboard.press("x")
    assert page.evaluate("searched") == ["x"]  # what Firefox may search the page for


def test_two_windows_at_once_lose_nothing_and_overwrite_nothing(visit, labelled):
    opening, labels = labelled
    first, second = (start_labelling(visit, opening) for _ in range(2))
    for name in ("red", "blue"):
        first.get_by_label("New class").fill(name)
        first.keyboard.press("Enter")
        second.get_by_role("button", name=name).wait_for()
    confirmed = kept(labels)
    for turn in range(12):
        page, key, label = ((first, "1", "red"), (second, "2", "blue"))[turn % 2]
        name = asked_about(page)
        page.keyboard.press(key)
        page.wait_for_timeout(150)
        confirmed.setdefault(name, label)
        assert kept(labels) == confirmed  # the first answer holds
    for page in (first, second):
        page.get_by_text(f"{len(confirmed)} images labelled").wait_for()
    visit.complaints.clear()  # Chromium tells of every answer that is refused


def test_colours_are_of_the_labels_by_now_while_images_are_labelled(visit, labelled, to_label):
    opening, _ = labelled
    page = visit("look", at=opening)
    legend = page.locator("#legend")
    legend.get_by_text("no label (30)").wait_for()
    page.select_option("#colour", "split")
    to_label.labelling.answer(0, "red")
    page.select_option("#colour", "class")
    legend.get_by_text("red (1)").wait_for()


def test_what_another_window_labels_is_said_and_not_labelled_again(visit, labelled):
    opening, labels = labelled
    first, second = (start_labelling(visit, opening) for _ in range(2))
    name = asked_about(first)
    assert asked_about(second) == name
    first.get_by_label("New class").fill("red")
    first.keyboard.press("Enter")
    second.get_by_text("Labelled red in another window meanwhile").wait_for()
    assert asked_about(second) == name  # nothing changes under a finger that comes down
    second.get_by_label("New class").fill("blue")
    second.keyboard.press("Enter")
    assert asked_about(second) != name
    second.keyboard.press("z")  # the answer is not this window's
    second.wait_for_timeout(300)
    assert kept(labels) == {name: "red"}
    assert second.locator("#undo").is_disabled()


def test_an_answer_that_another_window_was_faster_with_is_refused(visit, labelled, to_label):
    page = start_labelling(visit, labelled[0])
    name = asked_about(page)
    to_label.labelling.answer(number_of(to_label, name), "red")
    page.get_by_label("New class").fill("blue")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text(
        f"Not kept: {name} was labelled red in another window meanwhile."
    ).wait_for()
    assert asked_about(page) != name
    assert kept(labelled[1]) == {name: "red"}
    visit.complaints.clear()


@pytest.mark.parametrize("cause", ["others", "review", "skipped elsewhere"])
def test_the_picture_that_is_looked_at_stays(visit, labelled, to_label, monkeypatch, cause):
    page, labelling = start_labelling(visit, labelled[0]), to_label.labelling
    labelling.answer(0, "red")
    page.get_by_role("button", name="red").wait_for()
    name = asked_about(page)
    if cause == "review":
        monkeypatch.setattr(labelling, "_suspects", {0: "blue"})
    elif cause == "skipped elsewhere":
        labelling.skip(number_of(to_label, name))
    else:
        last = [number for number in range(30) if number != number_of(to_label, name)][-6:]
        monkeypatch.setattr(
            labelling, "next", lambda count: [labelling._question(n, "unsure") for n in last]
        )
    page.wait_for_timeout(2500)
    assert asked_about(page) == name
    page.keyboard.press("1")
    page.get_by_text("2 images labelled").wait_for()
    assert kept(labelled[1])[name] == "red"


def test_a_picture_that_is_not_there_yet_is_not_labelled(visit, labelled, to_label):
    to_label.labelling.answer(0, "red")
    held = []
    page = visit("label", at=labelled[0])
    page.route("**/picture*", lambda route: held.append(route))  # noqa: PLW0108
    page.reload()
    page.get_by_role("button", name="red").wait_for()
    page.keyboard.press("1")
    page.get_by_role("button", name="red").click()
    page.get_by_label("New class").fill("blue")
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert page.get_by_label("New class").input_value() == "blue"
    assert to_label.labelling.state().labelled == 1
    for route in held:
        route.continue_()
    page.unroute("**/picture*")
    when_loaded(page, "#question")
    page.keyboard.press("Enter")
    page.get_by_text("2 images labelled").wait_for()


def test_a_picture_that_cannot_be_shown_is_not_labelled(visit, labelled, to_label):
    to_label.labelling.answer(0, "red")
    name = to_label.labelling.next()[0].path.name
    (to_label.labelling.dataset.paths[number_of(to_label, name)]).write_bytes(b"gone")
    page = visit("label", at=labelled[0])
    page.get_by_text("This picture cannot be shown, so it cannot be labelled").wait_for()
    assert asked_about(page) == name
    page.keyboard.press("1")
    page.keyboard.press("s")
    when_loaded(page, "#question")
    assert asked_about(page) != name
    page.keyboard.press("1")
    page.get_by_text("2 images labelled").wait_for()
    assert name not in kept(labelled[1])
    visit.complaints.clear()


def test_what_is_taken_back_in_a_review_is_shown_as_before(visit, labelled, to_label, monkeypatch):
    for number, name in ((0, "blue"), (1, "red")):
        to_label.labelling.answer(number, name)
    monkeypatch.setattr(to_label.labelling, "_suspects", {0: "red", 1: "blue"})
    page = start_labelling(visit, labelled[0])
    name, why = asked_about(page), page.text_content("#why")
    assert why == "its label may be wrong; now blue"
    page.keyboard.press("2")
    page.get_by_text("3 answers kept").wait_for()
    assert kept(labelled[1])[name] == "red"
    page.keyboard.press("z")
    page.get_by_text("2 answers kept").wait_for()
    assert (asked_about(page), page.text_content("#why")) == (name, why)
    page.wait_for_timeout(2500)
    assert asked_about(page) == name
    assert when_loaded(page, "#question") == 1
    page.keyboard.press("2")
    page.get_by_text("3 answers kept").wait_for()
    assert kept(labelled[1])[name] == "red"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_labelling_fits_and_everything_in_it_has_a_name(visit, labelled, width, scheme):
    opening, _ = labelled
    page = visit("label", width=width, scheme=scheme, at=opening)
    page.locator("#question-name").get_by_text(".png").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(NAMELESS) == []


def test_an_answer_that_cannot_be_kept_comes_back_after_the_picture_that_is_shown(visit, labelled):
    page = start_labelling(visit, labelled[0])
    name = asked_about(page)
    refused = {"status": 422, "json": {"error": "full"}}
    page.route("**/label/answer", lambda route: route.fulfill(**refused))
    page.get_by_label("New class").fill("red")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("Not kept: full").wait_for()
    shown = asked_about(page)
    assert shown != name
    page.unroute("**/label/answer")
    page.wait_for_timeout(2500)
    assert page.locator("#label-error").text_content() == "Not kept: full"
    assert asked_about(page) == shown
    page.get_by_label("New class").fill("red")
    page.keyboard.press("Enter")
    page.get_by_text("1 image labelled").wait_for()
    assert page.locator("#label-error").text_content() == ""
    assert asked_about(page) == name
    page.keyboard.press("1")
    page.get_by_text("2 images labelled").wait_for()
    assert kept(labelled[1]) == {name: "red", shown: "red"}
    visit.complaints.clear()


def test_what_listens_there_later_gets_neither_pictures_nor_answers_of_an_earlier_page(
    visit, tmp_path, extractor
):
    """As after Ctrl-C and a start with other images, at the same port."""

    def site(name, side):
        for number in range(4):
            paint(tmp_path / name / f"{number}.png", (180, 70, 70), number, side=side)
        labels = tmp_path / f"{name}.csv"
        return labels, open_site(tmp_path / name, label=True, labels=labels, extractor=extractor)

    (_, first), (labels, second) = site("first", 20), site("second", 30)
    with running(first) as (opening, stop):
        old = start_labelling(visit, opening)
        when_loaded(old, "#question")
        stop()
    with running(second, port=urlsplit(old.url).port) as (opening, _):
        new = old.context.new_page()
        new.goto(opening())
        when_loaded(new, "#question")
        assert new.locator("#question").evaluate("image => image.naturalWidth") == 30
        old.get_by_label("New class").fill("red")
        old.keyboard.press("Enter")
        old.get_by_role("alert").get_by_text("Not kept: This address").wait_for()
        old.get_by_text("The program behind this page has stopped").wait_for()
        assert not labels.exists() or kept(labels) == {}
    visit.complaints.clear()


def test_no_other_server_of_this_computer_gets_the_cookie(visit):
    got = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            got.append(self.headers["Cookie"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    page = visit()
    page.get_by_text("Drop pictures").wait_for()
    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        stranger = page.context.new_page()
        with contextlib.suppress(Exception):  # an answer without a page
            stranger.goto(f"http://127.0.0.1:{other.server_port}/")
        other.shutdown()
        thread.join()
    assert page.context.cookies()
    assert got
    assert not any(got)
