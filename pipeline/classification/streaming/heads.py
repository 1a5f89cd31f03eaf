"""Which heads can be trained shard by shard."""

from __future__ import annotations

from pipeline.classification.streaming.dense import train_dense
from pipeline.classification.streaming.linear import train_linear
from pipeline.classification.streaming.stream import Stream
from pipeline.classification.streaming.trained import OnEpoch, TrainedHead
from pipeline.errors import PipelineError
from pipeline.heads.registry import Head

STREAMED = ("logistic", "linear-svm", "dense", "textbook-dense")
"""Names of the heads that can be trained shard by shard."""


def fit_streamed(
    head: Head,
    stream: Stream,
    *,
    balanced: bool = False,
    on_epoch: OnEpoch = lambda done, most: None,
) -> TrainedHead:
    """Train a head on rows that need not fit into memory.

    As in memory, parameters are chosen by the log loss on validation images, and linear heads are
    then trained on training and validation images. Memory holds a few shards and, of each
    validation image, 8 bytes x classes x candidates: less than the probabilities of all images.
    The stream's seed also decides what is random in the head.
    """
    if head.name not in STREAMED:
        raise PipelineError(
            f"the head {head.name} cannot be trained on streamed rows.",
            expected=f"one of {', '.join(STREAMED)}",
        )
    stream.dataset.require_all_splits()
    train = train_dense if head.early_stopping else train_linear
    return train(head, stream, balanced=balanced, on_epoch=on_epoch)
