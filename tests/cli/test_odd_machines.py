"""The command on machines that lack something: a stream, an encoding, memory, a package."""

import dataclasses
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import paint_classes
from typer.testing import CliRunner

from pipeline.cli.main import app

ROOT = Path(__file__).parents[2]


def start(*command, closed=(), end=">&-", code="", **environment):
    """Run a command in a process of its own, without some of its standard streams."""
    program = f"{code}\nimport sys\nsys.argv[1:1] = []\nfrom pipeline.cli.main import main\nmain()"
    redirections = "".join(f" {number}{end}" for number in closed)
    return subprocess.run(
        ["bash", "-c", f'exec "$@"{redirections}', "bash", sys.executable, "-c", program, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("end", [">&-", "</dev/null"], ids=["closed", "not writable"])
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_rows_are_made_where_standard_streams_are_missing(tmp_path, photos, closed, end):
    place = ["--size", "32", "--cache", tmp_path / "cache"]
    done = start("features", photos, *place, closed=closed, end=end)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "cache").glob("*block5_pool*/*.h5"))) == 1
    assert b"Traceback" not in done.stdout + done.stderr


def test_rows_are_made_in_a_program_without_streams(tmp_path, photos):
    """As with pythonw.exe: Python itself has none, and nobody calls `main`."""
    code = (
        "import sys\nsys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None\n"
        "from pipeline import FeatureExtractor\n"
        f"rows = FeatureExtractor(size=32, cache={str(tmp_path / 'cache')!r}).transform("
        f"[{str(photos / 'red' / '000.png')!r}])\n"
        "sys.exit(rows.shape != (1, 512))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0


def test_a_stream_in_memory_gets_the_output():
    code = (
        "import atexit, io, sys\nreal, sys.stdout = sys.stdout, io.StringIO()\n"
        "atexit.register(lambda: real.write('in memory: ' + sys.stdout.getvalue()))"
    )
    assert start("--version", code=code).stdout.startswith(b"in memory: pipeline ")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_that_an_output_cannot_encode_are_escaped(tmp_path, encoding):
    photos = paint_classes(tmp_path / "photos", 8)
    (photos / "red").rename(photos / "猫")
    (photos / "blue").rename(photos / "🐈")
    place = ["--size", "32", "--cache", tmp_path / "cache"]
    environment = {"PYTHONIOENCODING": encoding}
    run = start(
        "classify",
        photos,
        *place,
        "--head",
        "knn",
        "--runs",
        tmp_path,
        "--name",
        "r",
        **environment,
    )
    picture = photos / "猫" / "000.png"
    text = start("predict", tmp_path / "r", picture, *place[2:], **environment)
    table = start("predict", tmp_path / "r", picture, "--csv", *place[2:], **environment)
    json = start("predict", tmp_path / "r", picture, "--json", *place[2:], **environment)
    for done in (run, text, table, json):
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert ("猫" if encoding == "utf-8" else r"\u732b") in text.stdout.decode(encoding)
    assert "🐈" in table.stdout.decode()
    assert json.stdout.isascii()


@pytest.mark.parametrize("megabytes", [200, 400, 700, 1500, 2500])
def test_too_little_memory_is_one_clear_error(tmp_path, photos, megabytes):
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({megabytes << 20},) * 2)"
    done = start("features", photos, "--size", "32", "--cache", tmp_path / "cache", code=limit)
    if done.returncode:
        message = done.stderr.decode()
        assert "Traceback" not in message
        assert "Error: there is too little memory" in message


def test_a_package_that_is_not_installed_is_one_clear_error(tmp_path, photos):
    code = "import sys; sys.modules['keras'] = None"
    done = start("features", photos, "--size", "32", "--cache", tmp_path / "cache", code=code)
    message = done.stderr.decode()
    assert done.returncode == 1
    assert "Traceback" not in message
    assert re.search(
        r"Error: the package keras is not installed\.\nTo do: .*pip install 'keras", message
    )


@pytest.fixture(scope="module")
def no_locks(tmp_path_factory):
    """A library with which every lock of a file fails, as on some network file systems."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs a C compiler on Linux")
    library = tmp_path_factory.mktemp("no-locks") / "nolock.so"
    source = ROOT / "tests" / "nolock.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)}


def test_a_file_system_without_locks_is_no_error(tmp_path, photos, no_locks):
    place = ["--size", "32", "--cache", tmp_path / "cache"]
    rows = tmp_path / "rows.h5"
    assert start("features", photos, *place).returncode == 0  # from a machine that has locks
    for command in (
        ["features", photos, *place],
        ["cache", "verify", *place[2:]],
        ["cache", "export", photos, rows, *place],
        ["classify", rows, "--head", "knn", "--runs", tmp_path / "runs"],
        ["status", photos, *place, "--json"],
    ):
        done = start(*command, **no_locks)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reused"] == 40


def test_digests_are_remembered_on_a_file_system_without_locks(tmp_path, photos, no_locks):
    start("features", photos, "--size", "32", "--cache", tmp_path, **no_locks)
    with sqlite3.connect(tmp_path / "digests.sqlite") as database:
        assert database.execute("SELECT COUNT(*) FROM files").fetchone() == (40,)


@pytest.mark.parametrize("name", ["d" * 255, "é" * 127, "猫" * 85])
def test_a_data_set_may_have_the_longest_name(tmp_path, place, name):
    data = dataclasses.replace(place.data(), name=name)
    runs = [place.classify(data, ["knn"]) for _ in range(2)]
    assert [len(os.fsencode(run.folder.name)) <= 255 for run in runs] == [True, True]
    assert runs[0].folder.name == name
    assert runs[1].folder.name.endswith("-2")


LONG = "x" * 300


@pytest.mark.parametrize(
    "command",
    [
        ["classify", LONG],
        ["classify", "photos", "--head", "knn", "--name", LONG],
        ["features", "photos", "--cache", LONG],
        ["features", "photos", "--weights", f"{LONG}.h5"],
        ["predict", LONG, "photos"],
        ["report", LONG],
        ["cache", "verify", "--cache", LONG],
        ["cache", "export", "photos", f"{LONG}.h5"],
        ["augment", f"{LONG}.png"],
        ["status", LONG],
    ],
    ids=lambda command: " ".join(command).replace(LONG, "LONG"),
)
def test_a_name_that_is_too_long_is_one_clear_error(photos, monkeypatch, command):
    monkeypatch.chdir(photos.parent)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert result.stderr.count("Error: ") == 1
    assert isinstance(result.exception, SystemExit)


def test_warnings_of_libraries_are_told_in_plain_words_or_not_at_all(tmp_path):
    code = (
        "import warnings\n"
        "class ConvergenceWarning(UserWarning): pass\n"
        "def show(*_):\n"
        "    for _ in range(2): warnings.warn('lbfgs failed', ConvergenceWarning)\n"
        "    warnings.warn('`y` could represent a regression problem')\n"
        "import pipeline.data.loading as loading\n"
        "load = loading.load_dataset\n"
        "loading.load_dataset = lambda *a, **k: (show(), load(*a, **k))[1]\n"
    )
    done = start("features", tmp_path, code=code)
    assert b"before it had converged" in done.stderr
    assert done.stderr.count(b"converged") == 1
    assert b"regression" not in done.stderr


HUNG = """
import os, signal, sys
import numpy as np
from pipeline.cli.main import main
from pipeline.data import digests
from pipeline.features import computing

class Mean:
    def __init__(self, recipe, weights, beside=()):
        self.shape = recipe.shape
    def __call__(self, pixels):
        return np.full((len(pixels), *self.shape), pixels.mean(), np.float32)

def read_or_wait(path, *known):
    if path.name == "wait.png":
        print("it waits", flush=True)
        os.read(os.pipe()[0], 1)
    return read(path, *known)

signal.signal(signal.SIGINT, signal.default_int_handler)
read = digests.read_image
computing.load_backbone = Mean
computing.PIXELS_PER_BATCH = 4 * 32 * 32
{where}.read_image = read_or_wait
main()
"""


def stop_what_waits(where, number, *command):
    """Stop a command once it reads a file that never comes; return its exit code."""
    child = subprocess.Popen(
        [sys.executable, "-c", HUNG.format(where=where), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert child.stdout.readline() == "it waits\n"
        time.sleep(1)
        child.send_signal(number)
        before = time.monotonic()
        _, stderr = child.communicate(timeout=30)
    finally:
        child.kill()
    assert time.monotonic() - before < 5  # 1.2 s on a machine with nothing else to do
    assert "Traceback" not in stderr
    assert "kept: the same command goes on from there" in stderr
    return child.returncode


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
@pytest.mark.parametrize(
    ("where", "command"),
    [
        ("digests", "features"),
        ("digests", "classify"),
        ("digests", "problems"),
        ("digests", "status"),
        ("computing", "features"),
        ("computing", "classify"),
    ],
)
def test_a_file_system_that_never_answers_does_not_outlive_a_stop(
    tmp_path, monkeypatch, photos, where, command, number, code
):
    monkeypatch.chdir(tmp_path)
    last = max(photos.rglob("*.png"))
    last.rename(last.with_name("wait.png"))
    settings = ["--size", "32", "--precision", "float32"]
    more = {"features": ["--no-layers"], "classify": ["--pool", "flatten"]}.get(command, [])
    assert stop_what_waits(where, number, command, str(photos), *settings, *more) == code
    assert len(list(Path("cache").glob("*/*.h5"))) == (where == "computing")
