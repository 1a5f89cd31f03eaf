"""Which heads can be trained shard by shard."""

from __future__ import annotations

from pipeline.classification.streaming.dense import fit_dense
from pipeline.classification.streaming.fit import Report, StreamedFit
from pipeline.classification.streaming.linear import fit_linear
from pipeline.classification.streaming.stream import Stream
from pipeline.errors import PipelineError
from pipeline.heads.registry import Head

__all__ = ["STREAMED", "Stream", "StreamedFit", "fit_streamed"]

STREAMED = ("logistic", "linear-svm", "dense")
"""The heads that can be trained so."""


def fit_streamed(
    head: Head, stream: Stream, *, balanced: bool = False, on_epoch: Report | None = None
) -> StreamedFit:
    """Train a head on rows that need not fit into memory.

    As in memory, what there is to choose is chosen by the log loss on validation, and linear heads
    are then trained on training and validation images.
    """
    if head.name not in STREAMED:
        raise PipelineError(
            f"the head {head.name} cannot be trained on streamed rows.",
            expected=f"one of {', '.join(STREAMED)}",
        )
    stream.dataset.require_all_splits()
    fit = fit_dense if head.early_stopping else fit_linear
    return fit(head, stream, balanced=balanced, report=on_epoch or (lambda done, most: None))
