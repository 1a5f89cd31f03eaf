"""What can become of the places of a picture."""

from __future__ import annotations

from typing import Literal, get_args

Pooling = Literal["flatten", "average", "max"]
POOLS: tuple[Pooling, ...] = get_args(Pooling)
"""Keep the places apart, or take their mean or maximum."""
