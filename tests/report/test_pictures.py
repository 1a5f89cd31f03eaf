"""The pictures of a page: kept in the run, and never taken from where a run's text points to."""

import base64
import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from conftest import paint
from imitated import imitate
from pages import Page, painted, report
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.report.page import write_report


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run whose paths are relative to the folder that it was made in."""
    home = tmp_path_factory.mktemp("home")
    with contextlib.chdir(home):
        paths, mine = painted(Path("photos")), Path("runs/mine")
        return home, imitate(mine, heads=("logistic",), paths=paths, skill=0.4, looked_into=True)


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A copy of it, to be spoilt, and its folder to work in."""
    home, run = made
    monkeypatch.chdir(shutil.copytree(home, tmp_path / "home"))
    return run


def elsewhere(photos, monkeypatch):
    monkeypatch.chdir("/")


def with_other_images_of_the_same_names(photos, monkeypatch):
    other = photos.parent.parent / "other"
    for seed, file in enumerate(photos.iterdir()):
        paint(other / "photos" / file.name, (0, 250, 0), seed)
    monkeypatch.chdir(other)


def moved(photos, monkeypatch):
    photos.rename(photos.with_name("moved"))


def replaced(photos, monkeypatch):
    for seed, file in enumerate(photos.iterdir()):
        paint(file, (0, 250, 0), seed)


def swapped(photos, monkeypatch):
    files = sorted(photos.iterdir())
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, reversed(contents)):
        file.write_bytes(content)


@pytest.mark.parametrize(
    "change", [elsewhere, with_other_images_of_the_same_names, moved, replaced, swapped]
)
def test_a_page_keeps_its_pictures_whatever_became_of_the_images(run, monkeypatch, change):
    folder = run.folder.resolve()
    before = (folder / "report.html").read_bytes()
    assert before.count(b"data:image/jpeg") > 100
    change(Path("photos").resolve(), monkeypatch)
    assert write_report(folder).read_bytes() == before


def test_a_picture_is_shown_only_if_its_bytes_are_those_of_the_run(run):
    first, second, third = names(report(run.folder))[:3]
    (run.folder / "pictures.json").unlink()
    (run.folder / "report.html").unlink()
    Path("photos", first).unlink()
    paint(Path("photos", second), (0, 250, 0), 1)
    Path("photos", third).write_text("no picture")
    page = Page(write_report(run.folder, dataset=run.dataset))
    gone, changed, damaged, fourth, *_ = mistakes(page)
    assert "no picture: cannot be read: No such file" in gone.text
    assert "no picture: changed" in changed.text
    assert "no picture: changed" in damaged.text
    assert next(fourth.all("img"))
    notice = next(page.root.one("main").all("p", class_="notice")).text
    assert notice.startswith("3 of the ")
    assert "images on the page cannot be shown: " in notice
    assert notice.rstrip(".") in run_command("report", run.folder).stderr.replace("\n", " ")


def mistakes(page):
    return next(page.section("mistakes").all("ul", class_="gallery")).children


def names(page):
    return [item.one("p", class_="path").text for item in mistakes(page)]


def test_a_file_that_takes_the_name_of_another_is_not_shown_for_it(run):
    """Two images of one class and split change names: the data set's digest stays the same."""
    a = Path("photos", names(report(run.folder))[0])
    first = run.dataset.paths.index(a)
    other = first + (2 if first < 117 else -2)
    b = run.dataset.paths[other]
    a.rename("kept.png")
    b.rename(a)
    Path("kept.png").rename(b)
    digests = list(run.dataset.digests)
    digests[first], digests[other] = digests[other], digests[first]
    write_report(
        run.folder, dataset=replace(run.dataset, digests=tuple(digests)), without_pictures=True
    )
    kept = json.loads((run.folder / "pictures.json").read_text())
    assert str(a) in kept["missing"]
    assert str(a) not in kept["images"]


def test_a_page_with_pictures_is_not_replaced_by_one_with_fewer_unless_asked(run):
    """Runs of older releases keep no pictures."""
    (run.folder / "pictures.json").unlink()
    page = run.folder / "report.html"
    before = page.read_bytes()
    count = before.count(b"data:image/jpeg")
    done = run_command("report", run.folder)
    assert done.exit_code == 1
    assert f"has {count} pictures, of which the run keeps 0" in done.output
    assert "pipeline problems DATA --run runs/mine" in done.output
    assert page.read_bytes() == before
    done = run_command("report", run.folder, "--without-pictures")
    assert done.exit_code == 0
    assert "images on the page cannot be shown: the run keeps none" in done.stderr.replace(
        "\n", " "
    )
    assert page.read_bytes().count(b"data:image/jpeg") == 0
    assert "images on the page cannot be shown" in Page(page).root.one("main").text
    assert write_report(run.folder, dataset=run.dataset).read_bytes() == before


@pytest.mark.parametrize("jpeg", ["<svg onload=alert(1)>", "", "not base64", None, 7])
def test_what_is_kept_must_be_pictures(run, jpeg):
    kept = json.loads((run.folder / "pictures.json").read_text())
    encoded = base64.b64encode(jpeg.encode()).decode() if isinstance(jpeg, str) else jpeg
    next(iter(kept["images"].values()))["jpeg"] = jpeg if jpeg == "not base64" else encoded
    (run.folder / "pictures.json").write_text(json.dumps(kept))
    with pytest.raises(PipelineError, match=r"pictures.json cannot be understood"):
        write_report(run.folder)


WATCHED = """
import os, sys
from pipeline.cli.main import app
import pipeline.report.page, pipeline.cli.results, encodings.idna
def watch(event, arguments):
    if event in ("open", "os.open") or event.startswith(("socket.", "subprocess.", "os.listdir")):
        print(event, arguments[0], file=sys.__stdout__)
sys.addaudithook(watch)
app()
"""


def hostile(folder, tmp_path):
    """Give every text of a run to a stranger: they name a private picture, a pipe, servers."""
    private = paint(tmp_path / "private" / "me.png", (90, 90, 200), 1)
    os.mkfifo(tmp_path / "fifo")
    places = [
        str(private),
        f"file://{private}",
        os.path.relpath(private),
        str(tmp_path / "fifo"),
        "http://127.0.0.1:9/x.png",
        "s3://bucket/x.png",
        r"\\host\share\x.png",
        "/dev/zero",
    ]
    imitate(folder, heads=("logistic",), skill=0.4, looked_into=True)
    originals = {str(folder / "photos" / f"{n}.png"): places[n % len(places)] for n in range(120)}
    for name in ("problems.json", "examples.json", "predictions.csv"):
        text = (folder / name).read_text()
        for old in sorted(originals, key=len, reverse=True):
            quoted = json.dumps(originals[old])[1:-1] if name.endswith("json") else originals[old]
            text = text.replace(old, quoted)
        (folder / name).write_text(text)
    return private


@pytest.mark.parametrize("command", [["report"], ["compare", "--out", "x.html"]])
def test_a_strangers_run_opens_no_file_and_no_connection(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    private = hostile(tmp_path / "stranger", tmp_path)
    imitate(tmp_path / "stranger-2", heads=("logistic",))
    runs = ["stranger", "stranger-2"][: 1 if command == ["report"] else 2]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *command, *runs],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events = [line.split(" ", 1) for line in done.stdout.splitlines() if " " in line]
    assert not [event for event, _ in events if event.startswith(("socket", "subprocess"))]
    opened = [place for event, place in events if event in ("open", "os.open")]
    assert any("stranger/run.json" in place for place in opened)
    for place in opened:
        for bad in ("private", "fifo", "127.0.0.1", "bucket", "host", "zero"):
            assert bad not in place
    page = tmp_path / "x.html" if command[0] == "compare" else tmp_path / "stranger/report.html"
    assert "data:image/jpeg" not in page.read_text()
    assert hashlib.sha256(private.read_bytes()).hexdigest() not in page.read_text()


def test_pictures_are_kept_when_the_run_is_given_away(run, tmp_path):
    before = (run.folder / "report.html").read_bytes()
    given = shutil.copytree(run.folder, tmp_path / "given" / "mine")
    shutil.rmtree("photos")
    assert write_report(given).read_bytes() == before


@pytest.mark.parametrize(("decoding", "mean"), [("1", 8), ("1 white=4095", 128), ("2 gamma", 0)])
def test_pictures_are_shown_with_the_white_level_of_the_run(decoding, mean, tmp_path):
    paths = []
    for number in range(120):
        grey = np.random.default_rng(number).integers(0, 4096, (20, 20)).astype(np.uint16)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(grey).save(paths[-1])
    run = imitate(tmp_path / "run", paths=tuple(paths), looked_into=True)
    document = json.loads((run.folder / "run.json").read_text())
    document["recipe"]["decoding"] = decoding
    (run.folder / "run.json").write_text(json.dumps(document))
    for made_before in ("pictures.json", "report.html"):
        (run.folder / made_before).unlink()
    write_report(run.folder, dataset=run.dataset)
    kept = json.loads((run.folder / "pictures.json").read_text())
    levels = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(image["jpeg"])))).mean()
        for image in kept["images"].values()
    ]
    assert bool(levels) == bool(mean)
    assert all(0.7 * mean < level < 1.3 * mean for level in levels)
    assert levels or "in a way that is not known" in next(iter(kept["missing"].values()))
