import fcntl
import hashlib
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from stores import forge, put, replaced, some_keys, some_rows

from pipeline.backbones.recipe import SCHEMA
from pipeline.errors import StoreError
from pipeline.features.pruning import prune
from pipeline.features.shard import ROWS_PER_SHARD, Shard
from pipeline.features.store import FeatureStore
from pipeline.system.files import read_regular


@pytest.fixture
def store(tmp_path, recipe):
    return FeatureStore(tmp_path / "cache", recipe)


def shard_files(store):
    return sorted(store.folder.glob("*.h5"))


def test_rows_come_back_bit_for_bit_in_any_order_and_more_than_once(store, recipe, tmp_path):
    keys, rows = some_keys(70), some_rows(recipe, 70)
    store.write(keys[:40], rows[:40])
    store.write(keys[40:], rows[40:])
    order = [*np.random.default_rng(1).permutation(70).tolist(), 3, 3]
    for reader in (store, FeatureStore(tmp_path / "cache", recipe)):
        assert len(reader) == 70
        assert np.array_equal(reader.read([keys[i] for i in order]), rows[order])


def test_views_of_one_image_are_rows_of_their_own(store, recipe):
    rows = some_rows(recipe, 2)
    digest = some_keys(1)[0][0]
    store.write([(digest, 0), (digest, 7)], rows)
    assert np.array_equal(store.read([(digest, 7), (digest, 0)]), rows[::-1])
    assert store.missing([(digest, 1), (digest, 0), (digest, 1)]) == [(digest, 1)]


def test_a_shard_is_named_by_its_bytes_and_the_same_rows_make_the_same_bytes(
    store, recipe, tmp_path
):
    name = store.write(some_keys(5), some_rows(recipe, 5))
    image = (store.folder / name).read_bytes()
    assert name == hashlib.sha256(image).hexdigest() + ".h5"
    elsewhere = FeatureStore(tmp_path / "elsewhere", recipe)
    assert elsewhere.write(some_keys(5), some_rows(recipe, 5)) == name
    assert [path.name for path in store.folder.iterdir() if path.suffix != ".h5"] == ["recipe.json"]


def test_another_recipe_never_sees_the_rows(store, recipe, tmp_path):
    store.write(some_keys(5), some_rows(recipe, 5))
    other = FeatureStore(tmp_path / "cache", replace(recipe, precision="bfloat16"))
    assert other.missing(some_keys(5)) == some_keys(5)


def test_a_reader_takes_in_what_others_wrote_since(store, recipe, tmp_path):
    other = FeatureStore(tmp_path / "cache", recipe)
    store.write(some_keys(5), some_rows(recipe, 5))
    assert len(other) == 0
    other.refresh()
    assert np.array_equal(other.read(some_keys(5)), some_rows(recipe, 5))


def test_rows_that_are_not_there_are_an_error_not_zeros(store, recipe):
    store.write(some_keys(5), some_rows(recipe, 5))
    with pytest.raises(StoreError, match="1 of the rows asked for are not in"):
        store.read(some_keys(6))


@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete", "swap"])
def test_a_damaged_shard_serves_nothing_and_its_rows_are_missing(
    store, recipe, tmp_path, damage, when
):
    store.write(some_keys(4), some_rows(recipe, 4))
    whole = store.write(some_keys(4, start=4), some_rows(recipe, 4, seed=1))
    bad = next(path for path in shard_files(store) if path.name != whole)
    reader = FeatureStore(tmp_path / "cache", recipe)
    image = bytearray(bad.read_bytes())
    if damage == "flip":
        image[len(image) // 2] ^= 1
        bad.write_bytes(image)
    elif damage == "cut":
        bad.write_bytes(image[:-1])
    elif damage == "empty":
        bad.write_bytes(b"")
    elif damage == "delete":
        bad.unlink()
    elif damage == "swap":
        bad.write_bytes((store.folder / whole).read_bytes())
    if when == "before it is opened":
        reader = FeatureStore(tmp_path / "cache", recipe)
    with pytest.raises(StoreError, match="4 of the rows"):
        reader.read(some_keys(8))
    assert reader.missing(some_keys(8)) == some_keys(4)
    assert np.array_equal(reader.read(some_keys(4, start=4)), some_rows(recipe, 4, seed=1))
    if damage != "delete":
        assert [gone.name for gone in reader.damaged] == [bad.name]
        assert bad.with_suffix(".damaged").exists()
    reader.write(some_keys(4), some_rows(recipe, 4))
    assert np.array_equal(reader.read(some_keys(4)), some_rows(recipe, 4))


def test_every_single_flipped_bit_of_a_small_shard_is_noticed(tmp_path, recipe):
    store = FeatureStore(tmp_path, replace(recipe, shape=(1, 1, 2)))
    store.write(some_keys(1), np.ones((1, 1, 1, 2), np.float32))
    (file,) = shard_files(store)
    image = file.read_bytes()
    for position in range(0, 8 * len(image), 61):
        flipped = bytearray(image)
        flipped[position // 8] ^= 1 << position % 8
        file.write_bytes(flipped)
        assert len(FeatureStore(tmp_path, store.recipe)) == 0
        file.with_suffix(".damaged").unlink()


def test_a_shard_of_another_store_is_refused(store, recipe, tmp_path):
    other = FeatureStore(tmp_path / "cache", replace(recipe, precision="bfloat16"))
    name = other.write(some_keys(5), some_rows(recipe, 5))
    put(store, (other.folder / name).read_bytes())
    store.refresh()
    assert len(store) == 0
    assert "another recipe" in store.damaged[0].reason


def virtual(shard, name="features"):
    shape, kind = shard[name].shape, shard[name].dtype
    del shard[name]
    layout = h5py.VirtualLayout(shape, kind)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "features", shape=shape)
    shard.create_virtual_dataset(name, layout)


def external_storage(shard, file):
    shape = shard["features"].shape
    del shard["features"]
    size = 4 * int(np.prod(shape))
    shard.create_dataset("features", shape, "f4", external=[(str(file), 0, size)])


def test_a_shard_made_to_harm_is_refused_before_any_row_is_read(store, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"\1" * 2**20)
    with h5py.File(tmp_path / "elsewhere.h5", "w") as elsewhere:
        elsewhere["features"] = np.ones((3, *store.recipe.shape), np.float32)
    shape = store.recipe.shape
    harms = {
        "no features of its own": lambda shard: (
            shard.pop("features"),
            shard.__setitem__(
                "features", h5py.ExternalLink(str(tmp_path / "elsewhere.h5"), "features")
            ),
        ),
        "no view of its own": lambda shard: (
            shard.move("view", "hidden"),
            shard.__setitem__("view", h5py.SoftLink("/hidden")),
        ),
        "features lies outside": virtual,
        "features lies outside the file": lambda shard: external_storage(shard, secret),
        "shapes": lambda shard: replaced(shard, "features", data=np.zeros((3, 1), np.float32)),
        "types": lambda shard: replaced(shard, "features", data=np.zeros((3, *shape), np.float64)),
        "more rows than its bytes can hold": lambda shard: [
            replaced(shard, "features", shape=(10**9, *shape), chunks=(1, *shape), dtype="f4"),
            replaced(shard, "digest", shape=(10**9, 32), chunks=(1024, 32), dtype="u1"),
            replaced(shard, "view", shape=(10**9,), chunks=(1024,), dtype="u2"),
        ],
        "parts of its rows are missing": lambda shard: replaced(
            shard,
            "features",
            shape=(3, *shape),
            chunks=(3, *shape),
            dtype="f4",
            compression="gzip",
        ),
        "no digest of its own": lambda shard: shard.pop("digest"),
        "not a feature shard (": lambda shard: shard.attrs.pop("schema"),
    }
    for number, (reason, harm) in enumerate(harms.items()):
        put(store, forge(store, harm))
        store.refresh()
        assert len(store.damaged) == number + 1, reason
        assert reason in store.damaged[-1].reason
    put(store, b"not HDF5 at all")
    store.refresh()
    assert "not an HDF5 file" in store.damaged[-1].reason
    assert len(store) == 0


def test_a_shard_of_a_newer_schema_is_an_error_and_stays(store):
    file = put(store, forge(store, lambda shard: shard.attrs.modify("schema", SCHEMA + 1)))
    with pytest.raises(StoreError, match="schema version 2"):
        store.refresh()
    assert file.exists()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_step_of_the_commit_that_fails_publishes_nothing(store, recipe, monkeypatch, step):
    store.write(some_keys(2), some_rows(recipe, 2))
    before = sorted(path.name for path in store.folder.iterdir())

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as failing:
        if step == "fsync":
            failing.setattr(os, "fsync", fail)
        else:
            failing.setattr(Path, "replace", fail)
        with pytest.raises(StoreError, match=r"(?s)No space left.*make room"):
            store.write(some_keys(2, start=2), some_rows(recipe, 2, seed=1))
    assert sorted(path.name for path in store.folder.iterdir()) == before
    assert store.missing(some_keys(4)) == some_keys(2, start=2)


def test_bytes_are_on_disk_before_the_name_and_the_name_before_it_counts(
    store, recipe, monkeypatch
):
    steps = []
    for target, name in ((os, "fsync"), (Path, "replace")):
        original = getattr(target, name)
        monkeypatch.setattr(
            target, name, lambda *a, n=name, o=original, **k: (steps.append(n), o(*a, **k))[1]
        )
    store.write(some_keys(2), some_rows(recipe, 2))
    # The names of the folders that were made; recipe.json; the shard.
    assert steps == ["fsync", "fsync"] + ["fsync", "replace", "fsync"] * 2


@pytest.mark.parametrize("command", [FeatureStore.prepare, lambda store: prune(store, set())])
def test_what_a_killed_writer_left_is_cleared_away_later_not_at_once(store, recipe, command):
    store.write(some_keys(1), some_rows(recipe, 1))
    fresh, stale = store.folder / ".fresh.tmp", store.folder / ".stale.tmp"
    fresh.touch()
    stale.touch()
    os.utime(stale, (0, 0))
    command(store)
    assert fresh.exists()
    assert not stale.exists()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("name", [".prune", "recipe.json"])
def test_nothing_planted_in_a_store_is_followed_emptied_or_waited_for(
    store, recipe, tmp_path, name, kind
):
    store.write(some_keys(1), some_rows(recipe, 1))
    precious = tmp_path / "precious"
    precious.write_text(recipe.to_json())
    planted = store.folder / name
    planted.unlink(missing_ok=True)
    {"link": lambda: planted.symlink_to(precious), "pipe": lambda: os.mkfifo(planted)}.get(
        kind, planted.mkdir
    )()
    with pytest.raises(StoreError, match=f"{name} is|{name}: Is a directory|: Is a directory"):
        prune(FeatureStore.at(store.folder), set())
    assert precious.read_text() == recipe.to_json()
    assert len(list(store.folder.glob("*.h5"))) == 1


def test_a_shard_may_be_a_link_but_not_to_a_device(store, recipe, tmp_path):
    shard = store.folder / store.write(some_keys(1), some_rows(recipe, 1))
    moved = shard.rename(tmp_path / "annex")
    shard.symlink_to(moved)
    assert len(FeatureStore.at(store.folder)) == 1
    shard.unlink()
    shard.symlink_to("/dev/zero")
    bad = FeatureStore.at(store.folder)
    assert [damaged.reason for damaged in bad.damaged] == [f"{shard.name} is not a regular file"]


def test_a_cache_that_cannot_be_written_is_a_clear_error(tmp_path, recipe):
    (tmp_path / "file").touch()
    store = FeatureStore(tmp_path / "file" / "cache", recipe)
    with pytest.raises(StoreError, match=r"(?s)cannot write .*file.*--cache"):
        store.write(some_keys(1), some_rows(recipe, 1))


def test_rows_of_the_wrong_shape_or_names_are_not_written(store, recipe):
    for keys, rows in (
        (some_keys(2), some_rows(recipe, 3)),
        (some_keys(2), some_rows(recipe, 2).astype(np.float64)),
        (some_keys(1) * 2, some_rows(recipe, 2)),
        ([], some_rows(recipe, 0)),
    ):
        with pytest.raises(ValueError, match="must be"):
            store.write(keys, rows)
    assert not store.folder.exists()


def test_h5dump_without_plugins_reads_a_shard(store, recipe, tmp_path):
    """HDF5's own tool, where it is installed; else h5py with no plugin path, the same library."""
    rows = some_rows(recipe, 2)
    name = store.write(some_keys(2), rows)
    try:
        command = ["h5dump", "-d", "/features", "-b", "LE", "-o", tmp_path / "raw"]
        subprocess.run([*command, store.folder / name], check=True, capture_output=True)
    except FileNotFoundError:
        with h5py.File(store.folder / name) as shard:
            filters = shard["features"].id.get_create_plist()
            assert [filters.get_filter(i)[0] for i in range(filters.get_nfilters())] == [1]
    else:
        dumped = np.fromfile(tmp_path / "raw", "<f4").reshape(rows.shape)
        assert np.array_equal(dumped, rows)


def test_a_full_shard_is_a_tenth_of_the_raw_rows_on_features_that_are_mostly_zeros(
    tmp_path, recipe
):
    store = FeatureStore(tmp_path, replace(recipe, shape=(4, 4, 512)))
    values = np.random.default_rng(0).exponential(10, (ROWS_PER_SHARD, 4, 4, 512))
    values[np.random.default_rng(1).random(values.shape) < 0.93] = 0
    name = store.write(some_keys(ROWS_PER_SHARD), values.astype(np.float32))
    assert (store.folder / name).stat().st_size < values.nbytes / 2 / 5


def test_too_little_memory_is_an_error_and_sets_no_shard_aside(store, recipe, monkeypatch):
    store.write(some_keys(2), some_rows(recipe, 2))

    def no_memory(*_, **__):
        raise MemoryError

    with monkeypatch.context() as short:
        short.setattr(Shard, "read_into", no_memory)
        with pytest.raises(StoreError, match="not enough memory"):
            store.read(some_keys(2))
    assert len(shard_files(store)) == 1
    assert np.array_equal(store.read(some_keys(2)), some_rows(recipe, 2))


def test_shards_of_large_rows_hold_few_of_them(tmp_path, recipe):
    assert FeatureStore(tmp_path, recipe).rows_per_shard == ROWS_PER_SHARD
    large = replace(recipe, shape=(150, 150, 64))
    assert FeatureStore(tmp_path, large).rows_per_shard == 11
    assert FeatureStore(tmp_path, replace(recipe, shape=(2048, 2048, 64))).rows_per_shard == 1


def test_one_prune_waits_for_another(tmp_path, recipe):
    """Two with different wishes, one seeing the other's new shards as its own, would lose rows."""
    script = (
        "import sys; from pathlib import Path; from pipeline.features.pruning import prune;"
        "from pipeline.features.store import FeatureStore;"
        "store = FeatureStore.at(Path(sys.argv[1])); print('ready', flush=True);"
        "prune(store, {bytes.fromhex(d) for d in sys.argv[2:]}); print('done', flush=True)"
    )
    store = FeatureStore(tmp_path, recipe)
    store.write(some_keys(4), some_rows(recipe, 4))
    digests = [digest.hex() for digest, _ in some_keys(3)]
    with (store.folder / ".prune").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-c", script, store.folder, *digests]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1)
        assert len(FeatureStore(tmp_path, recipe)) == 4
    assert other.communicate(timeout=60)[0] == "done\n"
    assert FeatureStore(tmp_path, recipe).missing(some_keys(4)) == some_keys(1, start=3)


def test_threads_write_to_one_folder_at_once(recipe, tmp_path):
    FeatureStore(tmp_path, recipe).prepare()

    def write(number):
        store = FeatureStore(tmp_path, recipe, index=False)
        for turn in range(5):
            start = 100 * number + 10 * turn
            store.write(some_keys(10, start), some_rows(recipe, 10, seed=start))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    store = FeatureStore(tmp_path, recipe)
    assert len(store) == 200
    assert np.array_equal(store.read(some_keys(10, 310)), some_rows(recipe, 10, seed=310))


@pytest.fixture
def reads(monkeypatch):
    """Names of the shards' files that were read, in order."""
    names = []
    monkeypatch.setattr(
        "pipeline.features.shard.read_regular",
        lambda path, *most, **options: (
            names.append(path.name) or read_regular(path, *most, **options)
        ),
    )
    return names


def test_to_open_a_store_and_read_all_its_rows_takes_one_reading_of_each_file(
    store, recipe, tmp_path, reads
):
    keys, rows = some_keys(40), some_rows(recipe, 40)
    for start in range(0, 40, 10):
        store.write(keys[start : start + 10], rows[start : start + 10])
    files = sorted(store.shards)
    reader = FeatureStore(tmp_path / "cache", recipe, hold=[digest for digest, _ in keys])
    assert np.array_equal(reader.read(keys), rows)
    assert sorted(reads) == files
    reads.clear()
    assert np.array_equal(reader.read(keys[:10]), rows[:10])  # let go of by then: read again
    assert len(reads) == 1


def test_what_is_held_is_read_by_streaming_too_and_can_be_released(store, recipe, tmp_path, reads):
    store.write(some_keys(3), some_rows(recipe, 3))
    reader = FeatureStore(tmp_path / "cache", recipe, hold=[some_keys(1)[0][0]])
    for _ in reader.stream():
        pass
    assert len(reads) == 1
    reader.verify()
    reader.release()
    reader.read(some_keys(3))
    assert len(reads) == 3


def test_a_store_keeps_only_the_files_in_memory_that_are_going_to_be_read(tmp_path, recipe):
    wide = replace(recipe, shape=(8, 8, 512))
    rows = np.random.default_rng(0).random((20, *wide.shape), np.float32)  # hardly to be shrunk
    keys = some_keys(20)
    name = FeatureStore(tmp_path, wide).write(keys, rows)
    size = (tmp_path / wide.name / name).stat().st_size
    grown = []
    for hold in ((), [b"other".ljust(32)], [keys[7][0]]):
        tracemalloc.start()
        store = FeatureStore(tmp_path, wide, hold=hold)
        grown.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(store) == 20
    assert max(grown[:2]) < size / 2 < size < grown[2]


def test_pruning_drops_unwanted_rows_merges_small_shards_and_keeps_the_rest_bit_for_bit(
    store, recipe, tmp_path
):
    keys, rows = some_keys(30), some_rows(recipe, 30)
    for start in range(0, 30, 10):
        store.write(keys[start : start + 10], rows[start : start + 10])
    wanted = {digest for digest, _ in keys[5:]}
    pruned = prune(FeatureStore(tmp_path / "cache", recipe), wanted)
    assert (pruned.rows, pruned.shards) == (5, 2)
    left = FeatureStore(tmp_path / "cache", recipe)
    assert np.array_equal(left.read(keys[5:]), rows[5:])
    assert left.missing(keys) == keys[:5]
    again = prune(left, wanted)
    assert (again.rows, again.shards) == (0, 0)
