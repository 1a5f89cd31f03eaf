"""A file of labels loses none that was confirmed, whoever is killed and whoever else writes."""

import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.app.labels import LabelsFile
from pipeline.data.entries import Entry
from pipeline.data.listing import list_entries
from pipeline.errors import PipelineError
from pipeline.system.files import write_file
from pipeline.system.journal import Journal

FULL = os.environ.get("TORTURE", "") not in ("", "0")
IMAGES = 20


def entries(folder):
    """Some images that have no label, and two that have."""
    loose = [Entry(folder / f"{number}.png", "") for number in range(IMAGES)]
    return [*loose, Entry(folder / "cats" / "a.png", "cats"), Entry(folder / "dogs/b.png", "dogs")]


def opened(folder):
    return LabelsFile(folder / "labels.csv", entries(folder))


def listed(folder):
    found = list_entries(folder / "labels.csv").entries
    return {entry.path.relative_to(folder).as_posix(): entry.label for entry in found}


def test_what_is_written_is_what_classify_takes_folders_and_answers_together(tmp_path):
    opened(tmp_path).put(tmp_path / "3.png", "cats")
    opened(tmp_path).put(tmp_path / "dogs/b.png", "cats")
    assert listed(tmp_path) == {"3.png": "cats", "cats/a.png": "cats", "dogs/b.png": "cats"}
    assert opened(tmp_path).label(tmp_path / "dogs/b.png") == "cats"
    assert opened(tmp_path).label(tmp_path / "4.png") == ""
    assert (tmp_path / ".labels.csv.journal").stat().st_size == 0


def test_labels_can_be_taken_back_to_the_last(tmp_path):
    file = LabelsFile(tmp_path / "labels.csv", [Entry(tmp_path / "a.png", "")])
    file.put(tmp_path / "a.png", "cats")
    file.put(tmp_path / "a.png", "")
    assert (tmp_path / "labels.csv").read_text() == "path,label\n"
    assert opened(tmp_path).label(tmp_path / "a.png") == ""


def test_splits_and_groups_of_the_data_set_and_rows_of_other_images_stay(tmp_path):
    (tmp_path / "labels.csv").write_text("path,label,split,group\nelse/x.png,birds,,g2\n")
    images = [Entry(tmp_path / "a.png", "", "test", "g1"), Entry(tmp_path / "b.png", "cats")]
    LabelsFile(tmp_path / "labels.csv", images).put(tmp_path / "a.png", "dogs")
    found = {entry.path.name: entry for entry in list_entries(tmp_path / "labels.csv").entries}
    assert found["a.png"] == Entry(tmp_path / "a.png", "dogs", "test", "g1")
    assert found["b.png"].label == "cats"
    assert (found["x.png"].label, found["x.png"].group) == ("birds", "g2")


@pytest.mark.parametrize("column", ["split", "group"])
def test_a_column_that_somebody_added_to_the_file_stays(tmp_path, column):
    opened(tmp_path).put(tmp_path / "3.png", "cats")
    (tmp_path / "labels.csv").write_text(f"path,label,{column}\n3.png,cats,test\n4.png,dogs,\n")
    file = opened(tmp_path)
    file.put(tmp_path / "5.png", "cats")
    file.put(tmp_path / "3.png", "dogs")
    found = {each.path.name: each for each in list_entries(tmp_path / "labels.csv").entries}
    assert [getattr(found[f"{name}.png"], column) for name in (3, 4, 5)] == ["test", "", ""]
    assert [found[f"{name}.png"].label for name in (3, 4, 5)] == ["dogs", "dogs", "cats"]


def test_two_that_write_at_once_lose_nothing_and_the_last_label_holds(tmp_path):
    first, second = opened(tmp_path), opened(tmp_path)
    first.put(tmp_path / "1.png", "cats")
    second.put(tmp_path / "2.png", "dogs")
    second.put(tmp_path / "1.png", "dogs")
    first.put(tmp_path / "3.png", "cats")
    wanted = {"1.png": "dogs", "2.png": "dogs", "3.png": "cats"}
    assert listed(tmp_path).items() >= wanted.items()
    for file in (first, second):
        file.refresh()
        assert all(file.label(tmp_path / name) == label for name, label in wanted.items())


def test_threads_of_one_process_lose_nothing_either(tmp_path):
    file = opened(tmp_path)

    def label(start):
        for number in range(start, IMAGES, 4):
            file.put(tmp_path / f"{number}.png", f"class {start}")

    threads = [threading.Thread(target=label, args=[start]) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = {f"{number}.png": f"class {number % 4}" for number in range(IMAGES)}
    assert listed(tmp_path).items() >= wanted.items()


def test_what_a_person_changes_in_the_file_meanwhile_holds(tmp_path):
    file = opened(tmp_path)
    file.put(tmp_path / "1.png", "cats")
    text = (tmp_path / "labels.csv").read_text()
    (tmp_path / "labels.csv").write_text(text.replace("1.png,cats", "1.png,foxes"))
    file.put(tmp_path / "2.png", "cats")
    assert listed(tmp_path)["1.png"] == "foxes"


def test_a_file_with_other_columns_is_refused_and_stays(tmp_path):
    text = "path,label,notes\na.png,cats,blurred\n"
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(PipelineError, match="no file of labels"):
        opened(tmp_path)
    assert (tmp_path / "labels.csv").read_text() == text


@pytest.mark.parametrize("name", ["none/labels.csv", "folder"])
def test_a_place_where_no_file_can_be_is_refused_before_the_first_label(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(PipelineError, match=r"none|folder"):
        LabelsFile(tmp_path / name, [])


NAMES = ["=1+1.png", "-x y.png", "a,b.png", 'a"b.png', "naïve 猫.png", "a\nb.png", "s3:--x.png"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("label", ["=cmd", "a, b", "é"])
def test_any_name_comes_back_and_no_cell_is_a_formula(tmp_path, name, label):
    file = LabelsFile(tmp_path / "labels.csv", [Entry(tmp_path / name, "")])
    file.put(tmp_path / name, label)
    [entry] = list_entries(tmp_path / "labels.csv").entries
    assert (entry.path, entry.label) == (tmp_path / name, label)
    line = (tmp_path / "labels.csv").read_text().split("\n", 1)[1]
    assert not line.startswith(("=", "-"))
    assert ",=" not in line


UNWRITABLE = [os.fsdecode(b"\xff.png"), "a.png ", "a\r.png"]


@pytest.mark.parametrize("name", UNWRITABLE, ids=ascii)
def test_a_name_that_no_csv_can_hold_is_one_error_and_no_obstacle_to_others(tmp_path, name):
    file = LabelsFile(tmp_path / "labels.csv", [Entry(tmp_path / name, ""), *entries(tmp_path)])
    with pytest.raises(PipelineError, match="cannot be written into a CSV"):
        file.put(tmp_path / name, "dogs")
    assert file.label(tmp_path / name) == ""
    file.put(tmp_path / "1.png", "dogs")
    assert listed(tmp_path).items() >= {"1.png": "dogs", "cats/a.png": "cats"}.items()


@pytest.mark.parametrize(
    ("label", "name"),
    [
        *(("cats", name) for name in UNWRITABLE),
        *((label, "a.png") for label in ("cats ", " cats", "null", "NaN", "-nan", "N/A", "\\N")),
        *(
            (label, "a.png")
            for label in ("a\nb", "a\x0bb", "a\u2028b", os.fsdecode(b"\xff"), "a\0")
        ),
    ],
    ids=ascii,
)
def test_labels_that_could_not_be_read_again_are_refused_at_the_start(tmp_path, label, name):
    images = [Entry(tmp_path / "cats" / name, label), Entry(tmp_path / "b.png", "")]
    with pytest.raises(PipelineError, match="cannot be written into a CSV"):
        LabelsFile(tmp_path / "labels.csv", images)
    assert not (tmp_path / "labels.csv").exists()
    with pytest.raises(PipelineError, match="cannot be written into a CSV"):
        LabelsFile(tmp_path / "labels.csv", images[1:]).put(tmp_path / "b.png" / name, label)
    assert not (tmp_path / "labels.csv").exists()


@pytest.mark.parametrize("label", ["NA", "None", "0", "nan-free", "a b", "="])
def test_every_other_label_is_read_again(tmp_path, label):
    images = [Entry(tmp_path / "a.png", label), Entry(tmp_path / "b.png", "")]
    LabelsFile(tmp_path / "labels.csv", images).put(tmp_path / "b.png", "dogs")
    assert listed(tmp_path) == {"a.png": label, "b.png": "dogs"}
    assert LabelsFile(tmp_path / "labels.csv", images).label(tmp_path / "a.png") == label


def test_a_label_is_kept_where_the_file_cannot_be_written_and_written_later(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.app.labels.write_file", full)
        file = opened(tmp_path)
        file.put(tmp_path / "1.png", "cats")
        assert "No space left" in file.unwritten
        assert opened(tmp_path).label(tmp_path / "1.png") == "cats"
    opened(tmp_path)
    assert listed(tmp_path)["1.png"] == "cats"
    file.put(tmp_path / "2.png", "cats")
    assert file.unwritten == ""


def test_many_labels_are_written_at_once_and_what_each_was_is_told(tmp_path, monkeypatch):
    written = []

    def counted(path, *content, **options):
        written.append(path)
        write_file(path, *content, **options)

    monkeypatch.setattr("pipeline.app.labels.write_file", counted)
    images = [tmp_path / f"{number}.png" for number in range(1000)]
    file = opened(tmp_path)
    file.put(images[1], "dogs")
    assert file.put_all(dict.fromkeys(images, "cats")) == ["", "dogs"] + 998 * [""]
    assert len(written) == 2
    assert len(listed(tmp_path)) == 1002


def test_of_many_labels_all_are_kept_or_none(tmp_path):
    images = [tmp_path / f"{number}.png" for number in range(1000)]
    file = opened(tmp_path)
    file.put(images[1], "cats")
    with pytest.raises(PipelineError, match="has no label now"):
        file.put_all(dict.fromkeys(images, "dogs"), "cats")
    with pytest.raises(PipelineError, match="cannot be written into a CSV"):
        file.put_all({images[0]: "dogs", tmp_path / "a\0.png": "dogs"})
    with files_of_at_most(10_000), pytest.raises(PipelineError, match="cannot keep"):
        file.put_all(dict.fromkeys(images, "dogs"))
    for each in (file, opened(tmp_path)):
        assert each.label(images[0]) == ""
        assert each.label(images[1]) == "cats"
    file.put(images[2], "dogs")
    assert len(listed(tmp_path)) == 4


@contextmanager
def files_of_at_most(size):
    """Let no file grow beyond a size, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_half_written_line_harms_neither_what_came_before_nor_what_comes_after(tmp_path):
    path = tmp_path / "journal"
    with Journal.opened(path) as journal:
        journal.append(["a.png", "cats"], ["b.png", "dogs"])
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with Journal.opened(path) as journal:
            before = journal.lines()
            journal.append(["c.png", "cats"])
            assert journal.lines() == [*before, ["c.png", "cats"]]
        assert before == [["a.png", "cats"], ["b.png", "dogs"]][: whole[1 : cut + 1].count(b"\n")]


@pytest.mark.parametrize("flipped", range(0, 60, 7))
def test_a_damaged_line_is_not_taken_for_a_label(tmp_path, flipped):
    path = tmp_path / "journal"
    with Journal.opened(path) as journal:
        journal.append(["a.png", "cats and some more to be flipped"])
    content = bytearray(path.read_bytes())
    content[flipped] ^= 1
    path.write_bytes(content)
    with Journal.opened(path) as journal:
        assert journal.lines() == []


LABELLER = """
import random, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_labels_file import IMAGES, opened

folder, seed = Path(sys.argv[1]), int(sys.argv[3])
rng, file = random.Random(seed), opened(folder)
for number in range(10**6):
    images = rng.sample(range(IMAGES), rng.choice([1, 1, 3]))
    label = f"{seed}-{number}"
    print(*images, sep=",", end=f" {label} {time.monotonic()} ", flush=True)
    file.put_all({folder / f"{image}.png": label for image in images})
    print(time.monotonic(), flush=True)
"""


def run_and_kill(folder, rng, seeds):
    """Let several label at once, kill each at a random moment, and give what each printed."""
    logs = [folder / f"log-{seed}" for seed in seeds]
    workers = []
    for seed, log in zip(seeds, logs):
        with log.open("w") as stdout:
            command = [sys.executable, "-c", LABELLER, folder, Path(__file__).parent, str(seed)]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
            workers.append(subprocess.Popen(command, stdout=stdout, env=environment))
    while not all(log.stat().st_size for log in logs):
        assert not any(worker.poll() for worker in workers)
        time.sleep(0.01)
    for worker in workers:
        threading.Timer(rng.uniform(0, 0.2), worker.send_signal, [signal.SIGKILL]).start()
    for worker in workers:
        worker.wait(timeout=60)
    return [log.read_text().split("\n") for log in logs]


def possible_labels(logs, image, before):
    """Tell which labels an image may have: none that was given before another was confirmed."""
    lines = [line.split() for log in logs for line in log]
    given = [  # label, when it was sent, when it was confirmed
        (before, 0.0, 0.0),
        *(
            (label, float(sent), float(*confirmed or [math.inf]))
            for names, label, sent, *confirmed in filter(None, lines)
            if image in names.split(",")
        ),
    ]
    last = max(sent for _, sent, confirmed in given if confirmed < math.inf)
    return {label for label, _, confirmed in given if confirmed >= last}


def test_killed_at_random_moments_two_labellers_lose_no_label_that_was_confirmed(tmp_path):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng, kept = random.Random(seed), 0
    images = [str(number) for number in range(IMAGES)]
    for number in range(100 if FULL else 4):
        before = {image: opened(tmp_path).label(tmp_path / f"{image}.png") for image in images}
        logs = run_and_kill(tmp_path, rng, (2 * number, 2 * number + 1))
        kept += sum(len(line.split()) > 3 for log in logs for line in log)
        after = opened(tmp_path)
        for image in images:
            possible = possible_labels(logs, image, before[image])
            assert after.label(tmp_path / f"{image}.png") in possible, image
        assert len(listed(tmp_path)) >= 2  # it is whole
    assert kept > 0
