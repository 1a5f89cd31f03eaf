import os
import sqlite3
import time
from pathlib import Path

import pytest

from pipeline.data import digests as module
from pipeline.data.digests import Digests, digest_files


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path):
    """Three files that were last changed a while ago."""
    names = ["a.png", "b c\n.png", os.fsdecode(b"\xff.png")]
    paths = [tmp_path / "photos" / name for name in names]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        path.write_bytes(b"picture %d" % number)
    return paths


@pytest.fixture
def long_ago(monkeypatch):
    """Let time pass: files were changed long before they are looked at."""
    real = module.time.time_ns
    monkeypatch.setattr(module.time, "time_ns", lambda: real() + 10**10)


@pytest.fixture
def reads(monkeypatch):
    """The files that were read, in order."""
    seen: list[Path] = []
    real = module.read_image
    monkeypatch.setattr(module, "read_image", lambda path: seen.append(path) or real(path))
    return seen


def digest_and_save(cache, files):
    remembered = Digests(cache)
    found = digest_files(files, remembered)
    remembered.save(files[0].parent, files)
    return found


@pytest.mark.usefixtures("long_ago")
def test_an_unchanged_file_is_not_read_again(cache, files, reads):
    first = digest_and_save(cache, files)
    assert sorted(reads) == sorted(files)
    reads.clear()
    assert digest_and_save(cache, files) == first == digest_files(files)
    assert sorted(reads) == sorted(files)  # by the last call, which remembers nothing


@pytest.mark.usefixtures("long_ago")
@pytest.mark.parametrize("change", ["bytes", "same size", "another file in its place", "old date"])
def test_a_changed_file_is_read_again(cache, files, reads, change):
    first = digest_and_save(cache, files)
    before = files[1].stat()
    if change == "bytes":
        files[1].write_bytes(b"something longer than before")
    elif change == "same size":
        files[1].write_bytes(b"PICTURE 1")
    elif change == "another file in its place":
        files[0].replace(files[1])
        files[0].write_bytes(b"picture 0")
    elif change == "old date":
        files[1].write_bytes(b"PICTURE 1")
        os.utime(files[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    reads.clear()
    second = digest_and_save(cache, files)
    assert files[1] in reads
    assert second[1] != first[1]
    assert second == digest_files(files)


def test_a_file_that_changed_just_before_it_was_read_is_not_trusted(
    cache, files, reads, monkeypatch
):
    """It could change again, within the time resolution of its file system, and look the same."""
    frozen = files[1].stat()
    digest_and_save(cache, files)
    files[1].write_bytes(b"PICTURE 1")

    real = os.stat

    def looks_the_same(path, **options):
        return frozen if path == files[1] else real(path, **options)

    reads.clear()
    with monkeypatch.context() as frozen_in_time:
        frozen_in_time.setattr(module.os, "stat", looks_the_same)
        again = digest_and_save(cache, files)
    assert files[1] in reads
    assert again == digest_files(files)


@pytest.mark.usefixtures("long_ago")
@pytest.mark.parametrize(
    "damage", ["text", "cut", "another table", "flipped digest", "a number", "a folder"]
)
def test_a_damaged_memory_costs_time_and_nothing_else(cache, files, damage):
    first = digest_and_save(cache, files)
    memory = cache / "digests.sqlite"
    if damage == "text":
        memory.write_text("not a database " * 100)
    elif damage == "cut":
        memory.write_bytes(memory.read_bytes()[:5000])
    elif damage == "a folder":
        memory.unlink()
        memory.mkdir()
    else:
        with sqlite3.connect(memory) as database:
            if damage == "another table":
                database.execute("ALTER TABLE files RENAME TO other")
            elif damage == "a number":  # one flipped bit makes it of a text
                database.execute("UPDATE files SET looks = 7")
            else:
                database.execute("UPDATE files SET digest = zeroblob(32)")
    assert digest_and_save(cache, files) == first
    assert digest_and_save(cache, files) == first


@pytest.mark.usefixtures("long_ago")
def test_a_memory_that_somebody_has_locked_is_read_without_waiting(cache, files):
    digest_and_save(cache, files)
    with sqlite3.connect(cache / "digests.sqlite") as other:
        other.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        with Digests(cache) as memory:
            assert [memory.recall(path) for path in files] == digest_files(files)
        assert time.monotonic() - begun < 3
        other.rollback()


@pytest.mark.parametrize("kind", ["link to a database", "link to text", "link to nothing", "pipe"])
def test_what_was_planted_in_place_of_the_memory_is_neither_read_nor_changed(
    cache, files, tmp_path, kind
):
    cache.mkdir()
    precious = tmp_path / "precious"
    if kind == "link to a database":
        with Digests(tmp_path / "other") as memory:
            digest_files(files, memory)
            memory.save("elsewhere", files)
        precious = tmp_path / "other" / "digests.sqlite"
    elif kind == "link to text":
        precious.write_text("mine")
    planted = cache / "digests.sqlite"
    os.mkfifo(planted) if kind == "pipe" else planted.symlink_to(precious)
    before = precious.read_bytes() if precious.exists() else None
    with Digests(cache) as memory:
        assert memory.recall(files[0]) is None
        assert list(memory.paths_of("elsewhere")) == []
        assert len(digest_files(files, memory)) == 3
        memory.save("photos", files)
    assert (precious.read_bytes() if precious.exists() else None) == before
    assert not planted.is_file() or planted.is_symlink()


def test_what_a_source_listed_last_is_remembered_and_replaced(cache, files):
    digest_and_save(cache, files)
    source = files[0].parent
    assert set(Digests(cache).paths_of(source)) == set(map(str, files))
    remembered = Digests(cache)
    old = remembered.last(files[0])
    files[0].write_bytes(b"changed")
    assert remembered.last(files[0]) == old == Digests(cache).last(files[0])
    assert remembered.recall(files[0]) is None
    remembered.save(source, files[1:])
    assert set(Digests(cache).paths_of(source)) == set(map(str, files[1:]))
    assert Digests(cache).last(files[0]) is None


def test_nothing_is_written_before_it_is_saved(cache, files):
    digest_files(files, Digests(cache))
    assert not cache.exists()


def test_unreadable_files_are_told_from_readable_ones(cache, files, tmp_path):
    files[1].write_bytes(b"")
    found = digest_files([*files, tmp_path / "absent.png"], Digests(cache))
    assert [str(item) if isinstance(item, Exception) else len(item) for item in found] == [
        32,
        "0 bytes",
        32,
        "cannot be read: No such file or directory",
    ]
