"""How the cells of a feature map are pooled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from pipeline.errors import PipelineError

Pooling = Literal["flatten", "average", "max"]
POOLS: tuple[Pooling, ...] = get_args(Pooling)
"""Keep the cells apart, or take their mean or maximum."""
LAYERS = "layers"
"""Beside the poolings of one layer's output: the maxima of every layer."""
CHOICES: tuple[str, ...] = (*POOLS, LAYERS)
"""What a classifier can be trained on."""
CHOICES_BY_DEFAULT = ("flatten", LAYERS)


def check_pools(pools: Sequence[str]) -> None:
    """Refuse unknown names, and none at all."""
    unknown = [pool for pool in pools if pool not in CHOICES]
    if unknown or not pools:
        raise PipelineError(
            f"unknown pooling {', '.join(map(repr, unknown))}." if pools else "no pooling given.",
            expected=f"one or several of {', '.join(CHOICES)}",
        )


def pools_of(layer: str, pools: Sequence[str]) -> tuple[str, ...]:
    """Return which of some poolings apply to the rows of a layer; the maxima have no places."""
    return ("flatten",) if layer == LAYERS else tuple(pool for pool in pools if pool != LAYERS)
