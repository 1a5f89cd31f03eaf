import hashlib
import itertools
import shutil
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CountingBackbone, Hears, no_network, paint, paint_classes
from hostile import hostile_images

from pipeline.data.augmentation import PRESETS, get_augmentation
from pipeline.data.images import decode
from pipeline.data.loading import load_dataset
from pipeline.data.views import apply, draw
from pipeline.errors import DataError, ImageError, PipelineError, StoreError
from pipeline.features import computing
from pipeline.features import shard as shard_module
from pipeline.features.extractor import Extractor, extract
from pipeline.features.views import Views


@pytest.fixture
def set_batches(monkeypatch, recipe):
    """Set how many images are computed at once."""

    def set_size(images):
        monkeypatch.setattr(computing, "PIXELS_PER_BATCH", images * recipe.size**2)

    return set_size


@pytest.fixture
def small_batches(set_batches):
    set_batches(7)


@pytest.fixture
def extractor(tmp_path, recipe, backbone):
    return Extractor(recipe, cache=tmp_path / "cache", forward=backbone)


@pytest.fixture
def run(tmp_path, extractor):
    def extract_here(dataset, views=None, cache="cache", listener=None, **settings):
        here = replace(extractor, cache=tmp_path / cache, **settings)
        return extract(dataset, views=views or Views(), extractor=here, listener=listener)

    return extract_here


def test_every_image_has_the_row_of_its_own_pixels(run, photos, recipe):
    dataset = load_dataset(photos)
    rows = run(dataset).rows()
    forward = CountingBackbone(recipe)
    for path, row in zip(dataset.paths, rows):
        assert np.array_equal(row, forward(decode(path.read_bytes(), recipe.size)[None])[0])


def test_a_second_run_makes_no_forward_pass_and_loads_no_network(run, photos, backbone):
    dataset = load_dataset(photos)
    assert run(dataset).made == 40
    assert backbone.images == 40
    assert run(dataset, forward=no_network).made == 0


def test_moving_renaming_relabelling_and_copying_images_makes_nothing_again(
    run, photos, backbone, tmp_path
):
    run(load_dataset(photos))
    moved = photos.rename(tmp_path / "moved")
    (moved / "red").rename(moved / "rouge")
    (moved / "blue" / "000.png").rename(moved / "rouge" / "was blue.png")
    (moved / "rouge" / "copy.png").write_bytes((moved / "rouge" / "001.png").read_bytes())
    extraction_again = run(load_dataset(moved))
    assert (extraction_again.made, backbone.images) == (0, 40)
    assert len(extraction_again.rows()) == 41


def test_one_changed_byte_makes_that_row_alone_again(run, photos, backbone):
    run(load_dataset(photos))
    paint(photos / "red" / "003.png", (180, 70, 70), seed=99)
    assert run(load_dataset(photos)).made == 1
    assert backbone.images == 41


def test_the_plan_tells_what_will_be_done_and_does_nothing(run, photos, extractor, tmp_path):
    dataset = load_dataset(photos)
    before = extractor.plan(dataset)
    assert (before.stored, before.missing) == (0, 40)
    assert not (tmp_path / "cache").exists()
    run(dataset)
    paint(photos / "red" / "new.png", (180, 70, 70), seed=98)
    after = extractor.plan(load_dataset(photos))
    assert (after.stored, after.missing) == (40, 1)


@pytest.mark.usefixtures("small_batches")
def test_rows_are_the_same_in_one_go_interrupted_in_another_order_and_other_batches(
    run, photos, recipe, set_batches
):
    dataset = load_dataset(photos)
    whole = run(dataset, cache="one go").rows()

    def stop_after_three_batches(pixels):
        if len(interrupted.batches) == 3:
            raise KeyboardInterrupt
        return interrupted(pixels)

    interrupted = CountingBackbone(recipe)
    with pytest.raises(KeyboardInterrupt):
        run(dataset, cache="interrupted", forward=stop_after_three_batches)
    resumed = run(dataset, cache="interrupted")
    assert interrupted.images == 21
    assert resumed.made == 19
    assert np.array_equal(resumed.rows(), whole)

    order = np.random.default_rng(5).permutation(len(dataset))
    shuffled = dataset.take(order)
    set_batches(11)
    assert np.array_equal(run(shuffled, cache="shuffled").rows(), whole[order])


@pytest.mark.usefixtures("small_batches")
def test_decoding_goes_on_while_the_network_computes(run, photos, recipe, monkeypatch):
    decoded = 0
    several_batches = threading.Event()
    forward = CountingBackbone(recipe)

    def counting_decode(*args, **kwargs):
        nonlocal decoded
        decoded += 1
        if decoded >= 3 * 7:
            several_batches.set()
        return decode(*args, **kwargs)

    def wait_for_decoding(pixels):
        if not forward.batches:
            assert several_batches.wait(timeout=30)
        return forward(pixels)

    monkeypatch.setattr(computing, "decode", counting_decode)
    run(load_dataset(photos), forward=wait_for_decoding)
    assert forward.images == 40


@pytest.mark.usefixtures("small_batches")
def test_images_decoded_ahead_are_few(run, photos, recipe, monkeypatch):
    """Memory does not grow with the number of images: decoding waits for the network."""
    decoded = 0
    ahead = []
    forward = CountingBackbone(recipe)

    def counting_decode(*args, **kwargs):
        nonlocal decoded
        decoded += 1
        return decode(*args, **kwargs)

    def note(pixels):
        rows = forward(pixels)
        ahead.append(decoded - forward.images)
        return rows

    monkeypatch.setattr(computing, "decode", counting_decode)
    paint_classes(photos, count=60)
    run(load_dataset(photos), forward=note)
    assert max(ahead) <= 3 * 7


def test_a_bad_image_costs_nobody_else_and_is_listed_with_its_reason(run, photos, backbone):
    good = photos / "red" / "000.png"
    (photos / "red" / "cut.png").write_bytes(good.read_bytes()[:-200])
    (photos / "red" / "text.jpg").write_text("not an image")
    done = run(load_dataset(photos))
    reasons = {bad.path.name: bad.reason for bad in done.dataset.quarantined}
    assert reasons.keys() == {"cut.png", "text.jpg"}
    assert "truncated" in reasons["cut.png"]
    assert "not a known image format" in reasons["text.jpg"]
    assert done.made == len(done.dataset) == len(done.rows()) == backbone.images == 40


def test_strict_makes_a_bad_image_fatal_and_keeps_what_was_done(run, photos, tmp_path):
    (photos / "red" / "text.jpg").write_text("not an image")
    with pytest.raises(DataError, match=r"(?s)text\.jpg: not a known image.*--strict"):
        run(load_dataset(photos), strict=True)
    (photos / "red" / "text.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"text\.jpg: 0 bytes"):
        run(load_dataset(photos), strict=True)


def test_an_image_that_changes_after_it_was_listed_is_not_stored_under_its_old_digest(
    run, photos, backbone
):
    dataset = load_dataset(photos)
    changed = paint(photos / "red" / "003.png", (0, 0, 0), seed=97)
    old = dict(zip(dataset.paths, dataset.digests))[changed]
    done = run(dataset)
    assert (old, 0) not in done.store
    assert [bad.path for bad in done.dataset.quarantined] == [changed]
    assert "changed while" in done.dataset.quarantined[0].reason
    again = run(load_dataset(photos))
    assert again.made == 1
    new = hashlib.sha256(changed.read_bytes()).digest()
    assert again.store.read([(new, 0)]).max() < 50  # the new, black picture


def test_files_made_to_harm_cost_their_neighbours_nothing(run, photos):
    for number, (name, content) in enumerate(hostile_images(seed=7, count=120)):
        folder = photos / ("red" if number % 2 else "blue")
        (folder / name).write_bytes(content)
    done = run(load_dataset(photos))
    kept = {path.relative_to(photos).as_posix() for path in done.dataset.paths}
    assert {f"{name}/{n:03}.png" for name in ("red", "blue") for n in range(20)} <= kept
    assert len(done.dataset) + len(done.dataset.quarantined) == 160
    assert len(done.rows()) == len(done.dataset)


def test_nothing_readable_is_an_error_that_names_files(run, tmp_path):
    for name in (f"{label}/{number}.png" for label in "ab" for number in range(9)):
        (tmp_path / "bad" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bad" / name).write_text(f"not an image {name}")
    with pytest.raises(DataError, match=r"(?s)none of the 18 files.*0\.png: not a known image"):
        run(load_dataset(tmp_path / "bad"))


@pytest.mark.usefixtures("small_batches")
def test_progress_counts_up_to_the_number_of_missing_rows(run, photos):
    seen = []
    run(load_dataset(photos), listener=Hears(rows_made=lambda *how: seen.append(how)))
    assert seen == [(n, 40) for n in (0, 7, 14, 21, 28, 35, 40)]


# --- views --------------------------------------------------------------------------------


def some_views(count, text="mild", *, everywhere=False):
    return Views(count=count, augmentation=get_augmentation(text), everywhere=everywhere)


@pytest.fixture
def dataset(photos):
    """40 images, of which 25 are to be learned from."""
    found = load_dataset(photos)
    pattern = ["train", "test", "train", "validation", "train", "train", "test", "train"]
    return replace(found, splits=np.resize(pattern, 40))


def views_store(plan):
    """The store of the views beyond view 0 of the plan's first augmentation."""
    return plan.store_of(plan.views[0])


def listed_again(folder, dataset):
    """List images again, in the splits that they had; of new ones, every other is to learn from."""
    split_of = dict(zip(dataset.digests, dataset.splits, strict=True))
    others = itertools.cycle(["train", "test"])
    found = load_dataset(folder)
    return replace(found, splits=np.array([split_of.get(d) or next(others) for d in found.digests]))


def test_views_lie_in_a_store_of_their_own_and_the_images_themselves_in_the_plain_one(
    run, dataset, backbone, recipe, tmp_path
):
    plain = run(dataset)
    rows = plain.rows()
    shards = {path: path.read_bytes() for path in plain.store.folder.iterdir()}
    done = run(dataset, views=some_views(3))
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
    assert run(dataset, views=some_views(3)).made == 0


def test_a_views_row_is_that_of_the_decoded_picture_warped_as_drawn_from_its_digest(
    run, dataset, recipe
):
    views = some_views(3, "recipe,brightness=0.2")
    done = run(dataset, views=views)
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


def test_asking_for_more_views_later_makes_only_the_new_ones(run, dataset, backbone):
    two = run(dataset, views=some_views(2))
    assert two.made == 40 + 25
    places = dataset.where("train").tolist()
    first = two.rows(1, places)
    four = run(dataset, views=some_views(4))
    assert (four.made, backbone.images) == (2 * 25, 40 + 3 * 25)
    assert np.array_equal(four.rows(1, places), first)
    assert run(dataset, views=some_views(2), forward=no_network).made == 0


def test_another_augmentation_makes_its_views_and_no_image_itself_again(run, dataset, backbone):
    mild = run(dataset, views=some_views(2))
    other = run(dataset, views=some_views(2, "mild,rotation=4"))
    assert (other.made, backbone.images) == (25, 40 + 25 + 25)
    assert other.store.folder == mild.store.folder
    assert views_store(other.plan).folder != views_store(mild.plan).folder
    places = dataset.where("train").tolist()
    assert not np.array_equal(other.rows(1, places), mild.rows(1, places))


def test_validation_and_test_images_have_views_only_where_that_is_asked_for(run, dataset):
    some = run(dataset, views=some_views(3))
    others = dataset.where("validation", "test").tolist()
    assert len(some.rows(1)) == 40 - 15
    with pytest.raises(StoreError, match="15 of the rows asked for"):
        some.rows(1, range(40))
    every = run(dataset, views=some_views(3, everywhere=True))
    assert every.made == 2 * 15
    assert len(every.rows(1)) == len(every.rows(2)) == 40
    assert not np.array_equal(every.rows(1, others), every.rows(0, others))


def test_moving_renaming_relabelling_and_copying_images_makes_no_view_again(
    run, photos, dataset, backbone, tmp_path
):
    first = run(dataset, views=some_views(3))
    row_of = dict(zip(dataset.digests, first.rows(), strict=True))
    moved = photos.rename(tmp_path / "moved")
    (moved / "red").rename(moved / "rouge")
    (moved / "blue" / "000.png").rename(moved / "rouge" / "was blue.png")
    (moved / "rouge" / "copy.png").write_bytes((moved / "rouge" / "001.png").read_bytes())
    again = run(listed_again(moved, dataset), views=some_views(3))
    assert (again.made, backbone.images) == (0, 40 + 50)
    assert len(again.dataset) == 41
    for digest, row in zip(again.dataset.digests, again.rows(), strict=True):
        assert np.array_equal(row, row_of[digest])
    assert len(again.rows(2, again.dataset.where("train").tolist())) == 26


def test_images_with_the_same_bytes_share_their_views(run, photos, dataset, extractor, backbone):
    for number in (0, 2, 4):
        copy = (photos / "red" / f"00{number}.png").read_bytes()
        (photos / "red" / f"copy {number}.png").write_bytes(copy)
    more = listed_again(photos, dataset)
    assert len(more.where("train")) > 25
    views = some_views(3)
    assert extractor.plan(more, [views]).missing == 90
    done = run(more, views=views)
    assert done.made == backbone.images == 90
    plan = extractor.plan(more, [some_views(4)])
    assert (plan.stored, plan.missing) == (90, 25)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("batches", [3, 6, 9])
def test_views_that_were_interrupted_go_on_where_they_were(
    run, dataset, extractor, recipe, tmp_path, batches
):
    views = some_views(4)
    whole = run(dataset, views=views, cache="one go")

    def stop(pixels):
        if len(interrupted.batches) == batches:
            raise KeyboardInterrupt
        return interrupted(pixels)

    interrupted = CountingBackbone(recipe)
    with pytest.raises(KeyboardInterrupt):
        run(dataset, views=views, cache="interrupted", forward=stop)
    stopped = replace(extractor, cache=tmp_path / "interrupted").plan(dataset, [views])
    assert stopped.stored == interrupted.images > 0
    # The images themselves are made first; then their views, image by image.
    if len(views_store(stopped)):
        assert len(stopped.store) == 40
    for digest in dataset.digests:
        assert sum((digest, view) in views_store(stopped) for view in (1, 2, 3)) in (0, 3)
    resumed = run(dataset, views=views, cache="interrupted")
    assert resumed.made == stopped.missing == 40 + 3 * 25 - stopped.stored
    places = dataset.where("train").tolist()
    assert np.array_equal(resumed.rows(), whole.rows())
    for view in (1, 2, 3):
        assert np.array_equal(resumed.rows(view, places), whole.rows(view, places))


def test_no_batch_is_larger_than_memory_is_meant_for_however_many_views_an_image_has(
    run, dataset, backbone, set_batches
):
    views = some_views(6)
    whole = run(dataset, views=views, cache="large batches")
    assert max(backbone.batches) == 125
    del backbone.batches[:]
    set_batches(3)
    parts = run(dataset, views=views)
    assert max(backbone.batches) == 3
    assert parts.made == backbone.images == 40 + 5 * 25
    places = dataset.where("train").tolist()
    for view in range(6):
        assert np.array_equal(parts.rows(view, places), whole.rows(view, places))


@pytest.mark.usefixtures("small_batches")
def test_unreadable_images_cost_no_other_its_views_and_are_listed_once(
    run, photos, dataset, backbone
):
    good = (photos / "red" / "000.png").read_bytes()
    for number in range(6):
        (photos / "red" / f"cut {number}.png").write_bytes(good[: -200 - number])
    more = listed_again(photos, dataset)
    assert (len(more.where("train")), len(more.where("test"))) == (28, 13)
    seen = []
    heard = Hears(rows_made=lambda *how: seen.append(how))
    done = run(more, views=some_views(3), listener=heard)
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
        run(more, views=some_views(3), strict=True)


def test_an_image_that_changes_before_its_views_are_made_is_left_out_and_listed_once(
    run, dataset, backbone
):
    run(dataset)
    place = dataset.where("train")[3]
    paint(dataset.paths[place], (0, 0, 0), seed=97)
    done = run(dataset, views=some_views(3))
    assert [bad.path for bad in done.dataset.quarantined] == [dataset.paths[place]]
    assert "changed while" in done.dataset.quarantined[0].reason
    assert dataset.digests[place] not in done.dataset.digests
    assert len(done.rows()) == 39
    assert done.made == len(views_store(done.plan)) == 2 * 24


def test_a_damaged_shard_of_views_is_made_again_and_nothing_else(
    run, dataset, backbone, monkeypatch
):
    monkeypatch.setattr(shard_module, "ROWS_PER_SHARD", 10)
    views = some_views(3)
    first = run(dataset, views=views)
    places = dataset.where("train").tolist()
    before = [first.rows(view, places) for view in (1, 2)]
    shards = sorted(views_store(first.plan).folder.glob("*.h5"))
    assert len(shards) == 5
    image = bytearray(shards[2].read_bytes())
    image[len(image) // 2] ^= 1
    shards[2].write_bytes(image)
    again = run(dataset, views=views)
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


# --- the plan, and space ------------------------------------------------------------------


def test_the_plan_for_views_counts_what_is_stored_and_measures_what_a_row_takes(
    run, dataset, extractor, tmp_path
):
    nothing = extractor.plan(dataset, [some_views(3)])
    assert (nothing.stored, nothing.missing) == (0, 40 + 50)
    row = 4 * 2 * 2 * 512 // 2  # nothing is known: half of the raw bytes
    assert (nothing.bytes_missing, nothing.bytes_per_image) == (90 * row, 3 * row)
    assert not (tmp_path / "cache").exists()
    run(dataset)
    half = extractor.plan(dataset, [some_views(3)])
    assert (half.stored, half.missing) == (40, 50)
    measured = half.store.size / 40
    assert 50 * measured <= half.bytes_missing < 50 * (measured + 1)
    assert half.bytes_per_image == pytest.approx(3 * measured, abs=3)
    run(dataset, views=some_views(3))
    done = extractor.plan(dataset, [some_views(4, everywhere=True)])
    assert (done.stored, done.missing) == (40 + 50, 25 + 3 * 15)
    of_views = views_store(done).size / 50
    assert done.missing * of_views <= done.bytes_missing < done.missing * (of_views + 1)


def test_several_augmentations_are_planned_and_made_with_view_0_counted_once(
    run, dataset, extractor, backbone
):
    views = [some_views(2, text) for text in ("mild", "recipe", "rotation=5")]
    assert extractor.plan(dataset, views).missing == 40 + 3 * 25
    done = run(dataset, views)
    assert done.made == backbone.images == 40 + 3 * 25
    places = dataset.where("train").tolist()
    rows = [done.rows(1, places, views=some).tobytes() for some in views]
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
    run, dataset, backbone, tmp_path, monkeypatch
):
    asked = disk(monkeypatch, free=300_000)
    with pytest.raises(StoreError) as error:
        run(dataset, views=some_views(3))
    # 90 rows of 4,096 bytes.
    assert "90 missing rows need about 0.4 MB; 0.3 MB are free" in str(error.value)
    assert "--views" in str(error.value)
    assert backbone.images == 0
    assert not (tmp_path / "cache").exists()
    assert set(asked) == {tmp_path}
    assert run(dataset).made == 40  # which fit
    disk(monkeypatch, free=0)
    assert run(dataset).made == 0


def test_space_for_one_augmentation_and_not_for_two_is_too_little(
    run, dataset, extractor, backbone, monkeypatch
):
    views = [some_views(2), some_views(2, "recipe")]
    disk(monkeypatch, free=extractor.plan(dataset, views[:1]).bytes_missing)
    with pytest.raises(StoreError, match="the 90 missing rows need about"):
        run(dataset, views)
    assert backbone.images == 0
    assert run(dataset, views[:1]).made == 65


@pytest.mark.parametrize("silence", ["0 of 0", "an error"])
def test_a_disk_that_does_not_tell_its_space_is_tried(
    run, dataset, extractor, monkeypatch, silence
):
    def fail(folder):
        raise OSError(38, "Function not implemented")

    if silence == "an error":
        monkeypatch.setattr(shutil, "disk_usage", fail)
    else:
        disk(monkeypatch, free=0, total=0)
    assert extractor.plan(dataset).free is None
    assert run(dataset, views=some_views(2)).made == 65


# --- files without labels ------------------------------------------------------------------


def test_files_have_their_cached_rows_or_are_computed_in_their_order_and_bad_ones_are_told(
    run, extractor, backbone, dataset, photos, tmp_path
):
    views = some_views(3)
    done = run(dataset, views)
    stored = dataset.where("train")[:3].tolist()
    bad = tmp_path / "bad.png"
    bad.write_text("not an image")
    new = [paint(tmp_path / f"{seed}.png", (180, 70, 70), seed) for seed in (98, 99)]
    files = [dataset.paths[place] for place in stored]
    files[1:1] = [bad, new[0], tmp_path / "absent.png"]
    files.append(new[1])
    backbone.batches.clear()
    outcomes = list(extractor.rows_of_files(files, views))
    assert [file for file, _ in outcomes] == files
    rows = dict(outcomes)
    assert {file for file in files if isinstance(rows[file], ImageError)} == {files[1], files[3]}
    for place in stored:
        each = [done.rows(view, [place])[0] for view in range(3)]
        assert np.array_equal(rows[dataset.paths[place]], each)
    assert backbone.images == 2 * 3  # those that are new
    assert all(rows[file].shape == (3, 2, 2, 512) for file in new)
    known = [dataset.paths[place] for place in stored]
    assert len(list(replace(extractor, forward=no_network).rows_of_files(known, views))) == 3


def test_a_file_that_has_some_of_its_views_only_is_computed(run, extractor, dataset, backbone):
    run(dataset)
    expected = run(dataset, some_views(3), cache="other").rows(2)
    backbone.batches.clear()
    place = dataset.where("train")[0]
    [(_, rows)] = extractor.rows_of_files([dataset.paths[place]], some_views(3))
    assert backbone.images == 3
    assert np.array_equal(rows[2], expected[0])


def test_an_empty_cache_is_not_made_to_look_up_files(extractor, photos, tmp_path):
    files = sorted(photos.glob("*/*.png"))
    assert len(list(extractor.rows_of_files(files))) == 40
    assert not (tmp_path / "cache").exists()
