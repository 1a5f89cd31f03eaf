"""Features handed on in one file: whole or refused, whoever made it."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from stores import some_dataset, some_rows

from pipeline.errors import DataError
from pipeline.features.exchange import export_features, import_features, is_features_file

BLOCK = 512
OLD = Path(__file__).parents[1] / "stored" / "version-0.1.0" / "features.h5"


@pytest.fixture
def rows(recipe):
    return some_rows(recipe, 12)


@pytest.fixture
def exported(recipe, rows, tmp_path):
    file = tmp_path / "features.h5"
    export_features(some_dataset(12), recipe, rows, file)
    return file


def changed(file, change, *, old=False):
    """Change a file as a stranger may, who then writes the digest that belongs to it."""
    whole = file.read_bytes()
    image = io.BytesIO(whole[BLOCK:])
    with h5py.File(image, "r+") as content:
        change(content)
    before, after = (hashlib.sha256(c).hexdigest() for c in (whole[BLOCK:], image.getvalue()))
    block = whole[:BLOCK].replace(before.encode(), after.encode())
    file.write_bytes((b"" if old else block) + image.getvalue())


def replaced(name, change, **options):
    """Put other values in an array's place."""

    def replace(file):
        values = change(file[name][:])
        del file[name]
        file.create_dataset(name, data=values, **options)

    return replace


def refusal(file):
    with pytest.raises(DataError, match="cannot be used as features") as error:
        import_features(file)
    return str(error.value)


def test_what_is_written_is_read(exported, recipe, rows):
    dataset, own_recipe, own_rows = import_features(exported)
    assert own_recipe == recipe
    assert own_rows.tobytes() == rows.tobytes()
    expected = dataclasses.replace(some_dataset(12), name="features")
    assert [str(path) for path in dataset.paths] == [str(path) for path in expected.paths]
    assert dataset.digest == expected.digest
    assert dataset.groups == expected.groups


def test_other_readers_of_hdf5_read_it(exported, rows):
    with h5py.File(exported) as file:
        assert file.userblock_size == BLOCK
        assert file["features"][:].tobytes() == rows.tobytes()
        assert file["paths"].asstr()[:].tolist()[0] == str(some_dataset(12).paths[0])
        kinds = {name: file[name].dtype.kind for name in ("paths", "splits", "classes")}
        assert set(kinds.values()) == {"S"}
    assert exported.read_bytes()[:BLOCK].decode().startswith("Features of images")


def test_any_byte_that_is_not_as_it_was_is_noticed_before_hdf5_sees_the_file(exported, monkeypatch):
    whole = exported.read_bytes()
    damaged = [whole[:at] + bytes(512) + whole[at + 512 :] for at in range(0, len(whole), 512)]
    places = [*range(600), *random.Random(5).sample(range(len(whole)), 300)]
    damaged += [whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :] for at in places]
    damaged += [whole[:cut] for cut in (0, 1, 8, 511, 512, 520, len(whole) - 1)] + [whole + b"\0"]
    monkeypatch.setattr(h5py.h5f, "open_file_image", lambda *_: pytest.fail("HDF5 was asked"))
    for content in damaged:
        if content != whole:
            exported.write_bytes(content)
            refusal(exported)


def with_size(size):
    """Say that images were made so large before the network saw them."""

    def change(file):
        fields = {**json.loads(file.attrs["recipe"]), "size": size}
        file.attrs.modify("recipe", np.bytes_(json.dumps(fields)))

    return change


def with_nan(rows):
    rows[3, 0, 0, 0] = np.nan
    return rows


def linked(file):
    del file["labels"]
    file["labels"] = h5py.SoftLink("/elsewhere")


def external(file):
    del file["labels"]
    file["labels"] = h5py.ExternalLink("/etc/other.h5", "labels")


def virtual(file):
    shape = file["features"].shape
    del file["features"]
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[:] = h5py.VirtualSource("absent.h5", "features", shape=shape)
    file.create_virtual_dataset("features", layout)


def stored_outside(file):
    count = len(file["labels"])
    del file["labels"]
    file.create_dataset("labels", (count,), "i8", external=[("/etc/hostname", 0, 8 * count)])


def never_written(file, **options):
    shape = file["features"].shape
    del file["features"]
    file.create_dataset("features", shape, "f4", **options)


def of_terabytes(file):
    shape = file["features"].shape[1:]
    del file["features"]
    file.create_dataset("features", (2**36, *shape), "f4", chunks=(1, *shape))


def of_zeros_that_take_a_gigabyte(file):
    shape = file["features"].shape[1:]
    del file["features"]
    count = 2**30 // (4 * int(np.prod(shape)))
    array = file.create_dataset(
        "features", (count, *shape), "f4", chunks=(256, *shape), compression="gzip"
    )
    for start in range(0, count, 256):
        array[start : start + 256] = 0


def that_inflates_without_end(file):
    file["features"].id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(2**29), 9))


STRANGE = {
    "no labels": (lambda file: file.pop("labels"), "no labels of its own"),
    "fewer labels": (replaced("labels", lambda labels: labels[:-1]), "not equally long"),
    "fewer digests": (replaced("digests", lambda digests: digests[:-1]), "not equally long"),
    "short digests": (replaced("digests", lambda digests: digests[:, :31]), "not equally long"),
    "unknown classes": (replaced("labels", lambda labels: labels + 7), "no name"),
    "negative labels": (replaced("labels", lambda labels: labels - 1), "no name"),
    "unknown splits": (
        replaced("splits", lambda splits: np.array([b"dev"] * len(splits))),
        "no name",
    ),
    "labels of 0.7": (replaced("labels", lambda labels: labels + 0.7), "labels are float64"),
    "narrow labels": (replaced("labels", lambda labels: labels.astype("u1")), "labels are uint8"),
    "labels in a table": (replaced("labels", lambda labels: labels[:, None]), "equally long"),
    "other shape": (replaced("features", lambda rows: rows[..., :-1]), "shape"),
    "flat": (replaced("features", lambda rows: rows.reshape(len(rows), -1)), "shape"),
    "complex": (replaced("features", lambda rows: rows + 1j), "features are complex64"),
    "doubles": (replaced("features", lambda rows: rows.astype("f8")), "features are float64"),
    "integers": (replaced("features", lambda rows: rows.astype("i4")), "features are int32"),
    "NaN": (replaced("features", with_nan), "1 rows are not finite"),
    "doubled classes": (
        replaced("classes", lambda names: np.array([names[0]] * len(names))),
        "two of its classes",
    ),
    "no texts": (replaced("paths", lambda paths: np.arange(len(paths))), "no list of texts"),
    "not UTF-8": (
        replaced("paths", lambda paths: np.array([b"\xff"] * len(paths))),
        "cannot be read",
    ),
    "no recipe": (lambda file: file.attrs.pop("recipe"), "cannot be read"),
    "empty recipe": (lambda file: file.attrs.modify("recipe", "{}"), "cannot be read"),
    "deep recipe": (
        lambda file: file.attrs.modify("recipe", np.bytes_(b"[" * 60_000)),
        "cannot be read",
    ),
    "recipe for no pixels": (with_size(0), "images of 0 pixels"),
    "link": (linked, "no labels of its own"),
    "link to another file": (external, "no labels of its own"),
    "virtual": (virtual, "lies outside"),
    "stored outside": (stored_outside, "lies outside"),
    "never written": (never_written, "parts of features are missing"),
    "no chunk written": (
        lambda file: never_written(file, chunks=(1, 2, 2, 512), compression="gzip"),
        "parts of features are missing",
    ),
    "other filters": (
        replaced("features", lambda rows: rows, compression="lzf"),
        "cannot be read",
    ),
    "terabytes": (of_terabytes, "declares more than the file can hold"),
    "a gigabyte of zeros": (of_zeros_that_take_a_gigabyte, "declares more than the file can hold"),
    "inflates without end": (that_inflates_without_end, "does not inflate to its size"),
}


@pytest.mark.parametrize("old", [False, True], ids=["", "without a digest"])
@pytest.mark.parametrize("kind", STRANGE)
def test_a_strangers_file_that_does_not_fit_is_refused_and_takes_no_memory(exported, kind, old):
    change, message = STRANGE[kind]
    changed(exported, change, old=old)
    tracemalloc.start()
    try:
        assert message in refusal(exported)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def test_a_file_of_an_older_release_is_read(tmp_path):
    dataset, recipe, rows = import_features(OLD)
    assert rows.shape == (42, *recipe.shape)
    assert dataset.classes
    assert "holds no digest" in " ".join(dataset.remarks)


def test_a_file_with_a_digest_is_read_without_a_remark(exported):
    assert import_features(exported)[0].remarks == ()


def test_many_references_to_one_text_are_refused(tmp_path):
    content = bytearray(OLD.read_bytes())
    with h5py.File(OLD) as file:
        start = file["paths"].id.get_offset()
    content[start : start + 4] = (2**31).to_bytes(4, "little")
    (tmp_path / "features.h5").write_bytes(content)
    assert "paths declares more than the file can hold" in refusal(tmp_path / "features.h5")


def test_ctrl_c_ends_what_hdf5_never_does(tmp_path):
    content = bytearray(OLD.read_bytes())
    heap = content.index(b"GCOL")  # of the recipe, too
    content[heap + 512 : heap + 1024] = bytes(512)
    (tmp_path / "features.h5").write_bytes(content)
    script = (
        "import signal, pathlib; from pipeline.features.exchange import import_features; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); print('begun', flush=True); "
        "import_features(pathlib.Path('features.h5'))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(1)
        assert process.poll() is None, "this damage does not keep HDF5 busy any more"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == -signal.SIGINT


def test_rows_that_shrink_as_no_features_do_are_read_back(recipe, tmp_path):
    """A file is refused if it declares far more than it holds, and no file of ours does."""
    rows = np.zeros((12_000, *recipe.shape), np.float32)  # 400 MB
    export_features(some_dataset(12_000), recipe, rows, tmp_path / "features.h5")
    assert len(import_features(tmp_path / "features.h5")[2]) == len(rows)


# --- writing ------------------------------------------------------------------------------


def test_a_disk_that_fills_up_is_one_error_and_nothing_is_left(recipe, rows, tmp_path):
    mount = "mount -t tmpfs -o size=256k tmpfs disk"
    if (
        not shutil.which("unshare")
        or subprocess.run(
            ["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /tmp"],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("file systems cannot be mounted here")
    (tmp_path / "disk").mkdir()
    script = (
        "import pathlib, stores; from pipeline.errors import DataError\n"
        "from pipeline.backbones.registry import make_recipe\n"
        "from pipeline.features.exchange import export_features\n"
        "recipe = make_recipe(size=64, precision='float32')\n"
        "rows = stores.some_rows(recipe, 400)\n"
        "try: export_features(stores.some_dataset(400), recipe, rows, pathlib.Path('disk/f.h5'))\n"
        "except DataError as error: print(error)\n"
        "print(list(pathlib.Path('disk').iterdir()))"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "cannot write disk/f.h5: No space left on device." in done.stdout
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_write_that_fails_leaves_nothing(recipe, rows, tmp_path, monkeypatch, call):
    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    file = tmp_path / "features.h5"
    with contextlib.suppress(DataError):
        export_features(some_dataset(12), recipe, rows, file)
    if call == "fsync":
        assert list(tmp_path.iterdir()) == []
    else:  # a file system without links
        assert [path.name for path in tmp_path.iterdir()] == ["features.h5"]
        import_features(file)


@pytest.mark.parametrize("links", [True, False])
def test_of_three_exports_to_one_file_the_first_stays_and_the_others_say_so(
    recipe, rows, tmp_path, monkeypatch, links
):
    """All three have seen that the name is free."""
    file = tmp_path / "features.h5"
    monkeypatch.setattr(Path, "exists", lambda path: False)
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "none")))
    export_features(some_dataset(12), recipe, rows, file)
    whole = file.read_bytes()
    for _ in range(2):
        with pytest.raises(DataError, match="already exists"):
            export_features(some_dataset(12), recipe, rows + 1, file)
    assert file.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("form", [str, "file://{}".format])
def test_a_file_is_read_by_its_path_or_its_address(exported, form):
    assert is_features_file(form(exported))
    np.testing.assert_array_equal(import_features(form(exported))[2], import_features(exported)[2])
