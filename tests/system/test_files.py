"""Files are written whole or not at all."""

import os
import stat

import pytest

from pipeline.errors import DataError
from pipeline.system.files import file_errors, make_folder, write_file


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


def test_a_name_may_be_as_long_as_the_file_system_has_it(tmp_path):
    assert write_file(tmp_path / ("x" * 255), b"1").read_bytes() == b"1"


def test_folders_are_made_with_their_parents_or_are_there_already(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_an_error_of_the_file_system_says_what_could_not_be_done(tmp_path):
    with (
        pytest.raises(DataError, match=r"(?s)^cannot write it: Is a directory\..*To do: choose"),
        file_errors("write it", DataError, fix="choose another name"),
    ):
        tmp_path.write_bytes(b"")
