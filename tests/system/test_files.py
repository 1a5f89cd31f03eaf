"""Files are written whole or not at all."""

import contextlib
import os
import socket
import stat
import tempfile
import time

import pytest

from pipeline.errors import DataError
from pipeline.system.files import (
    clear_unfinished,
    file_errors,
    make_folder,
    only_one,
    open_regular,
    publish,
    read_regular,
    write_file,
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\0\xff", b"\0\xff"),
        ("é\n", b"\xc3\xa9\n"),
        (lambda file: (file.write(b"12345"), file.seek(0), file.write(b"0")), b"02345"),
    ],
)
@pytest.mark.parametrize("sync_folder", [False, True])
def test_bytes_text_or_what_a_function_writes_take_the_place_of_the_old(
    tmp_path, content, expected, sync_folder
):
    file = tmp_path / "name"
    file.write_bytes(b"old and longer")
    assert write_file(file, content, sync_folder=sync_folder) == file
    assert file.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_could_not_be_written_to_its_end_leaves_the_old_one(tmp_path, error):
    file = tmp_path / "name"
    file.write_bytes(b"old")

    def fail(stream):
        stream.write(b"new")
        raise error

    with pytest.raises(type(error)):
        write_file(file, fail)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_permissions_are_those_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        file = write_file(tmp_path / "name", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_the_first_of_several_writers_wins_where_nothing_is_to_be_replaced(tmp_path):
    file = write_file(tmp_path / "name", "first", replace=False)
    with pytest.raises(FileExistsError):
        write_file(file, "second", replace=False)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "link", "third", replace=False)
    assert file.read_bytes() == b"first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "name"]


@pytest.mark.parametrize("made", ["file", "folder"])
@pytest.mark.parametrize("there", ["nothing", "file", "link", "empty folder", "folder"])
def test_what_is_published_takes_no_name_that_anything_has(tmp_path, made, there):
    new, target = tmp_path / "new", tmp_path / "target"
    if made == "folder":
        (new / "in").mkdir(parents=True)
    ((new / "in" / "content") if made == "folder" else new).write_text("new")
    if "folder" in there:
        (target / "mine").mkdir(parents=True) if there == "folder" else target.mkdir()
    elif there == "link":
        target.symlink_to("nowhere")
    elif there == "file":
        target.write_text("old")
    if there == "nothing":
        publish(new, target)
        content = target / "in" / "content" if made == "folder" else target
        assert content.read_text() == "new"
        assert not new.exists()
        return
    before = target.lstat()
    with pytest.raises(FileExistsError):
        publish(new, target)
    after = target.lstat()
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)


def test_a_file_takes_the_place_of_a_link_and_not_of_what_it_leads_to(tmp_path):
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "name").symlink_to("target")
    write_file(tmp_path / "name", "text")
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "name").is_symlink()


def age(path, hours):
    times = path.stat().st_mtime - 3600 * hours
    os.utime(path, (times, times))


@pytest.mark.parametrize(
    ("hours", "alive", "stays"), [(0, False, True), (2, False, False), (2, True, True)]
)
def test_what_a_killed_writer_left_is_removed_when_nobody_can_be_using_it(
    tmp_path, hours, alive, stays, monkeypatch
):
    """A machine whose clock is ahead sees the file of a writer that lives as old."""
    monkeypatch.setattr(time, "time", lambda: 4e9)

    def write(stream):
        stream.write(b"half")
        stream.flush()
        (temporary,) = tmp_path.iterdir()
        if not alive:
            os.link(temporary, tmp_path / "left")  # as if the writer were dead
            raise OSError(5, "killed")
        age(temporary, hours)
        clear_unfinished(tmp_path)
        assert temporary.exists()

    with contextlib.suppress(OSError):
        write_file(tmp_path / "name", write)
    if alive:
        assert (tmp_path / "name").read_bytes() == b"half"
        return
    left = (tmp_path / "left").rename(tmp_path / ".pipeline-0.tmp")
    age(left, hours)
    clear_unfinished(tmp_path)
    assert left.exists() == stays


def test_a_file_that_gets_its_name_while_others_clear_up_is_not_made_again(tmp_path, monkeypatch):
    left = tmp_path / ".pipeline-0.tmp"
    left.touch()

    def published(**_):
        left.rename(tmp_path / "name")
        return real()

    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", published)
    clear_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_what_is_no_file_of_a_writer_of_ours_is_not_removed(tmp_path):
    (tmp_path / "target").touch()
    (tmp_path / ".other.tmp").touch()
    (tmp_path / ".pipeline-1.tmp").symlink_to("target")
    (tmp_path / ".pipeline-2.tmp").mkdir()
    os.mkfifo(tmp_path / ".pipeline-3.tmp")
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    before = sorted(tmp_path.iterdir())
    clear_unfinished(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_system_without_locks_is_written_all_the_same(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    write_file(tmp_path / "name", "text")
    with only_one(tmp_path / "lock"):
        pass
    stale = tmp_path / ".pipeline-1.tmp"
    stale.touch()
    clear_unfinished(tmp_path)
    assert stale.exists()
    age(stale, 2)
    clear_unfinished(tmp_path)
    assert not stale.exists()


def test_a_name_may_be_as_long_as_the_file_system_has_it(tmp_path):
    assert write_file(tmp_path / ("x" * 255), b"1").read_bytes() == b"1"


def test_folders_are_made_with_their_parents_or_are_there_already(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def special(kind, path):
    """Make something at a path that is no file, as /dev/null and /dev/stdout are none."""
    if kind == "link to a pipe":
        os.mkfifo(path.parent.with_name("pipe"))
        path.symlink_to(path.parent.with_name("pipe"))
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root makes devices")
    else:
        plant(kind, path, path)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link to a pipe"])
@pytest.mark.parametrize("replace", [True, False])
def test_no_file_takes_the_place_of_a_pipe_a_socket_or_a_device(tmp_path, kind, replace):
    file = tmp_path / "folder" / "name"
    file.parent.mkdir()
    special(kind, file)
    before = file.lstat()
    with pytest.raises(OSError, match=r"not a regular file|exists"):
        write_file(file, "text", replace=replace)
    after = file.lstat()
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert [path.name for path in file.parent.iterdir()] == ["name"]


def test_a_file_that_holds_other_bytes_than_those_to_replace_stays(tmp_path):
    file = tmp_path / "file"
    for content in (b"1 mine", b"2 mine", b""):
        write_file(file, content, over=b"mine")
    file.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="file is there already, and this command did not"):
        write_file(file, b"3 mine", over=b"mine")
    assert file.read_bytes() == b"precious"


def test_an_error_of_the_file_system_says_what_could_not_be_done(tmp_path):
    with (
        pytest.raises(DataError, match=r"(?s)^cannot write it: Is a directory\..*To do: choose"),
        file_errors("write it", DataError, fix="choose another name"),
    ):
        tmp_path.write_bytes(b"")


def plant(kind, path, target):
    """Put something at a path that is no regular file."""
    if kind == "link":
        path.symlink_to(target)
    elif kind == "dangling link":
        path.symlink_to(target.with_name("missing"))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder", "device", "socket"])
def test_nothing_but_a_regular_file_is_opened_and_nothing_is_waited_for(tmp_path, kind, write):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    plant(kind, tmp_path / "planted", target)
    with pytest.raises(OSError, match=r"regular file|directory"):
        open_regular(tmp_path / "planted", write=write)
    assert target.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["planted", "target"]


def test_a_file_opened_to_write_is_made_or_kept_as_it_is(tmp_path):
    for expected in (b"", b"12"):
        with open_regular(tmp_path / "file", write=True) as file:
            assert file.read() == expected
            file.write(b"12")


def test_a_link_is_followed_to_a_regular_file_where_that_is_asked_for(tmp_path):
    (tmp_path / "target").write_bytes(b"12")
    for name, target in (("link", "target"), ("device", "/dev/zero")):
        (tmp_path / name).symlink_to(target)
    assert read_regular(tmp_path / "link", 2, follow=True) == b"12"
    with pytest.raises(OSError, match="it has 2 bytes, more than 1"):
        read_regular(tmp_path / "link", 1, follow=True)
    with pytest.raises(OSError, match="not a regular file"):
        read_regular(tmp_path / "device", 2, follow=True)
