"""How the cells of a feature map are pooled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from pipeline.backbones.choices import EVERY_LAYER, LAYERS
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.backbones.recipe import Recipe

Pooling = Literal["flatten", "average", "max"]
POOLS: tuple[Pooling, ...] = get_args(Pooling)
"""Keep the cells apart, or take their mean or maximum."""
CHOICES: tuple[str, ...] = (*POOLS, LAYERS)
"""What a classifier can be trained on."""

_MOST_FLATTENED = 32_768  # values: 8 x 8 places of 512 channels


def check_pools(pools: Sequence[str]) -> None:
    """Refuse unknown names, and none at all."""
    unknown = [pool for pool in pools if pool not in CHOICES]
    if unknown or not pools:
        raise PipelineError(
            f"unknown pooling {', '.join(map(repr, unknown))}." if pools else "no pooling given.",
            expected=f"one or several of {', '.join(CHOICES)}",
        )


def pools_of(recipe: Recipe, pools: Sequence[str] | None) -> tuple[str, ...]:
    """Return which of some poolings apply to a recipe's rows; the maxima have no places.

    By default rows are flattened, or, where that makes very long ones, averaged, as networks that
    give such maps were trained to be used.
    """
    if recipe.layer in EVERY_LAYER:
        return ("flatten",) if pools is None or LAYERS in pools else ()
    if pools is None:
        return ("flatten" if math.prod(recipe.shape) <= _MOST_FLATTENED else "average",)
    return tuple(pool for pool in pools if pool != LAYERS)
