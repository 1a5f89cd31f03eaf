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

# Numbers of fields in onnx.proto.
_GRAPH, _OPSETS, _METADATA, _TRAINING, _FUNCTIONS = 7, 8, 14, 20, 25  # of a model
_NODES, _ARRAYS, _INPUTS, _OUTPUTS, _SPARSE_ARRAYS = 1, 5, 11, 12, 15  # of a graph
_ATTRIBUTES, _DOMAIN = 5, 7  # of a node
_ARRAY, _SUBGRAPH, _OF_ARRAYS, _OF_GRAPHS, _SPARSE, _OF_SPARSE = 5, 6, 10, 11, 22, 23
_SIDES, _TYPE, _RAW, _EXTERNAL, _LOCATION = 1, 2, 9, 13, 14  # of an array
_DOMAINS = (b"", b"ai.onnx", b"ai.onnx.ml")
_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}


class OnnxFileError(ModelError):
    """An ONNX file that is none of ours, or is not to be used."""


class Field(NamedTuple):
    """A field of a message.

    Attributes
    ----------
    number : int
        Which of the message's fields it is.
    value : int or memoryview
        Its number, or its bytes.
    whole : memoryview
        All bytes of it, its number included.
    """

    number: int
    value: int | memoryview
    whole: memoryview


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
            kind = tag & 7
            value: int | memoryview = 0
            if kind == 0:
                value, at = _number(message, at)
            elif kind in (1, 2, 5):
                size = 8 if kind == 1 else 4
                if kind == 2:
                    size, at = _number(message, at)
                value, at = message[at : at + size], at + size
                if at > len(message):
                    raise _damaged("it was cut short")
            if kind not in (0, 1, 2, 5) or not tag >> 3:
                raise _damaged("it is no ONNX file")
            yield Field(tag >> 3, value, message[start:at])

    def only(self, message: int | memoryview, number: int) -> list[int | memoryview]:
        return [field.value for field in self.fields(message) if field.number == number]


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """Read a number of up to 64 bits, 7 a byte; return it and where it ends."""
    value = 0
    for place in range(10):
        if at + place >= len(message):
            raise _damaged("it was cut short")
        byte = message[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
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
    operations that are not ONNX's own, or with loops and branches, which no model of ours has.

    Raises
    ------
    OnnxFileError
        It does one of these.
    """
    reader = _Reader()
    for field in reader.fields(memoryview(content)):
        if field.number in (_TRAINING, _FUNCTIONS):
            raise _refused("it has parts that are not needed to predict")
        if field.number == _OPSETS:
            _check_domains(reader.only(field.value, 1))
        if field.number == _GRAPH:
            _check_graph(reader, field.value)


def _check_graph(reader: _Reader, graph: int | memoryview) -> None:
    for field in reader.fields(graph):
        if field.number == _ARRAYS:
            _check_array(reader, field.value)
        elif field.number == _SPARSE_ARRAYS:
            raise _refused("it has sparse arrays")
        elif field.number == _NODES:
            for part in reader.fields(field.value):
                if part.number == _DOMAIN:
                    _check_domains([part.value])
                elif part.number == _ATTRIBUTES:
                    _check_attribute(reader, part.value)


def _check_attribute(reader: _Reader, attribute: int | memoryview) -> None:
    for field in reader.fields(attribute):
        if field.number in (_ARRAY, _OF_ARRAYS):
            _check_array(reader, field.value)
        elif field.number in (_SUBGRAPH, _OF_GRAPHS):
            raise _refused("it has loops or branches")
        elif field.number in (_SPARSE, _OF_SPARSE):
            raise _refused("it has sparse arrays")


def _check_domains(domains: list[int | memoryview]) -> None:
    if any(isinstance(domain, int) or bytes(domain) not in _DOMAINS for domain in domains):
        raise _refused("it has operations that are not ONNX's own")


def _check_array(reader: _Reader, array: int | memoryview) -> None:
    sides: list[int] = []
    stored, kind = None, 0
    for field in reader.fields(array):
        if field.number == _EXTERNAL or (field.number == _LOCATION and field.value != 0):
            raise _refused("it takes numbers from another file")
        if field.number == _SIDES:
            sides += _numbers(field.value)
        elif field.number == _TYPE and isinstance(field.value, int):
            kind = field.value
        elif field.number == _RAW and not isinstance(field.value, int):
            stored = len(field.value)
    count = math.prod(sides)
    if any(side >= 2**40 for side in sides) or (stored is None and count > _MOST_VALUES):
        raise _refused(f"it declares an array of {count:,} values that are not in it")
    if stored is not None and stored != count * _BYTES.get(kind, 0):
        raise _refused(f"an array of {count:,} values has {stored:,} bytes")


def _numbers(value: int | memoryview) -> list[int]:
    """Read a number, or several that are stored together."""
    if isinstance(value, int):
        return [value]
    numbers: list[int] = []
    at = 0
    while at < len(value) and len(numbers) < 100:
        number, at = _number(value, at)
        numbers.append(number)
    return numbers
