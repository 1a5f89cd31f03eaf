"""How rows are packed: by their length, and always so that any HDF5 reader unpacks them."""

import io
from dataclasses import replace

import h5py
import numpy as np
import pytest
from stores import some_keys, some_rows

from pipeline.backbones.recipe import SCHEMA
from pipeline.features.keys import Keys
from pipeline.features.shard import make_shard

VGG16, LITE0, LAYERS = (4, 4, 512), (7, 7, 1280), (1, 1, 9968)


def packed_by_hdf5(recipe, keys, rows, chunks):
    """Make a shard as version 0.1.0 did: HDF5's own filter packs the rows."""
    columns = Keys.of(keys)
    with h5py.File("packed", "w", driver="core", backing_store=False) as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["fingerprint"] = np.bytes_(recipe.fingerprint)
        file.create_dataset(
            "features", data=rows, chunks=chunks, compression="gzip", compression_opts=4
        )
        file["digest"] = columns.digests
        file["view"] = columns.views
        file.flush()
        return file.id.get_file_image()


@pytest.mark.parametrize("count", [1, 2, 5, 70])
def test_shards_of_vgg16s_rows_have_the_bytes_that_they_always_had(recipe, count):
    recipe = replace(recipe, shape=VGG16)
    keys, rows = some_keys(count), some_rows(recipe, count)
    theirs = packed_by_hdf5(recipe, keys, rows, (min(count, 16), *VGG16))
    assert make_shard(recipe, keys, rows) == theirs


@pytest.mark.parametrize("count", [1, 2, 5, 30])
@pytest.mark.parametrize("shape", [VGG16, LITE0, LAYERS, (14, 14, 1024)])
def test_any_reader_of_hdf5_reads_the_rows_bit_for_bit(recipe, tmp_path, shape, count):
    recipe = replace(recipe, shape=shape)
    rows = some_rows(recipe, count)
    with h5py.File(io.BytesIO(make_shard(recipe, some_keys(count), rows)), "r") as shard:
        assert shard["features"][:].tobytes() == rows.tobytes()


def test_long_rows_of_runs_of_zeros_are_packed_no_larger(recipe):
    recipe = replace(recipe, shape=LITE0)
    rows = np.maximum(some_rows(recipe, 8) - 1, 0)  # a tenth is not zero, as with its real rows
    theirs = packed_by_hdf5(recipe, some_keys(8), rows, (2, *LITE0))
    assert len(make_shard(recipe, some_keys(8), rows)) < len(theirs)
