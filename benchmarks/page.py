"""The page of `pipeline app`, warm, over HTTP: a picture or a label is sent, its answer has come."""

from __future__ import annotations

import csv
import http.client
import importlib.util
import io
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import Dataset, Extractor, classify, load_dataset, make_recipe, map_images
from pipeline.app.guard import Secrets
from pipeline.app.opening import open_site
from pipeline.app.server import PageServer, address_of, listen
from pipeline.app.site import Site
from pipeline.data.demo import demo_images
from pipeline.data.digests import read_image

TITLE = "The page: from a picture that is dropped, or a label, to its answer"
VGG16, LITE0 = "vgg16", "efficientnet-lite0"
IMAGES = 160  # of the demo, that the classifier learns from and similar ones are looked for in
ANSWERS = 30
SIZES = (10_000, 100_000)
SIDE = 32  # pixels, of the pieces of the demo's photographs
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
LABELLED = 500  # pieces that have a label already
TIMES = "median | 95 % of answers within | CPU time each"


@dataclass(frozen=True)
class Page:
    """A page that is served, as a browser asks it."""

    site: Site
    connection: http.client.HTTPConnection
    secrets: Secrets
    cookie: str

    def ask(self, path: str, content: bytes | None = None) -> bytes:
        """Ask for a path, posting a body if there is one; give the answer."""
        method = "GET" if content is None else "POST"
        headers = {"Cookie": f"{self.cookie}={self.secrets.session}"}
        self.connection.request(method, f"{self.secrets.home}{path}", content, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return text

    def camera_rate(self) -> str:
        """Let Chromium's pretended camera look at the page, and read what that shows."""
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        if browser is None or importlib.util.find_spec("playwright") is None:
            return "not measured: that needs Chromium and playwright"
        from playwright.sync_api import sync_playwright

        address = f"http://{self.connection.host}:{self.connection.port}{self.secrets.opening}"
        with sync_playwright() as playwright:
            started = playwright.chromium.launch(executable_path=browser, args=CAMERA)
            shown = started.new_page()
            shown.goto(address)
            shown.get_by_role("button", name="use the camera").click()
            shown.wait_for_timeout(5000)
            rate = shown.text_content("#live-rate")
            started.close()
        return rate


def measure() -> str:
    """Time answers to pictures with each network, and to labels where there are many images."""
    lines = [
        f"`logistic`, and the six most similar of {IMAGES} images; {ANSWERS} answers each.",
        "",
        f"| network | picture | {TIMES} |",
        "|---|---|---|---|---|",
        *answers_to_pictures(),
        "",
        "A label is answered when it is on disk, the classifier has learned from it and the next pictures are known.",
        f"{LABELLED} images have one before; the images are pieces of the demo's of {SIDE} x {SIDE} pixels, and the network",
        f"is {LITE0}. What it finds out for the page's figures while nobody waits is in the CPU time.",
        "",
        f"| images | a label: {TIMES} | the 20 most like one: median | the map of all |",
        "|---|---|---|---|---|---|",
        *answers_where_there_are_many(),
    ]
    return "\n".join(lines)


def answers_to_pictures() -> Iterator[str]:
    """Time each network's answers: class, probabilities and the six most similar images."""
    dataset = load_dataset("demo")
    dataset = dataset.take(np.linspace(0, len(dataset) - 1, IMAGES).astype(int))
    cell, _ = read_image(dataset.paths[0], dataset.digests[0])
    pictures = {"a cell of the demo": cell, "JPEG of 12 megapixels": enlarged(cell)}
    rates = []
    for network in (VGG16, LITE0):
        with tempfile.TemporaryDirectory() as home, served(trying(network, dataset, home)) as page:
            for name, content in pictures.items():
                taken = timed(partial(page.ask, "predict?similar=6", content))
                yield f"| {network} | {name} | {taken} |"
            rates.append(f"{network}: {page.camera_rate()}")
    yield ""
    yield f"The camera, in Chromium, which draws its 640 x 480 pixels on the same cores. {'; '.join(rates)}."


def answers_where_there_are_many() -> Iterator[str]:
    """Time the answers to labels, the search for similar images and the map."""
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder, served(labelling(size, folder)) as page:
            [*questions] = json.loads(page.ask("label"))["questions"]

            def answer(page: Page = page, questions: list[dict] = questions) -> None:
                shown = questions[0]
                label = shown["name"].partition("-")[0]
                told = {"number": shown["number"], "digest": shown["digest"], "label": label}
                content = json.dumps({**told, "was": shown["label"]}).encode()
                questions[:] = json.loads(page.ask("label/answer", content))["questions"]

            labels, collection = timed(answer), page.site.collection
            rows = collection.table.extraction.rows(places=[0])
            similar = timed(partial(collection.gallery.nearest, rows)).partition(" |")[0]
            began, cpu = time.perf_counter(), time.process_time()
            made = size == SIZES[0] and map_images(collection.table.extraction)
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            laid_out = "" if made is False else f"{seconds:.0f} s, {cpu:.0f} CPU s"
            yield f"| {size:,} | {labels} | {similar} | {laid_out} |"


def trying(network: str, dataset: Dataset, home: str) -> Site:
    """Train a classifier, and open a page to try it."""
    extractor = Extractor(make_recipe(network), cache=Path(home, "cache"))
    run = classify(dataset, "logistic", extractor=extractor, runs=Path(home, "runs"))
    return open_site(dataset, run=run.folder, extractor=extractor)


def labelling(size: int, home: str) -> Site:
    """Cut so many pieces out of the demo's photographs, and open a page to label them."""
    photographs = demo_images()
    each = -(-size // len(photographs))
    side = int(np.ceil(each**0.5))
    rows = []
    Path(home, "pieces").mkdir()
    for number in range(size):
        path, label = photographs[number % len(photographs)]
        row, column = divmod(number // len(photographs), side)
        with Image.open(path) as photograph:
            step = (photograph.width - SIDE) // side
            left, top = column * step, row * step
            file = Path(home, "pieces", f"{label}-{number}.png")
            photograph.crop((left, top, left + SIDE, top + SIDE)).save(file)
        rows.append((file, label))
    known = set(np.random.default_rng(0).permutation(size)[:LABELLED].tolist())
    given = Path(home, "pieces.csv")
    with given.open("w", newline="") as stream:
        table = [(file, label if at in known else "") for at, (file, label) in enumerate(rows)]
        csv.writer(stream).writerows([("path", "label"), *table])
    extractor = Extractor(make_recipe(LITE0, size=SIDE), cache=Path(home, "cache"))
    return open_site(given, label=True, labels=Path(home, "labels.csv"), extractor=extractor)


def enlarged(content: bytes) -> bytes:
    """Make a JPEG of 4000 x 3000 pixels."""
    file = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").resize((4000, 3000)).save(file, "JPEG")
    return file.getvalue()


@contextmanager
def served(site: Site) -> Iterator[Page]:
    """Serve a page while the context lasts."""
    listening, started, secrets = listen(port=0), threading.Event(), Secrets()
    host, port = address_of(listening)
    guard = site.guarded(secrets, port)
    server = PageServer(guard, started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    started.wait()
    connection = http.client.HTTPConnection(host, port)
    try:
        yield Page(site, connection, secrets, guard.cookie)
    finally:
        connection.close()
        server.should_exit = True
        thread.join()


def timed(ask: Callable[[], object]) -> str:
    """Ask again and again, after once that is not counted; give the cells for the times."""
    ask()
    taken, cpu = [], time.process_time()
    for _ in range(ANSWERS):
        began = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - began)
    each = (time.process_time() - cpu) / ANSWERS
    figures = statistics.median(taken), sorted(taken)[int(0.95 * len(taken))], each
    cells = " | ".join(f"{1000 * figure:.0f} ms" for figure in figures)
    print(cells, file=sys.stderr, flush=True)
    return cells
