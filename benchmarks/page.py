"""The page of `pipeline app`, warm, over HTTP: a picture or a label is sent, its answer has come."""

from __future__ import annotations

import csv
import http.client
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import Dataset, Extractor, classify, load_dataset, make_recipe
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
LABELLED = 500  # pieces that have a label already
TIMES = "median | 95 % of answers within | CPU time each |"

Ask = Callable[..., bytes]
"""Asks the page for a path, posting a body if there is one; gives the answer."""


def measure() -> str:
    """Time answers to pictures with each network, and to labels where there are many images."""
    lines = [
        f"`logistic`, and the six most similar of {IMAGES} images; {ANSWERS} answers each.",
        "",
        f"| network | picture | {TIMES}",
        "|---|---|---|---|---|",
        *answers_to_pictures(),
        "",
        "A label is answered when it is on disk, the classifier has learned from it and the next pictures are known.",
        f"{LABELLED} images have one before; the images are pieces of the demo's of {SIDE} x {SIDE} pixels, and the network",
        f"is {LITE0}. What it finds out for the page's figures while nobody waits is in the CPU time.",
        "",
        f"| images | {TIMES}",
        "|---|---|---|---|",
        *answers_to_labels(),
    ]
    return "\n".join(lines)


def answers_to_pictures() -> Iterator[str]:
    """Time each network's answers: class, probabilities and the six most similar images."""
    dataset = load_dataset("demo")
    dataset = dataset.take(np.linspace(0, len(dataset) - 1, IMAGES).astype(int))
    cell, _ = read_image(dataset.paths[0], dataset.digests[0])
    pictures = {"a cell of the demo": cell, "JPEG of 12 megapixels": enlarged(cell)}
    for network in (VGG16, LITE0):
        with tempfile.TemporaryDirectory() as home, served(trying(network, dataset, home)) as ask:
            for name, content in pictures.items():
                taken = timed(lambda ask=ask, content=content: ask("predict?similar=6", content))
                yield f"| {network} | {name} | {taken}"


def answers_to_labels() -> Iterator[str]:
    """Time the answers to labels, given one after the other to the images that are asked about."""
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder, served(labelling(size, folder)) as ask:
            [*questions] = json.loads(ask("label"))["questions"]

            def answer(ask: Ask = ask, questions: list[dict] = questions) -> None:
                shown = questions[0]
                label = shown["name"].partition("-")[0]
                told = {"number": shown["number"], "digest": shown["digest"], "label": label}
                content = json.dumps({**told, "was": shown["label"]}).encode()
                questions[:] = json.loads(ask("label/answer", content))["questions"]

            yield f"| {size:,} | {timed(answer)}"


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
def served(site: Site) -> Iterator[Ask]:
    """Serve a page while the context lasts, and give what asks it."""
    listening, started, secrets = listen(port=0), threading.Event(), Secrets()
    host, port = address_of(listening)
    guard = site.guarded(secrets, port)
    server = PageServer(guard, started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    started.wait()
    connection = http.client.HTTPConnection(host, port)
    headers = {"Cookie": f"{guard.cookie}={secrets.session}"}

    def ask(path: str, content: bytes | None = None) -> bytes:
        method = "GET" if content is None else "POST"
        connection.request(method, f"{secrets.home}{path}", content, headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return text

    try:
        yield ask
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
    return f"{cells} |"
