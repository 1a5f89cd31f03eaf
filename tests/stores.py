"""Shards for tests of stores: sound ones, and forged ones."""

import hashlib
import io

import h5py
import numpy as np

from pipeline.features.shard import make_shard


def some_keys(count, start=0, view=0):
    return [
        (hashlib.sha256(b"%d" % number).digest(), view) for number in range(start, start + count)
    ]


def some_rows(recipe, count, seed=0):
    """Rows like VGG16's: not negative, and mostly zeros."""
    rows = np.random.default_rng(seed).normal(-2, 2, (count, *recipe.shape)).astype(np.float32)
    return np.maximum(rows, 0)


def put(store, image: bytes):
    """Place bytes into the store's folder under the name that vouches for them."""
    store.folder.mkdir(parents=True, exist_ok=True)
    file = store.folder / f"{hashlib.sha256(image).hexdigest()}.h5"
    file.write_bytes(image)
    return file


def forge(store, change):
    """Make a shard as the store does, let `change` spoil it, and give its bytes."""
    rows = some_rows(store.recipe, 3)
    image = io.BytesIO(make_shard(store.recipe, some_keys(3), rows))
    with h5py.File(image, "r+") as shard:
        change(shard)
    return image.getvalue()


def replaced(shard, name, **options):
    del shard[name]
    shard.create_dataset(name, **options)
