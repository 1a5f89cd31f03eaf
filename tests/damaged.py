"""Damage to documents: bytes, values and structure, the same for the same seed."""

import json
import os
import random
import socket
from pathlib import Path


def make_other(path: Path, kind: str) -> None:
    """Put something at a path that is not a regular file."""
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(path))  # a longer path would not fit
    elif kind == "link":
        target = path.with_name("elsewhere")
        target.write_text("{}")
        path.symlink_to(target)
    else:
        {
            "device": lambda: path.symlink_to("/dev/zero"),
            "pipe": lambda: os.mkfifo(path),
            "folder": path.mkdir,
        }[kind]()


OTHER_VALUES = [
    None,
    True,
    0,
    7,
    -1,
    2**31,
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\udcff",
    "\x00",
    "2024-99-99",
    "a/b/../../c",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    [1, 2, 3],
    ["a", "a"],
]


def damage(content: bytes, seed: int) -> bytes:
    """Damage a document, JSON or not, in one of many ways."""
    rng = random.Random(seed)
    if content[:1] in b"{[" and rng.random() < 0.6:
        changed = json.dumps(_changed(json.loads(content), rng), indent=2).encode()
        return changed if rng.random() < 0.9 else _repeated_key(changed, rng)
    return rng.choice([_flip, _flip, _cut, _blank, _mark, _recode, _deep, _long_number, _line])(
        content, rng
    )


def _changed(value, rng):
    """Replace, drop or double one of the values inside."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        place = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        copy = value.copy()
        what = rng.random()
        if what < 0.1:
            del copy[place]
        elif what < 0.15 and isinstance(value, list):
            copy.append(copy[place])
        else:
            copy[place] = _changed(value[place], rng)
        return copy
    if isinstance(value, int | float) and rng.random() < 0.5:
        return rng.choice([-value, value + 1, value * 1000, value / 3, str(value)])
    return rng.choice(OTHER_VALUES)


def _flip(content, rng):
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 4])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content, rng):
    return content[: rng.randrange(len(content))]


def _blank(content, rng):
    start = rng.randrange(len(content))
    return content[:start] + bytes(min(512, len(content) - start)) + content[start + 512 :]


def _mark(content, rng):
    return b"\xef\xbb\xbf" + content


def _recode(content, rng):
    text = content.decode(errors="replace")
    return text.encode(rng.choice(["utf-16", "utf-32", "utf-7"]))


def _at_a_value(content, rng, what):
    places = [place for place, byte in enumerate(content) if byte in b":,"]
    place = 1 + rng.choice(places or [0])
    return content[:place] + what + content[place:]


def _deep(content, rng):
    depth = rng.choice([100, 10**5])
    return _at_a_value(content, rng, b"[" * depth + b"1" + b"]" * depth + b",")


def _long_number(content, rng):
    return _at_a_value(
        content, rng, rng.choice([b"1" * 5000, b"1e999", b"-Infinity", b"NaN"]) + b","
    )


def _line(content, rng):
    lines = content.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    what = rng.choice([[], [lines[place]] * 2, [lines[place] + b',"\n'], [b"\n"], [b"x,y\n"]])
    return b"".join(lines[:place] + what + lines[place + 1 :])


def _repeated_key(content, rng):
    key = rng.choice(
        [b'"schema"', b'"dataset"', b'"recipe"', b'"classes"', b'"images"', b'"files"']
    )
    return content.replace(b"{", b"{" + key + b": 1,", 1)
