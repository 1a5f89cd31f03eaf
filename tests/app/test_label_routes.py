"""Labelling through the page's server: answers are kept, whoever gives them."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from served import PORT, Served, paint

from pipeline.app.guard import Secrets
from pipeline.app.labelling import Labelling
from pipeline.app.labels import LabelsFile
from pipeline.app.opening import open_site
from pipeline.data.entries import Entry
from pipeline.errors import PipelineError
from pipeline.features.extractor import extract
from pipeline.runs import images


class Asked(Served):
    """Images without labels, and a page that asks for them."""

    def __init__(self, home, extractor, count=16):
        self.home = home
        self.photos = home / "loose"
        colours = {"red": (180, 70, 70), "blue": (70, 70, 180)}
        for number in range(count):
            name = ("red", "blue")[number % 2]
            paint(self.photos / f"{number:02}-{name}.png", colours[name], number)
        self.labels = home / "labels.csv"
        self.site = open_site(self.photos, label=True, labels=self.labels, extractor=extractor)
        self.secrets = Secrets()
        self.app = self.site.guarded(self.secrets, PORT)

    def send(self, what, **body):
        """Send as the page does: with the image's digest, and the label that was seen."""
        if "number" in body:
            digest = self.site.labelling.dataset.digests[body["number"]].hex()[:16]
            body = {"digest": digest, **({"was": ""} if what == "answer" else {}), **body}
        return self.post(f"/label/{what}", json.dumps(body).encode())

    def kept(self):
        if not self.labels.exists():
            return {}
        with self.labels.open() as file:
            return {row["path"].rpartition("/")[2]: row["label"] for row in csv.DictReader(file)}


@pytest.fixture
def asked(tmp_path, extractor):
    return Asked(tmp_path, extractor)


def test_answers_are_in_the_file_when_they_are_confirmed(asked):
    told = asked.ask("/label").json
    assert told["labelled"] == 0
    assert told["classes"] == []
    for number in range(16):
        question = told["questions"][0]
        label = question["name"].partition("-")[2].removesuffix(".png")
        told = asked.send("answer", number=question["number"], label=label).json
        assert asked.kept()[question["name"]] == label
        assert told["labelled"] == number + 1
    assert told["questions"] == []
    assert told["counts"] == {"blue": 8, "red": 8}
    value, low, high = told["accuracy"]
    assert low <= value <= high
    assert told["history"][-1] == [16, value, low, high]
    assert len(told["questions"]) < 7


def test_labels_so_far_can_be_looked_at(asked):
    asked.send("answer", number=3, label="red")
    assert "label so far" in asked.ask("/images").json["more"]
    column = asked.ask("/column?kind=label%20so%20far").json
    assert column["names"] == ["no label", "red"]
    assert [at for at, value in enumerate(column["of"]) if value] == [3]
    assert asked.ask("/images/3/thumbnail").status == 200


def test_what_is_looked_at_has_the_labels_of_now(asked):
    asked.send("answer", number=3, label="red")
    column = asked.ask("/images").json["colours"]["class"]
    assert column["names"] == ["no label", "red"]
    assert [at for at, value in enumerate(column["of"]) if value] == [3]
    similar = asked.ask("/images/0/similar?count=15").json
    assert {near["number"]: near["label"] for near in similar} == {
        number: "red" if number == 3 else "no label" for number in range(1, 16)
    }


def test_the_page_has_no_other_numbers_than_the_labels(asked, extractor, monkeypatch):
    def without_the_first(dataset, **options):
        return extract(dataset.take(np.arange(1, len(dataset))), **options)

    monkeypatch.setattr(images, "extract", without_the_first)
    with pytest.raises(PipelineError, match="changed while they were read"):
        open_site(asked.photos, label=True, labels=asked.labels, extractor=extractor)


def test_an_answer_is_taken_back(asked):
    first = asked.ask("/label").json["questions"][0]
    asked.send("answer", number=first["number"], label="red")
    told = asked.send("undo", number=first["number"], label="red").json
    assert told["again"] == {**first, "why": "undone"}
    assert told["labelled"] == 0
    assert "red" not in asked.kept().values()
    again = asked.send("undo", number=first["number"], label="red")
    assert (again.status, again.json["error"]) == (409, f"{first['name']} has no label now.")


def test_a_picture_of_other_images_is_not_labelled(asked):
    question = asked.ask("/label").json["questions"][0]
    assert re.fullmatch("[0-9a-f]{16}", question["digest"])
    other = asked.site.labelling.dataset.digests[question["number"] - 1].hex()[:16]
    for what, more in (("answer", {"label": "red"}), ("skip", {}), ("undo", {"label": "red"})):
        refused = asked.send(what, number=question["number"], **more, digest=other)
        assert refused.status == 409
        assert "other images" in refused.json["error"]
    assert asked.kept() == {}
    assert asked.ask("/label").json["questions"][0] == question


def test_an_answer_to_an_image_that_was_labelled_meanwhile_is_refused(asked):
    question = asked.ask("/label").json["questions"][0]  # both windows see it
    number, name = question["number"], question["name"]
    assert asked.send("answer", number=number, label="red").status == 200
    refused = asked.send("answer", number=number, label="blue")
    assert refused.status == 409
    assert refused.json["error"] == f"{name} was labelled red in another window meanwhile."
    assert asked.kept()[name] == "red"
    assert asked.ask("/label").json["answered"] == 1
    assert asked.send("answer", number=number, label="red").status == 200  # both agree
    assert asked.send("answer", number=number, label="blue", was="red").status == 200


def test_an_answer_to_an_image_that_another_program_labelled_meanwhile_is_refused(asked, extractor):
    other = Labelling(asked.photos, labels=asked.labels, extractor=extractor)
    other.answer(3, "green")
    assert asked.send("answer", number=3, label="blue").status == 409
    assert set(asked.kept().values()) == {"green"}
    told = asked.ask("/label").json
    assert (told["labelled"], told["answered"]) == (1, 0)


def test_nobody_takes_back_the_answer_of_another(asked, extractor):
    asked.send("answer", number=3, label="red")  # one window
    asked.send("answer", number=5, label="red")  # another
    told = asked.send("undo", number=3, label="red").json
    assert told["again"]["number"] == 3
    assert set(asked.kept().values()) == {"red"}
    other = Labelling(asked.photos, labels=asked.labels, extractor=extractor)
    other.answer(5, "green")
    refused = asked.send("undo", number=5, label="red")
    assert refused.status == 409
    assert "was labelled green in another window meanwhile" in refused.json["error"]
    assert set(asked.kept().values()) == {"green"}
    assert asked.send("undo", number=4, label="red").status == 409
    assert asked.send("undo", number=4).status == 422


def test_the_page_is_told_what_became_of_the_picture_that_it_shows(asked):
    question = asked.ask("/label").json["questions"][0]
    shown = f"/label?shown={question['number']}"
    assert asked.ask(shown).json["shown"] == {"digest": question["digest"], "label": ""}
    asked.send("answer", number=question["number"], label="red")
    assert asked.ask(shown).json["shown"] == {"digest": question["digest"], "label": "red"}
    for wrong in ("99", "-1", "x", "٣"):
        assert "shown" not in asked.ask(f"/label?shown={quote(wrong)}").json


def test_a_skipped_image_is_asked_about_at_the_end(asked):
    first = asked.ask("/label").json["questions"][0]["number"]
    told = asked.send("skip", number=first).json
    assert told["questions"][0]["number"] != first
    for _ in range(15):
        number = told["questions"][0]["number"]
        assert number != first
        told = asked.send("answer", number=number, label="red").json
    assert [(q["number"], q["why"]) for q in told["questions"]] == [(first, "skipped")]


def test_what_others_answer_is_seen(asked, extractor):
    other = Labelling(asked.photos, labels=asked.labels, extractor=extractor)
    other.answer(3, "green")
    told = asked.ask("/label").json
    assert told["classes"] == ["green"]
    assert told["labelled"] == 1
    assert 3 not in [question["number"] for question in told["questions"]]


def test_suspicious_labels_are_asked_about_and_left_again(asked, monkeypatch):
    asked.send("answer", number=5, label="blue")
    monkeypatch.setattr(asked.site.labelling, "_suspects", {5: "red"})
    [question] = asked.ask("/label").json["questions"]
    assert (question["number"], question["suggested"], question["why"]) == (5, "red", "suspicious")
    asked.send("answer", number=5, label="red", was="blue")
    told = asked.send("undo", number=5, label="red").json
    assert told["again"] == question == told["questions"][0]
    told = asked.send("review", end=True).json
    assert told["questions"][0]["why"] == "typical"
    assert asked.send("review").json["suspicious"] == 0


@pytest.mark.parametrize(
    ("what", "body"),
    [
        *(("answer", text) for text in ("", "[]", "x", "{NUMBER 0}", '{"label": "red"}')),
        ("answer", '{NUMBER "0", "label": "red", "was": ""}'),
        ("answer", '{"number": 0, "label": "red", "was": ""}'),
        ("answer", '{NUMBER 0, "label": "red"}'),
        ("answer", '{NUMBER 0, "label": 1, "was": ""}'),
        ("answer", '{NUMBER 0, "label": "red", "was": 1}'),
        ("answer", '{NUMBER 99, "label": "red", "was": ""}'),
        ("answer", '{NUMBER -1, "label": "red", "was": ""}'),
        ("answer", '{NUMBER 0, "label": " ", "was": ""}'),
        ("answer", '{NUMBER 0, "label": "a\\nb", "was": ""}'),
        *(("skip", text) for text in ("{}", "{NUMBER 16}", "{NUMBER true}")),
        ("other", "{}"),
    ],
)
def test_what_cannot_be_an_answer_is_refused_and_changes_nothing(asked, what, body):
    digest = asked.site.labelling.dataset.digests[0].hex()[:16]
    body = body.replace("NUMBER", f'"digest": "{digest}", "number":')
    answer = asked.post(f"/label/{what}", body.encode())
    assert answer.status in (400, 422) or (what, answer.status) == ("other", 404)
    assert answer.status == 404 or answer.json["error"]
    assert asked.kept() == {}
    assert asked.ask("/label").json["labelled"] == 0


def test_without_labelling_there_are_no_such_pages(tmp_path):
    served = Served(tmp_path)
    assert served.ask("/label").status == 404
    assert served.post("/label/answer", b"{}").status == 404
    with pytest.raises(PipelineError, match="no images to label"):
        open_site(run=served.run.folder, label=True)


ANSWERING = """
import itertools, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from conftest import CountingBackbone
from test_label_routes import Asked
from pipeline.backbones.registry import make_recipe
from pipeline.features.extractor import Extractor

home, recipe = Path(sys.argv[1]), make_recipe(size=64, precision="float32")
asked = Asked(home, Extractor(recipe, cache=home / "cache", forward=CountingBackbone(recipe)))
names = [path.name for path in asked.site.labelling.dataset.paths]
for turn in itertools.count():
    number, label = turn % len(names), ("red", "blue", "green")[turn % 3]
    was = asked.ask(f"/label?shown={number}").json["shown"]["label"]
    print(names[number], label, end=" ", flush=True)
    assert asked.send("answer", number=number, label=label, was=was).status == 200
    print("confirmed", flush=True)
"""


def test_killed_at_a_random_moment_the_page_loses_no_answer_that_it_confirmed(tmp_path):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng, wanted, log = random.Random(seed), {}, tmp_path / "log"
    tests = Path(__file__).parent
    for _ in range(2):
        with log.open("w") as stdout:
            command = [sys.executable, "-c", ANSWERING, tmp_path, tests, tests.parent]
            environment = {**os.environ, "PYTHONPATH": str(tests.parents[1])}
            server = subprocess.Popen(command, stdout=stdout, env=environment)
        while not log.stat().st_size and server.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.2, 0.7))
        server.kill()
        assert server.wait(timeout=60) == -signal.SIGKILL
        answers = [line.split() for line in log.read_text().splitlines()]
        for name, label, *_ in answers[:-1]:
            wanted[name] = {label}
        name, label, *confirmed = answers[-1]
        wanted[name] = {label} if confirmed else {label, *wanted.get(name, [""])}
        images = [Entry(path, "") for path in (tmp_path / "loose").iterdir()]
        file = LabelsFile(tmp_path / "labels.csv", images)
        assert all(file.label(tmp_path / "loose" / name) in wanted[name] for name in wanted)
        wanted = {name: {file.label(tmp_path / "loose" / name)} for name in wanted}
    assert len(answers) > 1
