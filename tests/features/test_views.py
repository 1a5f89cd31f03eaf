"""Seeded augmentations of images: which have them, and where their rows lie."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from conftest import CountingBackbone, Hears, no_network, paint, some_views, views_store

from pipeline.backbones.registry import make_recipe
from pipeline.data.augmentation import PRESETS
from pipeline.data.images import decode
from pipeline.data.loading import load_dataset
from pipeline.data.views import apply, draw
from pipeline.errors import DataError, PipelineError, StoreError
from pipeline.features import shard as shard_module
from pipeline.features.views import Views


@pytest.fixture(params=["vgg16", "efficientnet-lite0"])
def recipe(request):
    return make_recipe(request.param, size=64, precision="float32")


def listed_again(folder, dataset):
    """List images again, in the splits that they had; of new ones, every other is to learn from."""
    split_of = dict(zip(dataset.digests, dataset.splits, strict=True))
    others = itertools.cycle(["train", "test"])
    found = load_dataset(folder)
    return replace(found, splits=np.array([split_of.get(d) or next(others) for d in found.digests]))


def test_views_lie_in_a_store_of_their_own_and_the_images_themselves_in_the_plain_one(
    extracted, dataset, backbone, recipe, tmp_path
):
    plain = extracted(dataset)
    rows = plain.rows()
    shards = {path: path.read_bytes() for path in plain.store.folder.iterdir()}
    done = extracted(dataset, views=some_views(3))
    assert (done.made, backbone.images) == (50, 90)
    assert done.store.recipe == recipe
    assert views_store(done.plan).recipe == replace(recipe, augmentation=PRESETS["mild"].name)
    stores = {done.store.folder, views_store(done.plan).folder}
    assert set((tmp_path / "cache").glob("*/")) == stores
    assert len(stores) == 2
    assert {path: path.read_bytes() for path in plain.store.folder.glob("*.h5")} == {
        path: content for path, content in shards.items() if path.suffix == ".h5"
    }
    assert np.array_equal(done.rows(), rows)
    assert len(views_store(done.plan)) == 50
    for place, digest in enumerate(dataset.digests):
        views = (1, 2) if dataset.splits[place] == "train" else ()
        assert [view for view in range(5) if (digest, view) in views_store(done.plan)] == [*views]
    assert extracted(dataset, views=some_views(3)).made == 0


def test_a_views_row_is_that_of_the_decoded_picture_warped_as_drawn_from_its_digest(
    extracted, dataset, recipe
):
    views = some_views(3, "recipe,brightness=0.2")
    done = extracted(dataset, views=views)
    forward = CountingBackbone(recipe)
    places = dataset.where("train").tolist()
    for view in (1, 2):
        for place, row in zip(places, done.rows(view, places), strict=True):
            digest = dataset.digests[place]
            picture = decode(dataset.paths[place].read_bytes(), recipe.size)
            warped = apply(picture, draw(views.augmentation, digest, view))
            assert np.array_equal(row, forward(warped[None])[0])
    assert not np.array_equal(done.rows(1, places), done.rows(2, places))
    assert not np.array_equal(done.rows(1, places), done.rows(0, places))


def test_asking_for_more_views_later_makes_only_the_new_ones(extracted, dataset, backbone):
    two = extracted(dataset, views=some_views(2))
    assert two.made == 40 + 25
    places = dataset.where("train").tolist()
    first = two.rows(1, places)
    four = extracted(dataset, views=some_views(4))
    assert (four.made, backbone.images) == (2 * 25, 40 + 3 * 25)
    assert np.array_equal(four.rows(1, places), first)
    assert extracted(dataset, views=some_views(2), forward=no_network).made == 0


def test_another_augmentation_makes_its_views_and_no_image_itself_again(
    extracted, dataset, backbone
):
    mild = extracted(dataset, views=some_views(2))
    other = extracted(dataset, views=some_views(2, "mild,rotation=4"))
    assert (other.made, backbone.images) == (25, 40 + 25 + 25)
    assert other.store.folder == mild.store.folder
    assert views_store(other.plan).folder != views_store(mild.plan).folder
    places = dataset.where("train").tolist()
    assert not np.array_equal(other.rows(1, places), mild.rows(1, places))


def test_validation_and_test_images_have_views_only_where_that_is_asked_for(extracted, dataset):
    some = extracted(dataset, views=some_views(3))
    others = dataset.where("validation", "test").tolist()
    assert len(some.rows(1)) == 40 - 15
    with pytest.raises(StoreError, match="15 of the rows asked for"):
        some.rows(1, range(40))
    every = extracted(dataset, views=some_views(3, everywhere=True))
    assert every.made == 2 * 15
    assert len(every.rows(1)) == len(every.rows(2)) == 40
    assert not np.array_equal(every.rows(1, others), every.rows(0, others))


def test_moving_renaming_relabelling_and_copying_images_makes_no_view_again(
    extracted, photos, dataset, backbone, tmp_path
):
    first = extracted(dataset, views=some_views(3))
    row_of = dict(zip(dataset.digests, first.rows(), strict=True))
    moved = photos.rename(tmp_path / "moved")
    (moved / "red").rename(moved / "rouge")
    (moved / "blue" / "000.png").rename(moved / "rouge" / "was blue.png")
    (moved / "rouge" / "copy.png").write_bytes((moved / "rouge" / "001.png").read_bytes())
    again = extracted(listed_again(moved, dataset), views=some_views(3))
    assert (again.made, backbone.images) == (0, 40 + 50)
    assert len(again.dataset) == 41
    for digest, row in zip(again.dataset.digests, again.rows(), strict=True):
        assert np.array_equal(row, row_of[digest])
    assert len(again.rows(2, again.dataset.where("train").tolist())) == 26


def test_images_with_the_same_bytes_share_their_views(
    extracted, photos, dataset, extractor, backbone
):
    for number in (0, 2, 4):
        copy = (photos / "red" / f"00{number}.png").read_bytes()
        (photos / "red" / f"copy {number}.png").write_bytes(copy)
    more = listed_again(photos, dataset)
    assert len(more.where("train")) > 25
    views = some_views(3)
    assert extractor.plan(more, [views]).missing == 90
    done = extracted(more, views=views)
    assert done.made == backbone.images == 90
    plan = extractor.plan(more, [some_views(4)])
    assert (plan.stored, plan.missing) == (90, 25)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("batches", [3, 6, 9])
def test_views_that_were_interrupted_go_on_where_they_were(
    extracted, dataset, extractor, recipe, tmp_path, batches
):
    views = some_views(4)
    whole = extracted(dataset, views=views, cache="one go")

    def stop(pixels):
        if len(interrupted.batches) == batches:
            raise KeyboardInterrupt
        return interrupted(pixels)

    interrupted = CountingBackbone(recipe)
    with pytest.raises(KeyboardInterrupt):
        extracted(dataset, views=views, cache="interrupted", forward=stop)
    stopped = replace(extractor, cache=tmp_path / "interrupted").plan(dataset, [views])
    assert stopped.stored == interrupted.images > 0
    # The images themselves are made first; then their views, image by image.
    if len(views_store(stopped)):
        assert len(stopped.store) == 40
    for digest in dataset.digests:
        assert sum((digest, view) in views_store(stopped) for view in (1, 2, 3)) in (0, 3)
    resumed = extracted(dataset, views=views, cache="interrupted")
    assert resumed.made == stopped.missing == 40 + 3 * 25 - stopped.stored
    places = dataset.where("train").tolist()
    assert np.array_equal(resumed.rows(), whole.rows())
    for view in (1, 2, 3):
        assert np.array_equal(resumed.rows(view, places), whole.rows(view, places))


def test_no_batch_is_larger_than_memory_is_meant_for_however_many_views_an_image_has(
    extracted, dataset, backbone, set_batches
):
    views = some_views(6)
    whole = extracted(dataset, views=views, cache="large batches")
    assert max(backbone.batches) == 125
    del backbone.batches[:]
    set_batches(3)
    parts = extracted(dataset, views=views)
    assert max(backbone.batches) == 3
    assert parts.made == backbone.images == 40 + 5 * 25
    places = dataset.where("train").tolist()
    for view in range(6):
        assert np.array_equal(parts.rows(view, places), whole.rows(view, places))


@pytest.mark.usefixtures("small_batches")
def test_unreadable_images_cost_no_other_its_views_and_are_listed_once(
    extracted, photos, dataset, backbone
):
    good = (photos / "red" / "000.png").read_bytes()
    for number in range(6):
        (photos / "red" / f"cut {number}.png").write_bytes(good[: -200 - number])
    more = listed_again(photos, dataset)
    assert (len(more.where("train")), len(more.where("test"))) == (28, 13)
    seen = []
    heard = Hears(rows_made=lambda *how: seen.append(how))
    done = extracted(more, views=some_views(3), listener=heard)
    assert sorted(bad.path.name for bad in done.dataset.quarantined) == [
        f"cut {number}.png" for number in range(6)
    ]
    assert len(done.dataset) == len(done.rows()) == 40
    assert len(done.rows(2, done.dataset.where("train").tolist())) == 25
    assert done.made == backbone.images == 90
    # What cannot be made is done with, too: progress comes to its end.
    totals = {total for _, total in seen}
    counts = [count for count, _ in seen]
    assert totals == {46 + 2 * 28}
    assert counts == sorted(counts)
    assert counts[-1] == totals.pop()
    with pytest.raises(DataError, match=r"(?s)cut \d\.png: truncated.*--strict"):
        extracted(more, views=some_views(3), strict=True)


def test_an_image_that_changes_before_its_views_are_made_is_left_out_and_listed_once(
    extracted, dataset, backbone
):
    extracted(dataset)
    place = dataset.where("train")[3]
    paint(dataset.paths[place], (0, 0, 0), seed=97)
    done = extracted(dataset, views=some_views(3))
    assert [bad.path for bad in done.dataset.quarantined] == [dataset.paths[place]]
    assert "changed while" in done.dataset.quarantined[0].reason
    assert dataset.digests[place] not in done.dataset.digests
    assert len(done.rows()) == 39
    assert done.made == len(views_store(done.plan)) == 2 * 24


def test_a_damaged_shard_of_views_is_made_again_and_nothing_else(
    extracted, dataset, backbone, monkeypatch
):
    monkeypatch.setattr(shard_module, "ROWS_PER_SHARD", 10)
    views = some_views(3)
    first = extracted(dataset, views=views)
    places = dataset.where("train").tolist()
    before = [first.rows(view, places) for view in (1, 2)]
    shards = sorted(views_store(first.plan).folder.glob("*.h5"))
    assert len(shards) == 5
    image = bytearray(shards[2].read_bytes())
    image[len(image) // 2] ^= 1
    shards[2].write_bytes(image)
    again = extracted(dataset, views=views)
    assert (again.made, backbone.images) == (10, 100)
    assert [bad.name for bad in views_store(again.plan).damaged] == [shards[2].name]
    assert again.store.damaged == []
    assert sorted(views_store(again.plan).folder.glob("*.h5")) == shards
    for view in (1, 2):
        assert np.array_equal(again.rows(view, places), before[view - 1])


@pytest.mark.parametrize("count", [-1, 0, 65_536, 70_000])
def test_a_number_of_views_that_cannot_be_is_refused(count):
    with pytest.raises(PipelineError, match=rf"(?s){count} views.*1 to 65535"):
        some_views(count)


def test_views_that_would_all_be_the_same_are_refused():
    with pytest.raises(PipelineError, match="2 views without augmentation would all be the same"):
        some_views(2, "none")
    assert some_views(1, "none") == Views()
