"""The principal components of rows, and that they are computed once."""

from pathlib import Path

import numpy as np
import pytest
from conftest import paint_classes

from pipeline.analysis import reduction
from pipeline.features.extractor import extract
from pipeline.features.pruning import prune


@pytest.fixture
def reduce(tmp_path, extractor, monkeypatch):
    """Reduce the rows of some pictures; give them, the store, and whether they were computed."""
    computed = []
    compute = reduction._reduced
    monkeypatch.setattr(
        reduction, "_reduced", lambda *given, **more: computed.append(1) or compute(*given, **more)
    )
    photos = paint_classes(tmp_path / "photos", 10)

    def run(**options):
        computed.clear()
        extraction = extract(photos, extractor=extractor)
        rows = reduction.reduced_rows(extraction, **options)
        return rows, reduction.finest_store(extraction), bool(computed)

    return run


def test_rows_are_reduced_once_and_are_the_same_to_the_bit(reduce):
    first, _, computed = reduce()
    assert computed
    again, _, computed = reduce()
    assert not computed
    assert np.array_equal(first, again)
    again += 1  # it can be changed


@pytest.mark.parametrize("options", [{"seed": 1}, {"places": np.array([0, 1, 2, 5])}], ids=str)
def test_those_of_another_seed_or_of_other_images_are_computed(reduce, options):
    first, _, _ = reduce()
    other, _, computed = reduce(**options)
    assert computed
    assert first.shape != other.shape or not np.array_equal(first, other)
    assert np.array_equal(reduce()[0], first)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-4]),
        lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?"),
        lambda file: file.write_bytes(b""),
        lambda file: (file.unlink(), file.mkdir()),
    ],
    ids=["cut", "changed", "empty", "a folder"],
)
def test_a_damaged_file_costs_only_time(reduce, damage):
    first, store, _ = reduce()
    damage(Path(store.folder, "derived.bin"))
    again, _, computed = reduce()
    assert computed
    assert np.array_equal(first, again)


def test_nothing_of_rows_that_are_pruned_stays(reduce):
    _, store, _ = reduce()
    prune(store, {store_key[0] for store_key in [*store][1:]})
    assert not Path(store.folder, "derived.bin").exists()
