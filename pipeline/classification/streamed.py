"""Rows that are read shard by shard, where memory does not hold them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline.analysis.problems import Problems
from pipeline.classification.results import model_of, result_of, threshold_for
from pipeline.classification.rows import Block, Rows
from pipeline.classification.streaming.heads import STREAMED, fit_streamed
from pipeline.classification.streaming.stream import Stream
from pipeline.classification.task import Setting
from pipeline.errors import PipelineError
from pipeline.features.views import Views
from pipeline.heads.registry import Head
from pipeline.runs.listener import RunListener
from pipeline.runs.run import Result


class StreamedRows(Rows):
    """The rows of a data set's images, in a store.

    Parameters
    ----------
    setting : Setting
        What is judged, and how; only train/validation/test splits are supported.
    stream : Stream
        Reads the rows.
    reason : str
        Why they are not held in memory.
    listener : RunListener
        Told of epochs.
    """

    def __init__(
        self, setting: Setting, stream: Stream, reason: str, listener: RunListener
    ) -> None:
        self.setting = setting
        self._stream = stream
        self._reason = reason
        self._listener = listener

    def read(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the rows of some images, shape (n, height, width, channels)."""
        return self._stream.read(places)

    def blocks(self) -> Iterator[Block]:
        """Yield the rows of all images, a shard at a time."""
        return self._stream.once()

    def judge(self, head: Head) -> Result:
        """Choose a head's parameters, fit it, and judge it."""
        started = time.perf_counter()
        if head.name not in STREAMED:
            raise PipelineError(
                f"it needs all rows in memory, and they are read shard by shard: {self._reason}"
            )
        fitted = fit_streamed(
            head,
            self._stream,
            balanced=self.setting.protocol.balanced,
            on_epoch=partial(self._listener.head_epoch, head.name),
        )
        seconds = time.perf_counter() - started
        judged = self.setting.dataset.where("validation")
        [p] = self._stream.apply([fitted.classifier.predict_proba])
        threshold = threshold_for(self.setting, judged, fitted.held_out)
        return result_of(
            self.setting,
            model_of(self.setting, head, Views(), fitted.classifier, threshold),
            parameters=dict(fitted.parameters),
            candidates=tuple((dict(tried), loss) for tried, loss in fitted.candidates),
            judged=judged,
            judged_p=fitted.held_out,
            p=p,
            seconds=seconds,
        )

    def find_problems(self, best: Result) -> Problems | None:  # noqa: ARG002 -- the interface's
        """Find nothing: images would have to be compared in memory."""
        return None

    @property
    def remarks(self) -> tuple[str, ...]:
        """Say why rows were read shard by shard."""
        return (f"Classifiers were trained on rows read shard by shard: {self._reason}.",)
