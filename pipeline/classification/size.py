"""Whether rows fit into memory, and whether heads can do without that."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.backbones.recipe import Recipe
from pipeline.classification.streaming.heads import STREAMED
from pipeline.data.dataset import Dataset
from pipeline.errors import PipelineError
from pipeline.evaluation.protocol import Protocol
from pipeline.features.views import Views
from pipeline.heads.registry import Head
from pipeline.system.machine import free_memory

# Peak memory of training / size of the rows; measured with 8,192 rows: logistic 3.0, dense 3.7.
_MEMORY_FACTOR = 4


def reason_to_stream(
    dataset: Dataset,
    recipes: Sequence[Recipe],
    *,
    heads: Sequence[Head],
    views: Sequence[Views],
    protocol: Protocol,
    wish: bool | None = None,
) -> str | None:
    """Tell why heads are to be trained shard by shard; None where rows can be held in memory."""
    if wish is False:
        return None
    reason = "as asked for" if wish else _too_large(dataset, recipes, views, protocol)
    if reason is None:
        return None
    hindered = {
        "--views": any(wanted.count > 1 for wanted in views),
        "--search": protocol.search,
        "--cv": protocol.cv is not None,
        f"the head {heads[0].name}": not any(head.name in STREAMED for head in heads),
    }
    if obstacles := [name for name, applies in hindered.items() if applies]:
        raise PipelineError(
            f"training shard by shard ({reason}) cannot be done with {' and '.join(obstacles)}.",
            expected=f"one of the heads {', '.join(STREAMED)}, chosen on the validation images",
            fix=f"leave out {' and '.join(obstacles)}, or "
            + ("--stream" if wish else "add memory, or try all the same with --no-stream"),
        )
    return reason


def _too_large(
    dataset: Dataset, recipes: Sequence[Recipe], views: Sequence[Views], protocol: Protocol
) -> str | None:
    images = len(dataset)
    learned = images if protocol.cv is not None else len(dataset.where("train"))
    more = [(wanted.count - 1) * (images if wanted.everywhere else learned) for wanted in views]
    rows = sum(images + count for count in more if count) or images
    values = sum(math.prod(recipe.shape) for recipe in recipes)
    needed, free = _MEMORY_FACTOR * 4 * values * rows, free_memory()
    if needed <= free:
        return None
    return f"{rows:,} rows need about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
