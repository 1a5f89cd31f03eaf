"""Which heads can be trained shard by shard."""

from __future__ import annotations

from pipeline.classification.streaming.dense import train_dense
from pipeline.classification.streaming.linear import train_linear
from pipeline.classification.streaming.stream import Stream
from pipeline.classification.streaming.trained import OnEpoch, TrainedHead
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
    """Train one of `STREAMED` on rows that need not fit into memory.

    As in memory, parameters are chosen by the log loss on validation images, and linear heads are
    then trained on training and validation images. Memory holds a few shards and, of each
    validation image, 8 bytes x classes x candidates: less than the probabilities of all images.
    The stream's seed also decides what is random in the head.
    """
    train = train_dense if head.early_stopping else train_linear
    return train(head, stream, balanced=balanced, on_epoch=on_epoch)
