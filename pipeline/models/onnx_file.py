"""The bytes of an ONNX file, read as what they are, before a library builds anything from them.

ONNX is a message of Protocol Buffers: fields, one after the other, each with its number. A field's
value is a number, or bytes, which may be a message again. Nothing here needs a package.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.errors import ModelError

KEY = "cached-feature-pipeline"
"""Under this name a model's description stands in the file's metadata."""

_MOST_FIELDS = 2_000_000  # of all messages: our largest has some thousands
_MOST_TEXT = 2**22  # bytes of a description
_MOST_VALUES = 2**22  # of an array that is not stored as plain bytes
_MOST_SIDES = 64

_GRAPH, _METADATA = 7, 14  # of a model
_OURS = (b"", b"ai.onnx")
_DOMAINS = {"node": (7, _OURS), "opset": (1, (*_OURS, b"ai.onnx.ml"))}  # field, what it may be
_SIDES, _TYPE, _RAW, _LOCATION = 1, 2, 9, 14  # of an array
_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}


class _No(NamedTuple):
    """Why a field is refused."""

    reason: str


_TRAINING = _No("it has parts that are not needed to predict")
_SPARSE, _BRANCHES = _No("it has sparse arrays"), _No("it has loops or branches")
_FILES = _No("it takes numbers from another file")
# fmt: off
_PARTS: Mapping[str, Mapping[int, Any]] = {
    "model": {
        1: int, 2: bytes, 3: bytes, 4: bytes, 5: int, 6: bytes,
        _GRAPH: "graph", 8: ["opset"], _METADATA: ["pair"], 20: _TRAINING, 25: _TRAINING,
    },
    "opset": {1: bytes, 2: int},
    "pair": {1: bytes, 2: bytes},
    "graph": {
        1: ["node"], 2: bytes, 5: ["array"], 10: bytes, 15: _SPARSE,
        11: ["value"], 12: ["value"], 13: ["value"],
    },
    "node": {1: [bytes], 2: [bytes], 3: bytes, 4: bytes, 5: ["attribute"], 6: bytes, 7: bytes},
    "attribute": {
        1: bytes, 2: float, 3: int, 4: bytes, 5: "array", 7: [float], 8: [int], 9: [bytes],
        13: bytes, 20: int, 6: _BRANCHES, 11: _BRANCHES, 22: _SPARSE, 23: _SPARSE,
    },
    "array": {
        _SIDES: [int], _TYPE: int, 4: [float], 5: [int], 7: [int], 8: bytes, _RAW: bytes,
        10: [bytes], 11: [int], 12: bytes, 13: _FILES, _LOCATION: int,
    },
    "value": {1: bytes, 2: "type", 3: bytes},
    "type": {1: "tensor", 6: bytes},
    "tensor": {1: int, 2: "shape"},
    "shape": {1: ["side"]},
    "side": {1: int, 2: bytes, 3: bytes},
}
# fmt: on
"""What a message may have: numbers of fields, as in onnx.proto, and what each holds.

What may come more than once is in a list; numbers there may also stand together, as bytes. All else
is refused: readers differ in what they make of a field that comes twice, or that they do not know.
"""


class OnnxFileError(ModelError):
    """An ONNX file that is none of ours, or is not to be used."""


class Field(NamedTuple):
    """A field of a message.

    Attributes
    ----------
    number : int
        Which of the message's fields it is.
    holds : type
        ``int``, ``bytes`` or ``float``: how its value is stored.
    value : int or memoryview
        Its number, or its bytes, also those of a float.
    whole : memoryview
        All bytes of it, its number included.
    """

    number: int
    holds: type
    value: int | memoryview
    whole: memoryview


_HOLDS = {0: int, 2: bytes, 5: float}  # by the last three bits of a tag; no field of ONNX has more


class _Reader:
    """Reads messages, no more than `_MOST_FIELDS` fields in all."""

    def __init__(self) -> None:
        self._left = _MOST_FIELDS

    def fields(self, message: int | memoryview) -> Iterator[Field]:
        if isinstance(message, int):
            raise _damaged("a number stands where a message is expected")
        at = 0
        while at < len(message):
            self._left -= 1
            if self._left < 0:
                raise _damaged(f"it has over {_MOST_FIELDS:,} fields")
            start = at
            tag, at = _number(message, at)
            number, holds = tag >> 3, _HOLDS.get(tag & 7)
            # Other readers take the lower 32 bits of a tag, and so another field.
            if holds is None or not 0 < number < 2**29:
                raise _damaged("it is no ONNX file")
            value: int | memoryview
            if holds is int:
                value, at = _number(message, at)
            else:
                size, at = (4, at) if holds is float else _number(message, at)
                value, at = message[at : at + size], at + size
                if at > len(message):
                    raise _damaged("it was cut short")
            yield Field(number, holds, value, message[start:at])

    def only(self, message: int | memoryview, number: int) -> list[int | memoryview]:
        return [field.value for field in self.fields(message) if field.number == number]


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """Read a number of up to 64 bits, 7 a byte and no byte too many; return it and its end."""
    value = 0
    for place in range(10):
        if at + place >= len(message):
            raise _damaged("it was cut short")
        byte = message[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            if value >= 2**64 or (place and not byte):
                break
            return value, at + place + 1
    raise _damaged("it is no ONNX file")


def _damaged(reason: str) -> OnnxFileError:
    return OnnxFileError(
        f"the ONNX file is damaged: {reason}.",
        expected="a file as `pipeline export` wrote it",
        fix="copy it again from where it came, or export the model again",
    )


def _refused(reason: str) -> OnnxFileError:
    return OnnxFileError(
        f"the ONNX file is not to be used: {reason}.",
        expected="what `pipeline export` writes: one graph, complete in itself",
        fix="export the model again",
    )


def digest_of(content: bytes, description: Mapping[str, Any]) -> str:
    """Give the SHA-256 of a model and its description.

    That is of all top-level fields but the metadata, in their order, and then of the description
    without its entry ``"digest"``, in canonical JSON.
    """
    digest = hashlib.sha256()
    for field in _Reader().fields(memoryview(content)):
        if field.number != _METADATA:
            digest.update(field.whole)
    others = {name: value for name, value in description.items() if name != "digest"}
    digest.update(json.dumps(others, sort_keys=True, separators=(",", ":")).encode())
    return digest.hexdigest()


def with_description(content: bytes, description: Mapping[str, Any]) -> bytes:
    """Add a description to a model, with the digest of both."""
    text = json.dumps({**description, "digest": digest_of(content, description)})
    pair = b"".join(_bytes_field(number, part.encode()) for number, part in ((1, KEY), (2, text)))
    return content + _bytes_field(_METADATA, pair)


def _bytes_field(number: int, value: bytes) -> bytes:
    return _written(number << 3 | 2) + _written(len(value)) + value


def _written(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def description_of(content: bytes) -> str:
    """Return the text that `with_description` added, of which there must be one.

    Raises
    ------
    OnnxFileError
        It is no ONNX file, or none that this program wrote.
    """
    reader, found = _Reader(), []
    for pair in reader.only(memoryview(content), _METADATA):
        names, texts = reader.only(pair, 1), reader.only(pair, 2)
        if [_text(name) for name in names] == [KEY] and len(texts) == 1:
            found.append(_text(texts[0]))
    if len(found) != 1:
        raise OnnxFileError(
            "the ONNX file was not written by this program"
            + (", or more than once." if found else "."),
            expected="a file that `pipeline export` wrote",
            fix="export the model: `pipeline export RUN --format onnx --out FILE`",
        )
    return found[0]


def _text(value: int | memoryview) -> str:
    if isinstance(value, int) or len(value) > _MOST_TEXT:
        raise _damaged("its description is too long")
    return bytes(value).decode(errors="replace")


def check_complete(content: bytes) -> None:
    """Refuse a model that is not complete in itself, or holds more than its bytes are.

    That is one whose arrays lie in other files or are larger than what is stored of them, with
    operations that are not ONNX's own, with loops and branches, or with any other part that no
    model of ours has.

    Raises
    ------
    OnnxFileError
        It does one of these.
    """
    if _GRAPH not in _check(_Reader(), "model", memoryview(content)):
        raise _refused("it has no graph")


def _check(reader: _Reader, kind: str, message: int | memoryview) -> dict[int, list[Any]]:
    """Check a message and all that is in it; return the values of its fields."""
    found: dict[int, list[Any]] = {}
    for field in reader.fields(message):
        part: Any = _PARTS[kind].get(field.number)
        if several := isinstance(part, list):
            [part] = part
        if isinstance(part, _No):
            raise _refused(part.reason)
        if part is None or (field.number in found and not several):
            raise _refused(f"field {field.number} of a message ({kind}) is unknown or there twice")
        if isinstance(part, str):
            _check(reader, part, field.value)
        elif field.holds not in (part, bytes if several else part):
            raise _damaged("it is no ONNX file")
        found.setdefault(field.number, []).append(field.value)
    domain, known = _DOMAINS.get(kind, (0, ()))
    if domain and bytes(*found.get(domain, [])) not in known:
        raise _refused("it has operations that are not ONNX's own")
    if kind == "array":
        _check_array(found)
    return found


def _check_array(found: Mapping[int, list[Any]]) -> None:
    if found.get(_LOCATION, [0]) != [0]:
        raise _refused(_FILES.reason)
    sides = [side for value in found.get(_SIDES, ()) for side in _numbers(value)]
    if len(sides) > _MOST_SIDES:
        raise _refused("it has an array of too many dimensions")
    count = math.prod(sides)
    [size] = (_BYTES.get(kind, 0) for kind in found.get(_TYPE, [0]))
    stored = [len(raw) for raw in found.get(_RAW, ())]
    if not size or max(sides, default=0) >= 2**40 or (not stored and count > _MOST_VALUES):
        raise _refused(f"it declares an array of {count:,} values that are not in it")
    if stored not in ([], [count * size]):
        raise _refused(f"an array of {count:,} values has {stored[0]:,} bytes")


def _numbers(value: int | memoryview) -> list[int]:
    """Read a number, or several that are stored together."""
    if isinstance(value, int):
        return [value]
    numbers: list[int] = []
    at = 0
    while at < len(value) and len(numbers) <= _MOST_SIDES:
        number, at = _number(value, at)
        numbers.append(number)
    return numbers
