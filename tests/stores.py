"""Shards for tests of stores: sound ones, and forged ones."""

import hashlib
import io
from pathlib import Path

import h5py
import numpy as np

from pipeline.data.dataset import Dataset
from pipeline.data.targets import Targets
from pipeline.features.shard import make_shard


def some_keys(count, start=0, view=0):
    return [
        (hashlib.sha256(b"%d" % number).digest(), view) for number in range(start, start + count)
    ]


def some_rows(recipe, count, seed=0):
    """Rows like VGG16's: not negative, and mostly zeros."""
    rows = np.random.default_rng(seed).normal(-2, 2, (count, *recipe.shape)).astype(np.float32)
    return np.maximum(rows, 0)


def some_dataset(count):
    """Half of it blue and half red, in all splits, and some of it in groups."""
    return Dataset(
        "photos",
        tuple(Path(f"photos/{number}é.png") for number in range(count)),
        tuple(digest for digest, _ in some_keys(count)),
        Targets(np.arange(count) % 2, ("blue", "red")),
        np.resize(["train", "train", "validation", "validation", "test", "test"], count),
        groups=tuple(f"group {number % 4}" if number % 4 else "" for number in range(count)),
    )


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
