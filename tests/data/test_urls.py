"""Images behind URLs: the same data set and rows as from a folder, whatever the server does."""

import contextlib
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import fsspec
import pytest
from bucket import ENVIRONMENT, Server
from commands import run_command
from conftest import CountingBackbone, paint, paint_classes
from imitated import imitate
from torture_worker import RECIPE, stand_in

from pipeline.backbones.registry import make_recipe
from pipeline.cli import main as cli
from pipeline.data import servers, urls
from pipeline.data.digests import Digests, digest_files, read_image
from pipeline.data.listing import list_images
from pipeline.data.loading import list_dataset, load_dataset
from pipeline.data.packed import PackedPaths
from pipeline.data.servers import REQUESTS_AT_ONCE
from pipeline.data.urls import Url, locate
from pipeline.errors import DataError, ImageError, PipelineError
from pipeline.features.cluster import Cluster
from pipeline.features.extractor import Extractor, extract
from pipeline.report.words import common_folder

SETTINGS = ["--size", "64", "--precision", "float32"]
PHOTOS = Url("s3://holiday/photos")


@pytest.fixture(scope="module")
def running():
    with Server().running() as server:
        yield server


@pytest.fixture(autouse=True)
def forgotten():
    """Nothing is left of another test's connections."""
    yield
    servers.file_system.cache_clear()
    servers.unreachable.clear()


@pytest.fixture
def server(running, monkeypatch):
    """An empty bucket, `holiday`, and this process's leave to use it."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": running.address}.items():
        monkeypatch.setenv(name, value)
    running.requests.clear()
    running.client.create_bucket(Bucket="holiday")
    running.most_at_once = 0
    yield running
    running.answers, running.delay = {}, 0.0
    running.empty("holiday")


@pytest.fixture
def photos(tmp_path):
    return paint_classes(tmp_path / "photos", 12)


@pytest.fixture
def bucket(server, photos):
    """The photos, in the bucket too."""
    server.put_folder("holiday", "photos", photos)
    return server


def at(cache, workers=None):
    return Extractor(RECIPE, cache=cache, workers=workers, forward=stand_in)


@pytest.fixture
def run(at_home, networks):
    """Run a command in this process, in a folder of its own."""
    return run_command


def inside(paths, root):
    return [str(path).removeprefix(f"{root}/") for path in paths]


def remember(source, cache):
    """List a data set as the commands do."""
    return load_dataset(source, cache=cache)


# What a URL is


def test_urls_are_told_from_paths():
    assert locate("S3://bucket/Photos/") == Url("s3://bucket/Photos")
    assert locate("photos/cats") == Path("photos/cats")
    assert locate("C:\\photos") == Path("C:\\photos")
    assert locate("a:b") == Path("a:b")
    assert locate("file:///photos/cats") == Path("/photos/cats")
    assert isinstance(locate("https://example.org/a.jpg?size=1/"), Url)


def test_what_a_list_names_is_relative_to_the_list():
    folder = Url("s3://bucket/lists")
    assert locate("a/1.jpg", folder) == "s3://bucket/lists/a/1.jpg"
    assert locate("../photos/1.jpg", folder) == "s3://bucket/photos/1.jpg"
    assert locate("gs://other/1.jpg", folder) == "gs://other/1.jpg"
    assert locate("/here/1.jpg", folder) == Path("/here/1.jpg")
    assert locate("s3://other/1.jpg", Path("lists")) == "s3://other/1.jpg"
    assert locate("1.jpg", Path("lists")) == Path("lists/1.jpg")


def test_urls_are_packed_and_travel_as_they_are():
    paths = [Url("s3://b/ü 1.jpg"), Path("a/2.jpg"), Url("s3://b//x/3.jpg"), Url("s3://b/4.tar.gz")]
    assert list(PackedPaths(paths)) == paths == pickle.loads(pickle.dumps(paths))
    assert [type(path) for path in PackedPaths(paths)] == [Url, type(Path()), Url, Url]
    assert paths[3].suffix == ".gz"


def test_a_data_set_on_this_machine_needs_no_fsspec(photos):
    code = f"import sys, pipeline; pipeline.load_dataset({str(photos)!r}); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pipeline.data.urls" in found.stdout.split()
    assert "fsspec" not in found.stdout.split()


# The same data set


def test_a_bucket_is_the_same_data_set_as_the_folder_with_the_same_rows(bucket, photos, tmp_path):
    here, there = load_dataset(photos), load_dataset(PHOTOS)
    assert inside(there.paths, PHOTOS) == inside(here.paths, photos)
    assert there.digests == here.digests
    assert (there.targets.labels == here.targets.labels).all()
    assert (there.splits == here.splits).all()
    made = [
        extract(dataset, extractor=at(tmp_path / cache)).rows()
        for dataset, cache in ((here, "here"), (there, "there"))
    ]
    assert made[0].tobytes() == made[1].tobytes()


@pytest.mark.parametrize("by_split", [False, True])
def test_folders_mean_the_same_in_a_bucket(server, tmp_path, by_split):
    root = tmp_path / "photos"
    names = ["a/1.png", "a/b c/ü#1%20?.png", "a/.hidden/2.png", "a/.3.png", "b/4.png", "b/5.png"]
    names += ["a/Thumbs.db", "b/notes.txt", "b/z/6.png", "b/zz.png", "a/9.png", ".git/x/1.png"]
    parts = ["Train", "test"] if by_split else ["."]
    for seed, name in enumerate(f"{part}/{name}" for part in parts for name in names):
        file = root / name
        paint(file.with_suffix(".png"), (90, 90, 90), seed)
        file.with_suffix(".png").rename(file)
    for file in root.rglob("notes.txt"):
        file.write_text("text")  # a file whose bytes are an image is one, on this machine
    for folder in (root, root / parts[0]):
        paint(folder / "loose.png", (90, 90, 90), 99)
    server.put_folder("holiday", "photos", root)
    server.put("holiday", "photos/a/", b"")  # what some tools make for a folder
    here, there = list_dataset(root), list_dataset(PHOTOS)
    assert inside(there.paths, PHOTOS) == inside(here.paths, root)
    assert there.digest == here.digest
    refused = [
        {
            str(bad.path).removeprefix(f"{top}/"): bad.reason.partition(" by its ")[0]
            for bad in found.quarantined
        }
        for found, top in ((there, PHOTOS), (here, root))
    ]
    assert refused[0] == refused[1]
    assert len(refused[0]) == (4 if by_split else 2)


def test_a_csv_names_files_here_and_behind_urls(bucket, photos, tmp_path):
    lines = ["path,label"]
    for name in ("blue", "red"):
        lines += [f"photos/{name}/{number:03}.png,{name}" for number in range(6)]
        lines += [f"{PHOTOS}/{name}/{number:03}.png,{name}" for number in range(6, 12)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    mixed = remember(tmp_path / "list.csv", tmp_path / "cache")
    assert mixed.digest == load_dataset(photos).digest
    assert sum(isinstance(path, Url) for path in mixed.paths) == 12
    bucket.requests.clear()
    assert remember(tmp_path / "list.csv", tmp_path / "cache").digest == mixed.digest
    assert len(bucket.asked("HEAD")) == 12  # so few in each folder are asked for one by one
    assert not bucket.asked("GET")


def test_a_csv_may_lie_in_a_bucket_itself(bucket, photos, tmp_path):
    files = sorted(photos.glob("*/*.png"))
    lines = [f"../photos/{file.relative_to(photos)},{file.parent.name}" for file in files]
    bucket.put("holiday", "lists/all.csv", "\n".join(["path,label", *lines]).encode())
    listed = remember("s3://holiday/lists/all.csv", tmp_path)
    assert (listed.name, listed.digest) == ("all", load_dataset(photos).digest)
    bucket.requests.clear()
    assert remember("s3://holiday/lists/all.csv", tmp_path).digest == listed.digest
    assert not [one for one in bucket.requests if ".png" in one]
    assert len(bucket.requests) == 3  # the list, and two folders


def test_any_file_system_of_fsspec_will_do(photos, tmp_path):
    """`gs://` and the others take this way, too."""
    memory = fsspec.filesystem("memory")
    memory.put(str(photos), "/holiday/photos", recursive=True)
    try:
        first = remember("memory://holiday/photos", tmp_path)
        assert first.digest == load_dataset(photos).digest
        memory.pipe_file("/holiday/photos/red/000.png", (photos / "red" / "001.png").read_bytes())
        second = remember("memory://holiday/photos", tmp_path)
        changed = [one != two for one, two in zip(first.digests, second.digests)]
        assert [first.paths[changed.index(True)].name, sum(changed)] == ["000.png", 1]
    finally:
        memory.rm("/holiday", recursive=True)


@pytest.fixture
def web_server(tmp_path):
    """A server that tells times in whole seconds, as nginx and most others do."""
    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            requests.append(self.command)

    handler = partial(Handler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()


@pytest.mark.parametrize("asked", ["a.png?size=1", "a.png#top", "picture?id=a.png/3", "picture"])
def test_an_address_of_the_web_is_an_image_whatever_it_asks_for(tmp_path, web_server, asked):
    address, _ = web_server
    paint(tmp_path / "a.png", (70, 180, 70), 0)
    (tmp_path / "picture").write_bytes((tmp_path / "a.png").read_bytes())
    images, skipped = list_images([f"{address}/{asked}"])
    assert images == [Url(f"{address}/{asked}")]
    assert not skipped
    assert read_image(images[0])[0] == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize("asked", ["", "?token=abc", "?key=AK/2026/x.png", "#a/b"])
def test_a_list_behind_an_address_that_asks_for_something_names_what_lies_beside_it(
    tmp_path, web_server, asked
):
    address, _ = web_server
    for name in ("red", "blue"):
        paint(tmp_path / "photos" / f"{name}.png", (70, 180, 70), len(name))
    (tmp_path / "list.csv").write_text("path,label\nphotos/red.png,red\nphotos/blue.png,blue\n")
    dataset = list_dataset(f"{address}/list.csv{asked}", cache=tmp_path / "cache")
    assert dataset.name == "list"
    assert [*dataset.paths] == [f"{address}/photos/{name}.png" for name in ("red", "blue")]


@pytest.mark.parametrize("much", [1 << 16, 1 << 25])
def test_no_more_is_read_than_an_image_can_have_whatever_a_server_sends(monkeypatch, much):
    """Web servers need not heed that a part of a file is asked for."""
    sent = []

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self):
            sent.append(0)
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    sent[0] += self.wfile.write(bytes(1 << 16))

    monkeypatch.setattr("pipeline.data.digests._MAX_BYTES", 1 << 20)
    monkeypatch.setattr("pipeline.data.urls._MUCH", much)
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = Url(f"http://127.0.0.1:{server.server_port}/a.png")
        for _ in range(2):
            with pytest.raises(ImageError, match="more than the limit"):
                read_image(url)
        server.shutdown()
    assert len(sent) == 2
    assert sent[0] < 1 << 25  # what the system holds ready for us


class Faulty(BaseHTTPRequestHandler):
    """A web server of which some files can be had, and the others never."""

    content = b""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        fault = self.path.split("/")[1].partition(".")[0]
        if fault == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
        elif fault == "file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
        elif fault == "headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nno header at all\r\n\r\n")
            return
        else:
            self.send_response(200)
            self.send_header(
                "Content-Length", str(len(self.content) * (9 if fault == "cut" else 1))
            )
            if fault == "packed":
                self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if fault not in ("loop", "file") and self.command == "GET":
            self.wfile.write(self.content)
        self.close_connection = True


@pytest.fixture
def faulty(photos, monkeypatch):
    monkeypatch.setattr(Faulty, "content", next(photos.glob("*/*.png")).read_bytes())
    with ThreadingHTTPServer(("127.0.0.1", 0), Faulty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("loop", "redirects without end"),
        ("file", "redirects to what is no web address"),
        ("headers", "cannot be read: 400"),
        ("cut", "sent only a part of it"),
        ("packed", "cannot be read: "),
    ],
)
def test_a_web_server_that_cannot_give_one_image_harms_no_other(faulty, fault, told):
    with pytest.raises(ImageError, match=told):
        read_image(Url(f"{faulty}/{fault}.png"))
    assert read_image(Url(f"{faulty}/good.png"))[0] == Faulty.content


def test_a_list_behind_a_url_has_a_bound(faulty, monkeypatch):
    monkeypatch.setattr("pipeline.data.table._MOST_BYTES", 100)
    with pytest.raises(DataError, match="is larger than"):
        load_dataset(Url(f"{faulty}/good.csv"))


@pytest.mark.parametrize(("age", "reads"), [(0, True), (3600, False)])
def test_a_file_that_changed_twice_in_a_second_is_read_again(
    web_server, photos, tmp_path, age, reads
):
    address, requests = web_server
    now = int(time.time()) - age
    files = sorted(photos.glob("*/*.png"))
    for file in files:
        file.write_bytes(file.read_bytes().ljust(10_000, b"\0"))
        os.utime(file, (now, now))
    lines = [f"{address}/photos/{file.relative_to(photos)},{file.parent.name}" for file in files]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    remember(tmp_path / "list.csv", tmp_path)
    files[0].write_bytes(files[0].read_bytes()[:-1] + b"\1")
    os.utime(files[0], (now, now))  # of an hour ago: nobody can tell
    requests.clear()
    second = remember(tmp_path / "list.csv", tmp_path)
    assert ("GET" in requests) == reads
    assert (second.digest == load_dataset(photos).digest) == reads


@pytest.mark.parametrize(
    ("url", "info", "same"),
    [
        ("s3://b/a", {"ETag": '"ab"', "LastModified": "now"}, True),
        ("gs://b/a", {"generation": "1", "updated": "now"}, True),
        ("https://b/a", {"ETag": '"ab"', "Last-Modified": "now"}, False),
        ("https://b/a", {"ETag": '"ab"'}, True),
        ("https://b/a", {"Last-Modified": "Sat, 01 Jan 2022 00:00:00 GMT"}, True),
        ("https://b/a", {"Last-Modified": "yesterday"}, False),
        ("sftp://b/a", {"mtime": "now"}, False),
        ("sftp://b/a", {"mtime": 1_600_000_000}, True),
        ("sftp://b/a", {"mtime": 16_000_000_000}, False),  # its clock is ahead
        ("hdfs://b/a", {"mtime": "2020-01-01T00:00:00Z"}, True),
        ("memory://b/a", {"created": datetime.fromtimestamp(1_600_000_000.25, UTC)}, True),
        ("memory://b/a", {"size": 5}, True),
    ],
)
def test_what_a_server_tells_is_believed_only_if_other_bytes_would_show(
    monkeypatch, url, info, same
):
    now = datetime.now(UTC).replace(microsecond=0)
    info = {"size": 5} | {name: now if value == "now" else value for name, value in info.items()}
    system = Mock(info=lambda path: info)
    monkeypatch.setattr(urls, "open_url", lambda url: (system, url))
    first, second = (urls.signatures_of([Url(url)]) for _ in range(2))
    assert (first == second) == same


# What is asked of a server


def test_a_second_run_reads_nothing(bucket, tmp_path, run):
    first = run("features", PHOTOS, *SETTINGS)
    assert first.exit_code == 0, first.output
    assert len(bucket.asked("GET")) == 1 + 2 * 24  # the listing; each image twice
    assert not bucket.asked("HEAD")
    bucket.requests.clear()
    again = run("features", PHOTOS, *SETTINGS)
    assert "0 rows computed; 24 images" in again.output
    assert [one.split("&")[0] for one in bucket.requests] == ["GET /holiday?list-type=2"]


def test_a_listing_comes_in_pages(bucket, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    assert len(load_dataset(PHOTOS)) == 24
    assert len([one for one in bucket.requests if "list-type" in one]) == 3


def test_images_are_read_many_at_a_time(bucket):
    bucket.delay = 0.05
    load_dataset(PHOTOS)
    assert 12 < bucket.most_at_once <= REQUESTS_AT_ONCE


def test_a_changed_object_is_read_again_and_its_row_made_anew(bucket, photos, tmp_path, run):
    run("features", PHOTOS, *SETTINGS)
    paint(photos / "red" / "003.png", (10, 10, 10), 5000)
    bucket.put("holiday", "photos/red/003.png", (photos / "red" / "003.png").read_bytes())
    bucket.client.delete_object(Bucket="holiday", Key="photos/red/004.png")
    told = json.loads(run("status", PHOTOS, *SETTINGS, "--json").stdout)
    assert told["reused"] == 22
    assert told["changed"] == [f"{PHOTOS}/red/003.png"]
    assert told["removed"] == [f"{PHOTOS}/red/004.png"]
    bucket.requests.clear()
    again = run("features", PHOTOS, *SETTINGS)
    assert "1 rows computed" in again.output
    assert bucket.asked("GET")[1:] == 2 * ["/holiday/photos/red/003.png"]


def test_an_image_that_was_replaced_while_the_work_went_on_gives_no_row(bucket, photos, tmp_path):
    dataset = load_dataset(PHOTOS)
    bucket.put("holiday", "photos/red/003.png", (photos / "red" / "001.png").read_bytes())
    extraction = extract(dataset, extractor=at(tmp_path))
    assert [bad.path.name for bad in extraction.dataset.quarantined] == ["003.png"]
    assert "changed while the work went on" in extraction.dataset.quarantined[0].reason


# What goes wrong with one image


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("404 NoSuchKey", "cannot be read: it does not exist"),
        ("403 AccessDenied", "cannot be read: AccessDenied"),
        ("403 InvalidObjectState", "cannot be read: InvalidObjectState"),  # it is in an archive
    ],
)
def test_an_image_that_cannot_be_had_harms_no_other(bucket, tmp_path, run, answer, reason):
    bucket.answers = {"/red/003.png": answer}
    result = run("features", PHOTOS, *SETTINGS)
    assert result.exit_code == cli.SOME_FILES_UNUSABLE
    assert f"{PHOTOS}/red/003.png: {reason}" in result.output
    assert "23 images have features" in result.output
    bucket.answers = {}
    result = run("features", PHOTOS, *SETTINGS)
    assert "1 rows computed" in result.output
    assert result.exit_code == 0


def test_an_object_deleted_after_it_was_listed_harms_no_other(bucket, tmp_path):
    dataset = load_dataset(PHOTOS)
    bucket.client.delete_object(Bucket="holiday", Key="photos/red/003.png")
    extraction = extract(dataset, extractor=at(tmp_path))
    assert [(bad.path, bad.reason) for bad in extraction.dataset.quarantined] == [
        (f"{PHOTOS}/red/003.png", "cannot be read: it does not exist")
    ]
    assert len(extraction.rows()) == 23


def test_an_empty_object_is_an_empty_file(bucket):
    bucket.put("holiday", "photos/red/003.png", b"")
    assert [bad.reason for bad in load_dataset(PHOTOS).quarantined] == ["0 bytes"]


# What goes wrong elsewhere


class AnswerError(Exception):
    """An answer as libraries of other schemes raise it."""

    def __init__(self, message, **attributes):
        super().__init__(message)
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (AnswerError("Range Not Satisfiable", status=416), ImageError, "0 bytes"),  # aiohttp's
        (AnswerError("Range Not Satisfiable", code=416), ImageError, "0 bytes"),  # gcsfs's
        (AnswerError("Forbidden", code="403"), ImageError, "cannot be read: Forbidden"),
        (OSError("Forbidden: https://storage"), ImageError, "cannot be read: Forbidden"),
        (AnswerError("Bad Gateway", code=502), PipelineError, "cannot read gs://holiday/1.png"),
        (OSError("broken pipe"), PipelineError, "cannot read gs://holiday/1.png: broken pipe"),
    ],
)
def test_whose_fault_an_answer_is_does_not_hang_on_the_scheme(monkeypatch, answer, kind, told):
    system = SimpleNamespace(_strip_protocol=str, cat_file=Mock(side_effect=answer))
    monkeypatch.setattr(urls, "open_url", lambda url: (system, url))
    with pytest.raises(PipelineError, match=re.escape(told)) as raised:
        urls.read(Url("gs://holiday/1.png"))
    assert type(raised.value) is kind


@pytest.mark.parametrize("answer", ["500 InternalError", "403 ExpiredToken"])
def test_a_failure_that_is_not_the_images_own_stops_the_work_which_goes_on_later(
    bucket, tmp_path, run, answer
):
    bucket.answers = {"/red/003.png": answer}
    result = run("features", PHOTOS, *SETTINGS)
    assert result.exit_code == 1
    assert f"cannot read {PHOTOS}/red/003.png: {answer.split()[1]}." in result.output
    assert "Traceback" not in result.output
    tried = bucket.requests.count("GET /holiday/photos/red/003.png")
    assert tried == (3 if answer.startswith("500") else 1)  # not more: it takes a user's time
    bucket.answers = {}
    bucket.requests.clear()
    result = run("features", PHOTOS, *SETTINGS)
    assert "24 rows computed" in result.output
    kept = 15  # what was read, in order, before the image that failed
    assert len(bucket.asked("GET")) == 1 + (24 - kept) + 24


def test_a_failure_while_rows_are_made_keeps_those_that_are(bucket, tmp_path):
    recipe = make_recipe(size=600, precision="float32")  # so large that four make a batch
    extractor = Extractor(recipe, cache=tmp_path, forward=CountingBackbone(recipe))
    dataset = load_dataset(PHOTOS)
    bucket.answers = {"/red/011.png": "500 InternalError"}
    with pytest.raises(PipelineError, match=r"red/011.png: InternalError"):
        extract(dataset, extractor=extractor)
    bucket.answers = {}
    again = extract(dataset, extractor=extractor)
    assert len(again.rows()) == 24
    assert again.made == 4


def no_credentials(server, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def nobody_listens(server, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")


def nobody_answers(server, monkeypatch):
    silent = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
    users = {"config_kwargs": {"read_timeout": 0.1}}
    monkeypatch.setitem(fsspec.config.conf, "s3", users)
    return silent


def no_access(server, monkeypatch):
    server.answers = {"list-type": "403 AccessDenied"}


def no_package(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)


def no_access_to_any_image(server, monkeypatch):
    server.answers = {".png": "403 AccessDenied"}


def nothing(server, monkeypatch):
    pass


@pytest.mark.parametrize(
    ("trouble", "source", "told"),
    [
        (
            nothing,
            "s3://nowhere/photos",
            "the folder s3://nowhere/photos cannot be read: it does not exist",
        ),
        (nothing, "s3://holiday/other", "there are no files in s3://holiday/other"),
        (nothing, "s3://holiday/photos/red", "s3://holiday/photos/red holds no class folders"),
        (
            nothing,
            "s3://holiday/other.csv",
            "s3://holiday/other.csv cannot be read: it does not exist",
        ),
        (nothing, "ftp2://holiday/photos", "unknown scheme, ftp2://"),
        (no_access, PHOTOS, "the folder s3://holiday/photos cannot be read: AccessDenied"),
        (no_access_to_any_image, PHOTOS, "none of the 24 files of photos can be used"),
        (no_credentials, PHOTOS, "Unable to locate credentials"),
        (nobody_listens, PHOTOS, "Could not connect to the endpoint"),
        (nobody_answers, PHOTOS, "Read timeout"),
        (no_package, "gs://holiday/photos", "pip install 'gcsfs"),
    ],
    ids=lambda value: getattr(value, "__name__", "")[:30],
)
def test_what_goes_wrong_is_said_in_one_message(bucket, run, monkeypatch, trouble, source, told):
    held = trouble(bucket, monkeypatch)
    result = run("features", source, *SETTINGS)
    if held:
        held.close()
    assert result.exit_code == 1
    assert result.output.count("Error:") == 1
    assert told in result.output
    assert "Traceback" not in result.output


def test_users_settings_of_fsspec_go_before(server, monkeypatch):
    users = {"anon": True, "config_kwargs": {"read_timeout": 60}}
    monkeypatch.setitem(fsspec.config.conf, "s3", users)
    system = servers.file_system("s3://holiday")
    assert system.anon
    assert system.config_kwargs["read_timeout"] == 60
    assert system.config_kwargs["max_pool_connections"] == REQUESTS_AT_ONCE


def test_a_list_with_an_unknown_scheme_says_so(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\nftp2://x/1.png,a\nftp2://x/2.png,b\n")
    with pytest.raises(DataError, match="unknown scheme, ftp2://"):
        load_dataset(tmp_path / "list.csv")


@pytest.mark.parametrize("option", ["--cache", "--runs"])
def test_what_is_written_stays_on_this_machine(run, photos, option):
    result = run("classify", photos, option, "s3://holiday/cache")
    assert result.exit_code == 2
    assert "may be behind URLs" in result.output
    assert not Path("s3:").exists()


# Everything that comes after


def test_workers_read_from_the_bucket(bucket, photos, tmp_path):
    dataset = load_dataset(PHOTOS)
    with Cluster(workers=1) as cluster:
        there = extract(dataset, extractor=at(tmp_path / "there", cluster))
        here = extract(load_dataset(photos), extractor=at(tmp_path / "here"))
        assert there.rows().tobytes() == here.rows().tobytes()
        assert len(cluster.rates) == 1
        bucket.answers = {".png": "403 AccessDenied"}
        with pytest.raises(PipelineError, match=r"the worker .* cannot open s3://holiday.*Denied"):
            extract(dataset, extractor=at(tmp_path / "none", cluster))


def test_a_run_on_a_bucket_is_shown_and_predicts(bucket, photos, tmp_path, run):
    """Its page has the pictures, and keeps them without the server."""
    trained = run("classify", PHOTOS, *SETTINGS, "--head", "logistic", "--name", "first")
    assert trained.exit_code == 0, trained.output
    page = tmp_path / "runs" / "first" / "report.html"
    before = page.read_text()
    assert before.count("data:image/jpeg") > 0
    assert f'"{PHOTOS}/red/' in (tmp_path / "runs" / "first" / "examples.json").read_text()

    there, here = (
        {
            item["path"].removeprefix(f"{where}/"): item["probabilities"]
            for item in json.loads(run("predict", "runs/first", where, "--json").stdout)
        }
        for where in (PHOTOS, photos)
    )
    assert there == here
    assert len(there) == 24
    one = json.loads(run("predict", "runs/first", f"{PHOTOS}/red/000.png", "--json").stdout)
    assert [(item["path"], item["label"]) for item in one] == [(f"{PHOTOS}/red/000.png", "red")]

    bucket.answers = {".png": "404 NoSuchKey"}
    assert run("report", "runs/first").exit_code == 0
    assert page.read_text() == before


def test_pictures_for_a_page_do_not_wait_for_a_dead_server_each(server, tmp_path, monkeypatch):
    nobody_listens(server, monkeypatch)
    asked = []
    real = servers.file_system
    counting = lambda place: asked.append(place) or real(place)  # noqa: E731
    counting.cache_clear = real.cache_clear
    monkeypatch.setattr(servers, "file_system", counting)
    paths = tuple(PHOTOS / f"{number}.png" for number in range(120))
    imitate(tmp_path / "mine", skill=0.3, paths=paths)
    kept = json.loads((tmp_path / "mine" / "pictures.json").read_text())
    assert len(kept["missing"]) > 10
    assert all("Could not connect" in reason for reason in kept["missing"].values())
    assert kept["images"] == {}
    assert len(asked) == 1


def test_what_all_urls_begin_with_is_not_repeated():
    assert common_folder([f"{PHOTOS}/blue/1.png", f"{PHOTOS}/black/2.png"]) == f"{PHOTOS}/"


def test_folders_behind_urls_are_searched_for_images(bucket):
    bucket.put("holiday", "photos/red/notes.txt", b"text")
    bucket.put("holiday", "photos/.hidden/1.png", b"text")
    found, skipped = list_images([PHOTOS / "red", "s3://holiday/photos/blue/000.png", "here.png"])
    assert len(found) == 14
    assert [bad.path for bad in skipped] == [PHOTOS / "red/notes.txt"]
    assert found[12:] == ["s3://holiday/photos/blue/000.png", Path("here.png")]
    assert list_images([PHOTOS / "red/nothing"]) == ([PHOTOS / "red/nothing"], [])


def test_files_behind_urls_without_a_listing_are_always_read(bucket, tmp_path):
    paths = [PHOTOS / "red/000.png", PHOTOS / "red/001.png"]
    for _ in range(2):
        memory = Digests(tmp_path)
        digest_files(paths, memory)
        memory.save(PHOTOS, paths)
    assert len(bucket.asked("GET")) == 4
