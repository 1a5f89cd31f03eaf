"""What is stored and what is missing; and whether there is space for it."""

import shutil
from types import SimpleNamespace

import pytest
from conftest import paint, some_views, views_store

from pipeline.data.loading import load_dataset
from pipeline.errors import StoreError


def test_the_plan_tells_what_will_be_done_and_does_nothing(extracted, photos, extractor, tmp_path):
    dataset = load_dataset(photos)
    before = extractor.plan(dataset)
    assert (before.stored, before.missing) == (0, 40)
    assert not (tmp_path / "cache").exists()
    extracted(dataset)
    paint(photos / "red" / "new.png", (180, 70, 70), seed=98)
    after = extractor.plan(load_dataset(photos))
    assert (after.stored, after.missing) == (40, 1)


def test_the_plan_for_views_counts_what_is_stored_and_measures_what_a_row_takes(
    extracted, dataset, extractor, tmp_path
):
    nothing = extractor.plan(dataset, [some_views(3)])
    assert (nothing.stored, nothing.missing) == (0, 40 + 50)
    row = 4 * 2 * 2 * 512 // 2  # nothing is known: half of the raw bytes
    assert (nothing.bytes_missing, nothing.bytes_per_image) == (90 * row, 3 * row)
    assert not (tmp_path / "cache").exists()
    extracted(dataset)
    half = extractor.plan(dataset, [some_views(3)])
    assert (half.stored, half.missing) == (40, 50)
    measured = half.store.size / 40
    assert 50 * measured <= half.bytes_missing < 50 * (measured + 1)
    assert half.bytes_per_image == pytest.approx(3 * measured, abs=3)
    extracted(dataset, views=some_views(3))
    done = extractor.plan(dataset, [some_views(4, everywhere=True)])
    assert (done.stored, done.missing) == (40 + 50, 25 + 3 * 15)
    of_views = views_store(done).size / 50
    assert done.missing * of_views <= done.bytes_missing < done.missing * (of_views + 1)


def test_several_augmentations_are_planned_and_made_with_view_0_counted_once(
    extracted, dataset, extractor, backbone
):
    views = [some_views(2, text) for text in ("mild", "textbook", "rotation=5")]
    assert extractor.plan(dataset, views).missing == 40 + 3 * 25
    done = extracted(dataset, views)
    assert done.made == backbone.images == 40 + 3 * 25
    keys = [(dataset.digests[place], 1) for place in dataset.where("train")]
    rows = [done.plan.store_of(some).read(keys).tobytes() for some in views]
    assert len(set(rows)) == 3
    assert extractor.plan(dataset, views).missing == 0


def disk(monkeypatch, free, total=10**12):
    asked = []

    def disk_usage(folder):
        asked.append(folder)
        return SimpleNamespace(free=free, total=total)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    return asked


def test_too_little_space_is_one_error_before_anything_is_computed(
    extracted, dataset, backbone, tmp_path, monkeypatch
):
    asked = disk(monkeypatch, free=300_000)
    with pytest.raises(StoreError) as error:
        extracted(dataset, views=some_views(3))
    # 90 rows of 4,096 bytes.
    assert "90 missing rows need about 0.4 MB; 0.3 MB are free" in str(error.value)
    assert "--views" in str(error.value)
    assert backbone.images == 0
    assert not (tmp_path / "cache").exists()
    assert set(asked) == {tmp_path}
    assert extracted(dataset).made == 40  # which fit
    disk(monkeypatch, free=0)
    assert extracted(dataset).made == 0


def test_space_for_one_augmentation_and_not_for_two_is_too_little(
    extracted, dataset, extractor, backbone, monkeypatch
):
    views = [some_views(2), some_views(2, "textbook")]
    disk(monkeypatch, free=extractor.plan(dataset, views[:1]).bytes_missing)
    with pytest.raises(StoreError, match="the 90 missing rows need about"):
        extracted(dataset, views)
    assert backbone.images == 0
    assert extracted(dataset, views[:1]).made == 65


@pytest.mark.parametrize("silence", ["0 of 0", "an error"])
def test_a_disk_that_does_not_tell_its_space_is_tried(
    extracted, dataset, extractor, monkeypatch, silence
):
    def fail(folder):
        raise OSError(38, "Function not implemented")

    if silence == "an error":
        monkeypatch.setattr(shutil, "disk_usage", fail)
    else:
        disk(monkeypatch, free=0, total=0)
    assert extractor.plan(dataset).free is None
    assert extracted(dataset, views=some_views(2)).made == 65
