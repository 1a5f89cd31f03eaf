"""The page of `pipeline app`, warm, over HTTP: a picture is sent, its answer has come."""

from __future__ import annotations

import http.client
import io
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import Dataset, Extractor, classify, load_dataset, make_recipe
from pipeline.app.guard import Secrets
from pipeline.app.opening import open_site
from pipeline.app.server import PageServer, address_of, listen
from pipeline.data.digests import read_image

TITLE = "The page: from a picture that is dropped to its answer"
NETWORKS = ("vgg16", "efficientnet-lite0")
IMAGES = 160  # of the demo, that the classifier learns from and similar ones are looked for in
ANSWERS = 30


def measure() -> str:
    """Time each network's answers: class, probabilities and the six most similar images."""
    dataset = load_dataset("demo")
    dataset = dataset.take(np.linspace(0, len(dataset) - 1, IMAGES).astype(int))
    cell, _ = read_image(dataset.paths[0], dataset.digests[0])
    pictures = {"a cell of the demo": cell, "JPEG of 12 megapixels": enlarged(cell)}
    lines = [
        "| network | picture | median | 95 % of answers within | CPU time each |",
        "|---|---|---|---|---|",
    ]
    for network in NETWORKS:
        with tempfile.TemporaryDirectory() as home:
            for name, (taken, cpu) in answers(network, dataset, pictures, Path(home)).items():
                median, most = statistics.median(taken), sorted(taken)[int(0.95 * len(taken))]
                figures = " | ".join(f"{1000 * each:.0f} ms" for each in (median, most, cpu))
                lines.append(f"| {network} | {name} | {figures} |")
                print(lines[-1], file=sys.stderr, flush=True)
    intro = f"`logistic`, and the six most similar of {IMAGES} images; {ANSWERS} answers each."
    return "\n".join([intro, "", *lines])


def enlarged(content: bytes) -> bytes:
    """Make a JPEG of 4000 x 3000 pixels."""
    file = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").resize((4000, 3000)).save(file, "JPEG")
    return file.getvalue()


def answers(
    network: str, dataset: Dataset, pictures: dict[str, bytes], home: Path
) -> dict[str, tuple[list[float], float]]:
    """Give the seconds of each answer, and the CPU seconds of one, for each picture."""
    extractor = Extractor(make_recipe(network), cache=home / "cache")
    run = classify(dataset, "logistic", extractor=extractor, runs=home / "runs")
    site = open_site(dataset, run=run.folder, extractor=extractor)
    listening, started, secrets = listen(port=0), threading.Event(), Secrets()
    host, port = address_of(listening)
    guard = site.guarded(secrets, port)
    server = PageServer(guard, started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    started.wait()
    asking = http.client.HTTPConnection(host, port)
    headers = {"Cookie": f"{guard.cookie}={secrets.session}"}

    def answer(content: bytes) -> float:
        began = time.perf_counter()
        asking.request("POST", f"{secrets.home}predict?similar=6", content, headers)
        told = asking.getresponse()
        text = told.read()
        assert told.status == 200, text
        return time.perf_counter() - began

    found = {}
    try:
        for name, content in pictures.items():
            answer(content)
            cpu = time.process_time()
            taken = [answer(content) for _ in range(ANSWERS)]
            found[name] = taken, (time.process_time() - cpu) / ANSWERS
        return found
    finally:
        asking.close()
        server.should_exit = True
        thread.join()
