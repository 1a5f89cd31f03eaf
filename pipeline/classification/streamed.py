"""Rows that are read shard by shard, where memory does not hold them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline.analysis.problems import Problems
from pipeline.backbones.recipe import Recipe
from pipeline.classification.results import model_of, named_rows, result_of, threshold_for
from pipeline.classification.rows import Block, Rows
from pipeline.classification.streaming.heads import STREAMED, fit_streamed
from pipeline.classification.streaming.stream import Stream
from pipeline.classification.streaming.trained import TrainedHead
from pipeline.classification.task import Setting
from pipeline.errors import PipelineError
from pipeline.features.views import Views
from pipeline.heads.registry import Head
from pipeline.runs.listener import RunListener
from pipeline.runs.run import Result


class StreamedRows(Rows):
    """The rows of a data set's images, in stores.

    Parameters
    ----------
    setting : Setting
        What is judged, and how; only train/validation/test splits are supported.
    streams : sequence of (Stream, pools)
        Read the rows of each recipe; and how heads may pool them, if at all.
    reason : str
        Why they are not held in memory.
    listener : RunListener
        Told of epochs.
    """

    def __init__(
        self,
        setting: Setting,
        streams: Sequence[tuple[Stream, tuple[str, ...]]],
        reason: str,
        listener: RunListener,
    ) -> None:
        self.setting = setting
        self._streams = streams
        self._reason = reason
        self._listener = listener

    def read(self, recipe: Recipe, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return a recipe's rows of some images, shape (n, height, width, channels)."""
        return self._stream(recipe).read(places)

    def blocks(self, recipe: Recipe) -> Iterator[Block]:
        """Yield a recipe's rows of all images, a shard at a time."""
        return self._stream(recipe).once()

    def _stream(self, recipe: Recipe) -> Stream:
        return next(stream for stream, _ in self._streams if stream.store.recipe == recipe)

    def judge(self, head: Head) -> Result:
        """Choose a head's rows and parameters, fit it, and judge it."""
        started = time.perf_counter()
        if head.name not in STREAMED:
            raise PipelineError(
                f"it needs all rows in memory, and they are read shard by shard: {self._reason}"
            )
        tried = [
            (stream, self._fit(head.with_pools(pools, stream.store.recipe.shape), stream))
            for stream, pools in self._streams
            if pools
        ]
        candidates = [
            ({**self._rows_of(stream), **parameters}, loss)
            for stream, fitted in tried
            for parameters, loss in fitted.candidates
        ]
        stream, fitted = min(tried, key=lambda each: min(loss for _, loss in each[1].candidates))
        seconds = time.perf_counter() - started
        judged = self.setting.dataset.where("validation")
        [p] = stream.apply([fitted.classifier.predict_proba])
        threshold = threshold_for(self.setting, judged, fitted.held_out)
        recipe = stream.store.recipe
        return result_of(
            self.setting,
            model_of(
                self.setting, head, fitted.classifier, threshold, recipe=recipe, views=Views()
            ),
            parameters={**self._rows_of(stream), **fitted.parameters},
            candidates=tuple(candidates),
            judged=judged,
            judged_p=fitted.held_out,
            p=p,
            seconds=seconds,
        )

    def _fit(self, head: Head, stream: Stream) -> TrainedHead:
        return fit_streamed(
            head,
            stream,
            balanced=self.setting.protocol.balanced,
            on_epoch=partial(self._listener.head_epoch, head.name),
        )

    def _rows_of(self, stream: Stream) -> dict[str, str]:
        recipes = [other.store.recipe for other, pools in self._streams if pools]
        return named_rows(stream.store.recipe, recipes)

    def find_problems(self, best: Result) -> Problems | None:  # noqa: ARG002 -- the interface's
        """Find nothing: images would have to be compared in memory."""
        return None

    @property
    def remarks(self) -> tuple[str, ...]:
        """Say why rows were read shard by shard, and what it means for thresholds."""
        by_shard = f"Classifiers were trained on rows read shard by shard: {self._reason}."
        if self.setting.protocol.threshold:
            by_shard += " So thresholds were chosen on the validation images alone."
        return (*self.setting.remarks, by_shard)
