"""How the cells of a feature map are pooled."""

from __future__ import annotations

from typing import Literal, get_args

Pooling = Literal["flatten", "average", "max"]
POOLS: tuple[Pooling, ...] = get_args(Pooling)
"""Keep the cells apart, or take their mean or maximum."""
