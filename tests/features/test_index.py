"""Which shard holds which row: the same answers as a dictionary gives, in less memory."""

import hashlib
import itertools
import random

import numpy as np
import pytest

from pipeline.features.index import Index
from pipeline.features.keys import Keys


def digest(number):
    return hashlib.sha256(b"%d" % number).digest()


def alike(number):
    """Digests that share their first eight bytes, as somebody could make them."""
    return bytes(8) + digest(number)[:24]


@pytest.mark.parametrize("make", [digest, alike])
def test_it_answers_as_a_dictionary_does(make):
    rng = random.Random(0)
    index, known, rows = Index(), {}, {}
    for turn in range(60):
        shards = []
        for part in range(rng.choice([1, 1, 3])):
            keys = list(
                {(make(rng.randrange(300)), rng.choice([0, 0, 1, 65535])) for _ in range(9)}
            )
            shards.append((f"{turn}-{part}", Keys.of(keys)))
        index.add(shards)
        for name, keys in shards:
            rows[name] = list(keys)
            for key in keys:
                known.setdefault(key, name)
        if turn % 7 == 6:
            gone = rng.choice(list(rows))
            del rows[gone]
            index.forget(gone)
            known = {key: name for key, name in known.items() if name != gone}
        assert len(index) == len(known)
    every = [(make(number), view) for number in range(310) for view in (0, 1, 2, 65535)]
    assert dict(index.find(every)) == {key: known.get(key) for key in every}
    assert sorted(index) == sorted(known)
    assert index.count(Keys.of(every)) == len(known)
    assert list(index.shards) == list(rows)
    index.clear()
    assert len(index) == 0
    assert dict(index.find(every[:1])) == {every[0]: None}


def test_a_row_takes_at_most_50_bytes():
    index = Index()
    numbers = iter(range(200_000))
    for start in itertools.count():
        digests = [digest(number) for number in itertools.islice(numbers, 25_000)]
        if not digests:
            break
        index.add([(f"{start}", Keys.of([(one, 0) for one in digests]))])
    arrays = [
        array
        for run in index._runs
        for array in (run.hashes, run.keys.digests, run.keys.views, run.shards)
    ]
    assert all(array.base is None or array.base.nbytes == array.nbytes for array in arrays)
    assert sum(array.nbytes for array in arrays) <= 50 * len(index)
    assert np.all(np.diff(index._runs[0].hashes) >= 0)
