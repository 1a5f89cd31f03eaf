"""Where a Keras network can be cut: outputs that all paths from input to output pass through."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

VERSION = 1
"""To be raised when a network has other cuts than before, or other names of them."""

_BEFORE = {"InputLayer", "Rescaling", "Normalization"}
_NO_CUT = {"ZeroPadding2D", "Dropout"}
_COMPLETED_BY = {
    "Activation", "BatchNormalization", "Dropout", "LayerNormalization", "ReLU",
}  # fmt: skip


def clean_cuts(model: Any) -> dict[str, Any]:
    """List the outputs that a network can be cut at, by name, from the input up.

    A convolution with its normalisation and activation counts as one: its output is the last
    one's. Layers are followed as `model.operations` has them, since some networks add and multiply
    tensors without layers. Names that Keras numbers over a whole process are numbered anew, so that
    they are always the same.
    """
    operations = [op for op in model.operations if type(op).__name__ not in _BEFORE]
    names = _stable_names(operations)
    place = {id(op): at for at, op in enumerate(operations)}
    users: dict[int, list[Any]] = {id(op): [] for op in operations}
    for op in operations:
        for node in op._inbound_nodes:
            for parent in node.parent_nodes:
                if id(parent.operation) in users:
                    users[id(parent.operation)].append(op)
    cuts = {}
    open_until = -1  # the last operation that uses an output of those before
    for at, (op, name) in enumerate(zip(operations, names)):
        following = users[id(op)]
        is_clean = open_until <= at
        open_until = max([open_until, *(place[id(user)] for user in following)])
        completed = len(following) == 1 and type(following[0]).__name__ in _COMPLETED_BY
        if type(op).__name__ in _NO_CUT:
            continue
        if is_clean and not completed and len(op.output.shape) == 4:
            cuts[name] = op.output
    return cuts


def _stable_names(operations: list[Any]) -> list[str]:
    """Name operations as their network does, and those that Keras numbered, by their order."""
    numbers: Counter[str] = Counter()
    names = []
    for op in operations:
        kind, name = type(op).__name__.lower(), re.sub(r"_\d+$", "", op.name)
        automatic = name.replace("_", "") == kind
        numbers[kind] += 1
        names.append(f"{name}_{numbers[kind]}" if automatic else op.name)
    return names
