"""Listing a data set again: what was read is remembered, whatever happened and wherever."""

from pathlib import Path

import pytest
from conftest import paint_classes

from pipeline.data import digests
from pipeline.data.loading import list_dataset, load_dataset
from pipeline.errors import DataError
from pipeline.system.files import open_regular


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_RESOLUTION_NS", 0)  # they were changed just now
    return paint_classes(tmp_path / "photos", 8)


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that were read, in order."""
    names = []

    def open_and_note(path, **options):
        names.append(path.name)
        return open_regular(path, **options)

    monkeypatch.setattr("pipeline.data.digests.open_regular", open_and_note)
    return names


def test_a_second_load_reads_no_file_again(photos, reads):
    first = load_dataset(photos)
    assert len(reads) == 16
    second = load_dataset(photos)
    assert len(reads) == 16
    assert second.digests == first.digests


def test_each_cache_folder_remembers_for_itself(photos, reads, tmp_path):
    load_dataset(photos, cache=tmp_path / "one")
    load_dataset(photos, cache=tmp_path / "other")
    assert len(reads) == 32
    load_dataset(photos, cache=str(tmp_path / "one"))
    assert len(reads) == 32
    assert not Path("cache").exists()


def test_what_was_read_before_ctrl_c_is_not_read_again(photos, reads, monkeypatch):
    real = digests.read_image

    def stop_at_the_last(path, digest=None):
        if path == photos / "red" / "007.png":
            raise KeyboardInterrupt
        return real(path, digest)

    with monkeypatch.context() as stopping:
        stopping.setattr(digests, "read_image", stop_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            load_dataset(photos)
    assert len(reads) == 15
    load_dataset(photos)
    assert reads[15:] == ["007.png"]


def test_what_was_read_of_data_that_cannot_be_learned_from_is_not_read_again(photos, reads):
    for path in sorted((photos / "red").iterdir())[1:]:
        path.unlink()
    for _ in range(2):
        with pytest.raises(DataError, match="too few images"):
            load_dataset(photos)
    assert len(list_dataset(photos)) == len(reads) == 9


@pytest.mark.parametrize("cache", ["file", "file/cache", "locked", "locked/cache"])
def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(photos, reads, cache):
    Path("file").touch()
    Path("locked").mkdir()
    Path("locked/digests.sqlite").mkdir()  # permissions would not stop root
    Path("locked/cache").symlink_to("/proc/version")
    for _ in range(2):
        assert len(load_dataset(photos, cache=cache)) == 16
    assert len(reads) == 32
    assert sorted(path.name for path in Path().iterdir()) == ["file", "locked"]
