"""Which shard holds which row: the same answers as a dictionary gives, in less memory."""

import hashlib
import random
import tracemalloc

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
    assert int(index.holds(Keys.of(every)).sum()) == len(known)
    assert list(index.shards) == list(rows)
    index.clear()
    assert len(index) == 0
    assert dict(index.find(every[:1])) == {every[0]: None}


def test_a_row_takes_at_most_50_bytes():
    index = Index()
    tracemalloc.start()
    for start in range(0, 200_000, 25_000):
        index.add([(str(start), Keys.of([(digest(n), 0) for n in range(start, start + 25_000)]))])
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert memory <= 50 * len(index)
