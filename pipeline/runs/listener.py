"""What an experiment tells while it works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.features.listener import Listener

if TYPE_CHECKING:  # a listener is imported by every command, and must cost nothing
    from pipeline.runs.run import Result

Layer = tuple[str, tuple[int, ...], int, bool]
"""A layer of a network: name, shape of its output, number of parameters, whether it is trained."""


class RunListener(Listener):
    """Hears how far an experiment is, and does nothing: override what you want to hear."""

    def streaming(self, reason: str) -> None:
        """Hear that rows are read shard by shard, and why."""

    def judging(self, heads: Sequence[str]) -> None:
        """Hear which heads are going to be fitted and judged, in their order."""

    def head_epoch(self, head: str, done: int, total: int) -> None:
        """Hear how many epochs of a head's training are done, where rows are streamed."""

    def judged(self, result: Result) -> None:
        """Hear that a head is fitted and judged."""

    def failed(self, head: str, reason: str) -> None:
        """Hear that a head could not be fitted, and why."""

    def built(self, layers: Sequence[Layer]) -> None:
        """Hear which layers a network has, before it is trained."""

    def images_trained(self, phase: str, done: int, total: int) -> None:
        """Hear how many images of a phase of fine-tuning are done, after each step."""

    def epoch_ended(self, phase: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Hear the losses and accuracies of an epoch of a phase of fine-tuning."""
