"""JSON documents: written so that a person can read them, checked when they are read."""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

import msgspec

from pipeline.errors import PipelineError


class Document(msgspec.Struct, kw_only=True, frozen=True):
    """What all documents begin with; a newer one overrides the version's default."""

    schema: int = 1


_DEEPEST = 100  # of ours, a head: 25. How deep Python itself can go depends on where it is asked

Kind = TypeVar("Kind")
DocumentKind = TypeVar("DocumentKind", bound=Document)


class DamagedError(ValueError):
    """A document is not JSON, or not what it should be."""


class NewerError(ValueError):
    """A document was written by a later version of this project.

    Attributes
    ----------
    version, known : int
        Its schema version, and the newest that this installation reads.
    """

    def __init__(self, version: int, known: int) -> None:
        super().__init__(f"schema version {version}, and {known} is the newest known")
        self.version, self.known = version, known


def to_json(document: object) -> str:
    """Write a document, or plain values, as JSON, in which every control character is an escape."""
    text = json.dumps(to_plain(document), indent=2, allow_nan=False)
    return text.replace("\x7f", "\\u007f") + "\n"


def to_plain(document: object) -> Any:
    """Make dictionaries and lists of a document; numbers that are not finite become None."""
    return _finite(msgspec.to_builtins(document, enc_hook=_from_numpy))


def parse(content: bytes | str) -> Any:
    """Read any JSON; NaN and Infinity, which are not JSON but were once written, become None.

    Names of files are bytes to the system, so texts may hold lone surrogates: the standard
    library's parser keeps them, msgspec's own does not.
    """
    try:
        values = json.loads(
            content,
            parse_constant=lambda name: None,
            parse_float=_parse_float,
            object_pairs_hook=_unique,
        )
    except DamagedError:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"it is not JSON: {error}") from error
    level = [values] if isinstance(values, dict | list) else []
    for _ in range(_DEEPEST):
        level = [
            part
            for whole in level
            for part in (whole.values() if isinstance(whole, dict) else whole)
            if isinstance(part, dict | list)
        ]
        if not level:
            return values
    raise DamagedError(f"it is nested more than {_DEEPEST} deep")


def convert(values: Any, kind: type[Kind]) -> Kind:
    """Check plain values and make them an object of the class that is meant."""
    try:
        return msgspec.convert(values, kind)
    except PipelineError as error:  # a class refused its values
        raise DamagedError(error.found) from error
    except (msgspec.ValidationError, ValueError, OverflowError, RecursionError) as error:
        raise DamagedError(str(error)) from error


def read_document(content: bytes | str, kind: type[DocumentKind]) -> DocumentKind:
    """Read a document of the class that is meant, a subclass of `Document`."""
    values = parse(content)
    version = values.get("schema") if isinstance(values, dict) else None
    if type(version) is not int:
        raise DamagedError("it has no schema version")
    known = next(field.default for field in msgspec.structs.fields(kind) if field.name == "schema")
    if version > known:
        raise NewerError(version, known)
    return convert(values, kind)


def _parse_float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise DamagedError(f"it has {doubled!r} twice in one place")
    return values


def _from_numpy(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise NotImplementedError(f"{type(value).__name__} cannot be written as JSON")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(own) for name, own in value.items()}
    return [_finite(own) for own in value] if isinstance(value, list | tuple) else value
