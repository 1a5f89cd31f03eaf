"""Every image becomes its row, whatever happens on the way."""

import hashlib
import threading
from dataclasses import replace

import numpy as np
import pytest
from conftest import CountingBackbone, Hears, no_network, paint, paint_classes, some_views
from hostile import hostile_images
from PIL import Image

from pipeline.backbones.registry import make_recipe
from pipeline.data import digests
from pipeline.data.images import decode
from pipeline.data.loading import load_dataset
from pipeline.errors import DataError, ImageError
from pipeline.features.listener import Listener
from pipeline.features.status import status
from pipeline.features.store import FeatureStore


def test_every_image_has_the_row_of_its_own_pixels(extracted, photos, recipe):
    dataset = load_dataset(photos)
    rows = extracted(dataset).rows()
    forward = CountingBackbone(recipe)
    for path, row in zip(dataset.paths, rows):
        assert np.array_equal(row, forward(decode(path.read_bytes(), recipe.size)[None])[0])


def test_a_second_run_makes_no_forward_pass_and_loads_no_network(extracted, photos, backbone):
    dataset = load_dataset(photos)
    assert extracted(dataset).made == 40
    assert backbone.images == 40
    assert extracted(dataset, forward=no_network).made == 0


def test_moving_renaming_relabelling_and_copying_images_makes_nothing_again(
    extracted, photos, backbone, tmp_path
):
    extracted(load_dataset(photos))
    moved = photos.rename(tmp_path / "moved")
    (moved / "red").rename(moved / "rouge")
    (moved / "blue" / "000.png").rename(moved / "rouge" / "was blue.png")
    (moved / "rouge" / "copy.png").write_bytes((moved / "rouge" / "001.png").read_bytes())
    extraction_again = extracted(load_dataset(moved))
    assert (extraction_again.made, backbone.images) == (0, 40)
    assert len(extraction_again.rows()) == 41


def test_one_changed_byte_makes_that_row_alone_again(extracted, photos, backbone):
    extracted(load_dataset(photos))
    paint(photos / "red" / "003.png", (180, 70, 70), seed=99)
    assert extracted(load_dataset(photos)).made == 1
    assert backbone.images == 41


@pytest.mark.usefixtures("small_batches")
def test_rows_are_the_same_in_one_go_interrupted_in_another_order_and_other_batches(
    extracted, photos, recipe, set_batches
):
    dataset = load_dataset(photos)
    whole = extracted(dataset, cache="one go").rows()

    def stop_after_three_batches(pixels):
        if len(interrupted.batches) == 3:
            raise KeyboardInterrupt
        return interrupted(pixels)

    interrupted = CountingBackbone(recipe)
    with pytest.raises(KeyboardInterrupt):
        extracted(dataset, cache="interrupted", forward=stop_after_three_batches)
    resumed = extracted(dataset, cache="interrupted")
    assert interrupted.images == 21
    assert resumed.made == 19
    assert np.array_equal(resumed.rows(), whole)

    order = np.random.default_rng(5).permutation(len(dataset))
    shuffled = dataset.take(order)
    set_batches(11)
    assert np.array_equal(extracted(shuffled, cache="shuffled").rows(), whole[order])


@pytest.mark.usefixtures("small_batches")
def test_decoding_goes_on_while_the_network_computes(extracted, photos, recipe, monkeypatch):
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

    monkeypatch.setattr("pipeline.backbones.recipe.decode", counting_decode)
    extracted(load_dataset(photos), forward=wait_for_decoding)
    assert forward.images == 40


@pytest.mark.usefixtures("small_batches")
def test_images_decoded_ahead_are_few(extracted, photos, recipe, monkeypatch):
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

    monkeypatch.setattr("pipeline.backbones.recipe.decode", counting_decode)
    paint_classes(photos, count=60)
    extracted(load_dataset(photos), forward=note)
    assert max(ahead) <= 3 * 7


def test_a_bad_image_costs_nobody_else_and_is_listed_with_its_reason(extracted, photos, backbone):
    good = photos / "red" / "000.png"
    (photos / "red" / "cut.png").write_bytes(good.read_bytes()[:-200])
    (photos / "red" / "text.jpg").write_text("not an image")
    done = extracted(load_dataset(photos))
    reasons = {bad.path.name: bad.reason for bad in done.dataset.quarantined}
    assert reasons.keys() == {"cut.png", "text.jpg"}
    assert "truncated" in reasons["cut.png"]
    assert "not a known image format" in reasons["text.jpg"]
    assert done.made == len(done.dataset) == len(done.rows()) == backbone.images == 40


def test_what_can_never_be_decoded_is_not_to_be_made_again_and_stays_listed(
    extracted, extractor, photos
):
    (photos / "red" / "text.jpg").write_text("no picture")
    first = extracted(load_dataset(photos))
    plan = extractor.plan(load_dataset(photos), [some_views(2)])
    assert (plan.stored, plan.missing) == (40, len(first.dataset.where("train")))
    second = extracted(load_dataset(photos), forward=no_network)
    assert second.dataset.quarantined == first.dataset.quarantined != ()
    with pytest.raises(DataError, match=r"(?s)text\.jpg: not a known image.*--strict"):
        extracted(load_dataset(photos), strict=True)
    assert status(photos, extractor).unreadable == first.dataset.quarantined


def test_images_that_could_not_be_read_are_tried_again_several_at_once(
    extracted, photos, monkeypatch
):
    for number in range(3):
        (photos / "red" / f"{number}.jpg").write_text(f"no picture, and no {number}")
    extracted(load_dataset(photos))
    together = threading.Barrier(3, timeout=20)
    real = digests.read_image

    def read(*args):
        together.wait()
        return real(*args)

    monkeypatch.setattr("pipeline.features.plan.read_image", read)
    dataset = extracted(load_dataset(photos), forward=no_network).dataset
    assert [bad.path.name for bad in dataset.quarantined] == ["0.jpg", "1.jpg", "2.jpg"]


def test_what_cannot_be_decoded_is_noted_also_where_that_is_an_error(extracted, extractor, photos):
    (photos / "red" / "text.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"(?s)text\.jpg: not a known image.*--strict"):
        extracted(load_dataset(photos), strict=True)
    assert [bad.path.name for bad in status(photos, extractor).unreadable] == ["text.jpg"]


@pytest.mark.parametrize(
    ("chosen", "refused", "found", "fix"),
    [
        ({"page": 3}, 40, "page 3 was asked for", "Name a page that all images have with --page"),
        ({"white": 100}, 40, "integers from 0 to 4095", "higher white level: --white 4095"),
        ({"white": 100}, 19, "too few images of the class red", "higher white level: --white 4095"),
        ({"white": 100}, 1, "integers from 0 to", "higher white level: --white 4095"),
    ],
)
def test_where_images_are_refused_for_what_was_chosen_the_error_says_what_to_change(
    extracted, photos, chosen, refused, found, fix
):
    values = np.zeros((9, 9), np.uint16)
    values[0] = 4095
    for number, path in enumerate([*photos.glob("red/*"), *photos.glob("blue/*")][:refused]):
        values[1] = number
        Image.fromarray(values).save(path)
    settings = {"strict": True} if refused == 1 else {}
    recipe = make_recipe(size=64, precision="float32", **chosen)
    with pytest.raises(DataError) as caught:
        extracted(load_dataset(photos), recipe=recipe, **settings)
    assert found in caught.value.found
    assert fix in caught.value.fix


@pytest.mark.parametrize("content", [None, b"\xff", b"abc\n", b"not hexadecimal"])
def test_an_image_is_made_though_somebody_noted_that_it_cannot_be_read(
    extracted, extractor, photos, content
):
    dataset = load_dataset(photos)
    every = "\n".join(digest.hex() for digest in dataset.digests).encode()
    plan = extractor.plan(dataset)
    plan.store.prepare()
    (plan.store.folder / "unreadable.txt").write_bytes(every if content is None else content)
    assert extractor.plan(dataset).missing == 40
    extraction = extracted(dataset)
    assert (extraction.made, extraction.dataset.quarantined) == (40, ())


def test_strict_makes_a_bad_image_fatal_and_keeps_what_was_done(extracted, photos, tmp_path):
    (photos / "red" / "text.jpg").write_text("not an image")
    with pytest.raises(DataError, match=r"(?s)text\.jpg: not a known image.*--strict"):
        extracted(load_dataset(photos), strict=True)
    (photos / "red" / "text.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"text\.jpg: 0 bytes"):
        extracted(load_dataset(photos), strict=True)


def test_an_image_that_changes_after_it_was_listed_is_not_stored_under_its_old_digest(
    extracted, photos, backbone
):
    dataset = load_dataset(photos)
    changed = paint(photos / "red" / "003.png", (0, 0, 0), seed=97)
    old = dict(zip(dataset.paths, dataset.digests))[changed]
    done = extracted(dataset)
    assert (old, 0) not in done.store
    assert [bad.path for bad in done.dataset.quarantined] == [changed]
    assert "changed while" in done.dataset.quarantined[0].reason
    again = extracted(load_dataset(photos))
    assert again.made == 1
    new = hashlib.sha256(changed.read_bytes()).digest()
    assert again.store.read([(new, 0)]).max() < 50  # the new, black picture


def test_files_made_to_harm_cost_their_neighbours_nothing(extracted, photos):
    for number, (name, content) in enumerate(hostile_images(seed=7, count=120)):
        folder = photos / ("red" if number % 2 else "blue")
        (folder / name).write_bytes(content)
    done = extracted(load_dataset(photos))
    kept = {path.relative_to(photos).as_posix() for path in done.dataset.paths}
    assert {f"{name}/{n:03}.png" for name in ("red", "blue") for n in range(20)} <= kept
    assert len(done.dataset) + len(done.dataset.quarantined) == 160
    assert len(done.rows()) == len(done.dataset)


def test_nothing_readable_is_an_error_that_names_files(extracted, tmp_path):
    for name in (f"{label}/{number}.png" for label in "ab" for number in range(9)):
        (tmp_path / "bad" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bad" / name).write_text(f"not an image {name}")
    with pytest.raises(DataError, match=r"(?s)none of the 18 files.*0\.png: not a known image"):
        extracted(load_dataset(tmp_path / "bad"))


@pytest.mark.usefixtures("small_batches")
def test_progress_counts_up_to_the_number_of_missing_rows(extracted, photos):
    seen = []
    extracted(load_dataset(photos), listener=Hears(rows_made=lambda *how: seen.append(how)))
    assert seen == [(n, 40) for n in (0, 7, 14, 21, 28, 35, 40)]


# --- files without labels ------------------------------------------------------------------


def test_files_have_their_cached_rows_or_are_computed_in_their_order_and_bad_ones_are_told(
    monkeypatch, extracted, extractor, backbone, dataset, photos, tmp_path
):
    views = some_views(3)
    done = extracted(dataset, views)
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
    # However many rows are stored, they are not gone through for every file.
    monkeypatch.setattr(FeatureStore, "__iter__", None)
    assert len(list(replace(extractor, forward=no_network).rows_of_files(known, views))) == 3


def test_a_file_that_has_some_of_its_views_only_is_computed(
    extracted, extractor, dataset, backbone
):
    extracted(dataset)
    expected = extracted(dataset, some_views(3), cache="other").rows(2)
    backbone.batches.clear()
    place = dataset.where("train")[0]
    [(_, rows)] = extractor.rows_of_files([dataset.paths[place]], some_views(3))
    assert backbone.images == 3
    assert np.array_equal(rows[2], expected[0])


def test_each_file_is_read_once_whether_its_rows_are_stored_or_not(
    extracted, extractor, dataset, tmp_path, monkeypatch
):
    extracted(dataset)
    new = [paint(tmp_path / f"{seed}.png", (180, 70, 70), seed) for seed in range(90, 100)]
    files = [*dataset.paths[:10], *new]
    reads, read_file = [], digests._read_file

    def counted(path):
        reads.append(path)
        return read_file(path)

    monkeypatch.setattr("pipeline.data.digests._read_file", counted)
    assert len(list(extractor.rows_of_files(files))) == 20
    assert sorted(reads) == sorted(files)


def test_rows_that_can_no_longer_be_read_are_computed(extracted, extractor, dataset, tmp_path):
    expected = extracted(dataset).rows()
    shards = list((tmp_path / "cache").rglob("*.h5"))
    for shard in shards:
        shard.chmod(0o600)
        shard.write_bytes(b"")
    told = []

    class Told(Listener):
        def set_aside(self, store):
            told.append({shard.name for shard in store.damaged})

    outcomes = extractor.rows_of_files(dataset.paths, listener=Told())
    assert np.array_equal(np.concatenate([rows for _, rows in outcomes]), expected)
    assert told == [{shard.with_suffix(".h5").name for shard in shards}]


def test_an_empty_cache_is_not_made_to_look_up_files(extractor, photos, tmp_path):
    files = sorted(photos.glob("*/*.png"))
    assert len(list(extractor.rows_of_files(files))) == 40
    assert not (tmp_path / "cache").exists()
