"""Paths and digests without an object for each."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.packed import PackedDigests, PackedPaths, distinct

PATHS = [
    Path("photos/a/1.png"),
    Path("photos/b/1.png"),
    Path("/elsewhere/ü 2.jpg"),
    Path("photos/a/\udcff.png"),  # bytes that are no text
    Path("3.png"),
    Path(),
    Path("/"),
    Path("photos/../4.png"),
]
DIGESTS = [hashlib.sha256(b"%d" % number).digest() for number in range(8)]


@pytest.mark.parametrize(
    ("packed", "plain"), [(PackedPaths(PATHS), PATHS), (PackedDigests(DIGESTS), DIGESTS)]
)
def test_it_is_the_sequence_that_it_was_made_of(packed, plain):
    assert list(packed) == plain
    assert packed == plain == packed
    assert packed == tuple(plain)
    assert packed != plain[:-1]
    assert [packed[-1], packed[np.int64(2)]] == [plain[-1], plain[2]]
    assert packed[1:7:2] == plain[1:7:2]
    assert plain[3] in packed
    with pytest.raises(IndexError):
        packed[8]


def test_none_is_a_sequence_too():
    assert list(PackedPaths([])) == list(PackedDigests([])) == []


def test_digests_that_differ_in_their_zeros_only_are_distinct():
    some = [
        bytes(32),
        b"a" + bytes(31),
        bytes(31) + b"a",
        bytes(32),
        b"\xff" * 32,
        b"a" + bytes(31),
    ]
    array = np.frombuffer(b"".join(some), np.uint8).reshape(-1, 32)
    assert list(map(bytes, distinct(array))) == sorted(set(some))
