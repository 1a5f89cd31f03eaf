"""The names of the filters that bring pictures to the network's size."""

from __future__ import annotations

from typing import Literal

Resize = Literal["bilinear", "nearest", "bicubic"]
