"""The command on machines that lack something: a stream, an encoding, memory, a package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import paint_classes

ROOT = Path(__file__).parents[2]


def start(*command, closed=(), code="", **environment):
    """Run a command in a process of its own, without some of its standard streams."""
    program = f"{code}\nimport sys\nsys.argv[1:1] = []\nfrom pipeline.cli.main import main\nmain()"
    redirections = "".join(f" {number}>&-" for number in closed)
    return subprocess.run(
        ["bash", "-c", f'exec "$@"{redirections}', "bash", sys.executable, "-c", program, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_rows_are_made_where_standard_streams_are_missing(tmp_path, photos, closed):
    done = start("features", photos, "--size", "32", "--cache", tmp_path / "cache", closed=closed)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "cache").glob("*/*.h5"))) == 1
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
    assert "Error: the package keras is not installed.\nTo do: pip install 'keras" in message
