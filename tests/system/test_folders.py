"""Temporary folders: gone after their block, and gone after a kill once nobody uses them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.system.folders import temporary_folder

ROOT = Path(__file__).parents[2]


def age(folder, hours=2):
    before = time.time() - 3600 * hours
    os.utime(folder, (before, before))


def names(parent):
    return sorted(path.name for path in parent.iterdir())


def test_a_temporary_folder_is_gone_after_its_block(tmp_path):
    with contextlib.suppress(KeyboardInterrupt), temporary_folder(tmp_path, ".run-") as folder:
        (folder / "a").mkdir()
        (folder / "a" / "file").write_text("x")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_temporary_folder_that_was_renamed_stays(tmp_path):
    with temporary_folder(tmp_path, ".run-") as folder:
        (folder / "file").write_text("x")
        folder.rename(tmp_path / "mine")
    assert (tmp_path / "mine" / "file").read_text() == "x"


HOLDER = """
import sys
from pathlib import Path
from pipeline.system.folders import temporary_folder
with temporary_folder(Path(sys.argv[1]), ".run-") as folder:
    (folder / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start another process that works in a temporary folder, as old as if for two hours."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    folder = Path(process.stdout.readline().strip())
    age(folder)
    yield process, folder
    process.kill()
    process.communicate()


def test_a_folder_that_a_living_process_works_in_stays(tmp_path, holder):
    _, folder = holder
    with temporary_folder(tmp_path, ".run-"):
        pass
    assert (folder / "file").read_text() == "x"


def test_a_folder_that_a_killed_process_left_is_removed_by_the_next(tmp_path, holder):
    process, folder = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert folder.exists()
    with temporary_folder(tmp_path, ".run-"):
        assert not folder.exists()


@pytest.mark.parametrize("prefix", [".run-", ".export-"])
def test_only_old_folders_that_this_program_named_are_removed(tmp_path, prefix):
    def named(text):
        return f"{prefix}{text * 32}"

    for name in (named("0"), named("a"), f".other-{'a' * 32}", f"{prefix}settings"):
        (tmp_path / name).mkdir()
    for name in (f"{named('b')}0", named("g"), f"{prefix}{'c' * 31}", f"x{named('d')}"):
        (tmp_path / name).mkdir()
    (tmp_path / named("e")).write_text("a file")
    (tmp_path / named("f")).symlink_to(tmp_path / f"{prefix}settings")
    (tmp_path / f"{prefix}settings" / "mine").write_text("x")
    before = names(tmp_path)
    for path in tmp_path.iterdir():
        if path.name != named("0"):
            age(path)
    with temporary_folder(tmp_path, prefix):
        pass
    assert names(tmp_path) == [name for name in before if name != named("a")]
    assert (tmp_path / f"{prefix}settings" / "mine").exists()


def test_where_folders_cannot_be_locked_none_is_lost_and_work_goes_on(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("pipeline.system.files.fcntl.flock", no_locks)
    old = f".run-{'0' * 32}"
    (tmp_path / old).mkdir()
    age(tmp_path / old)
    with temporary_folder(tmp_path, ".run-") as folder:
        assert folder.is_dir()
    assert names(tmp_path) == [old]
