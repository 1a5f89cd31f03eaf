import hashlib
import threading
from dataclasses import replace

import numpy as np
import pytest
from conftest import CountingBackbone, paint, paint_classes
from hostile import hostile_images

from pipeline import extraction
from pipeline.dataset import load_dataset
from pipeline.errors import DataError
from pipeline.extraction import extract, extract_files, plan_extraction
from pipeline.images import decode


@pytest.fixture
def small_batches(monkeypatch, recipe):
    monkeypatch.setattr(extraction, "_PIXELS_PER_BATCH", 7 * recipe.size**2)


@pytest.fixture
def run(tmp_path, recipe, backbone):
    def extract_here(dataset, cache="cache", **options):
        options.setdefault("backbone", backbone)
        return extract(dataset, recipe, cache=tmp_path / cache, **options)

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

    def refuse(pixels):
        raise AssertionError("the network was run")

    assert run(dataset, backbone=refuse).made == 0


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


def test_the_plan_tells_what_will_be_done_and_does_nothing(run, photos, recipe, tmp_path):
    dataset = load_dataset(photos)
    before = plan_extraction(dataset, recipe, cache=tmp_path / "cache")
    assert (before.there, before.missing) == (0, 40)
    assert not (tmp_path / "cache").exists()
    run(dataset)
    paint(photos / "red" / "new.png", (180, 70, 70), seed=98)
    after = plan_extraction(load_dataset(photos), recipe, cache=tmp_path / "cache")
    assert (after.there, after.missing) == (40, 1)


@pytest.mark.usefixtures("small_batches")
def test_rows_are_the_same_in_one_go_interrupted_in_another_order_and_other_batches(
    run, photos, backbone, recipe, tmp_path, monkeypatch
):
    dataset = load_dataset(photos)
    whole = run(dataset, cache="one go").rows()

    def stop_after_three_batches(pixels):
        if len(interrupted.batches) == 3:
            raise KeyboardInterrupt
        return interrupted(pixels)

    interrupted = CountingBackbone(recipe)
    with pytest.raises(KeyboardInterrupt):
        run(dataset, cache="interrupted", backbone=stop_after_three_batches)
    resumed = run(dataset, cache="interrupted")
    assert interrupted.images == 21
    assert resumed.made == 19
    assert np.array_equal(resumed.rows(), whole)

    order = np.random.default_rng(5).permutation(len(dataset))
    shuffled = replace(
        dataset,
        paths=tuple(dataset.paths[i] for i in order),
        digests=tuple(dataset.digests[i] for i in order),
        labels=dataset.labels[order],
        splits=dataset.splits[order],
    )
    monkeypatch.setattr(extraction, "_PIXELS_PER_BATCH", 11 * recipe.size**2)
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

    monkeypatch.setattr(extraction, "decode", counting_decode)
    run(load_dataset(photos), backbone=wait_for_decoding)
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

    monkeypatch.setattr(extraction, "decode", counting_decode)
    paint_classes(photos, count=60)
    run(load_dataset(photos), backbone=note)
    assert max(ahead) <= extraction._BATCHES_AHEAD * 7


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
    run(load_dataset(photos), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 40) for n in (0, 7, 14, 21, 28, 35, 40)]


def test_files_without_labels_get_rows_in_their_order_and_bad_ones_are_told(
    photos, recipe, backbone, tmp_path
):
    (photos / "bad.png").write_text("not an image")
    paths = [photos / "red" / "001.png", photos / "bad.png", photos / "blue" / "002.png"]
    store, keys, refused = extract_files(
        [*paths, tmp_path / "absent.png"], recipe, cache=tmp_path / "cache", backbone=backbone
    )
    rows = store.read(keys)
    assert rows[0, ..., 0].mean() > rows[1, ..., 0].mean()
    assert [bad.path.name for bad in refused] == ["bad.png", "absent.png"]
