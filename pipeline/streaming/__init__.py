"""Training on more rows than memory holds: shard by shard, several times over.

Each epoch goes through the store's shards in an order of its own, and mixes the rows of a few of
them. So memory holds some shards, whatever the number of images. The estimators are those that
scikit-learn and Keras can train by parts, in place of the exact solvers of `pipeline.heads`. Of
more than two classes, `logistic` learns each against the rest here, and all at once in memory.
"""

from __future__ import annotations

from pipeline.errors import PipelineError
from pipeline.heads import Head
from pipeline.streaming.dense import fit_dense
from pipeline.streaming.fit import Report, StreamedFit
from pipeline.streaming.linear import fit_linear
from pipeline.streaming.stream import Stream

__all__ = ["STREAMED", "Stream", "StreamedFit", "fit_streamed"]

STREAMED = ("logistic", "linear-svm", "dense")
"""The heads that can be trained so."""


def fit_streamed(
    head: Head, stream: Stream, *, balanced: bool = False, on_epoch: Report | None = None
) -> StreamedFit:
    """Train a head on rows that need not fit into memory.

    As in memory, what there is to choose is chosen by the log loss on validation, and linear heads
    are then trained on training and validation images.

    Parameters
    ----------
    head : Head
        One of `STREAMED`.
    stream : Stream
        The images, with all splits. Its seed decides what is random in the head, too.
    balanced : bool
        Whether classes are to count the same, however many images they have.
    on_epoch : callable, optional
        Called with the number of epochs done, of all candidates, and the most that there will be.

    Raises
    ------
    PipelineError
        The head cannot be trained so, a split is empty, or rows are no longer there.
    """
    if head.name not in STREAMED:
        raise PipelineError(
            f"the head {head.name} cannot be trained on streamed rows.",
            expected=f"one of {', '.join(STREAMED)}",
        )
    stream.dataset.require_all_splits()
    fit = fit_dense if head.early_stopping else fit_linear
    return fit(head, stream, balanced=balanced, report=on_epoch or (lambda done, most: None))
