"""What long work on a data set tells: stage one, and the search for problems."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a listener is imported by every command, and must cost nothing
    from pipeline.data.dataset import Dataset
    from pipeline.features.plan import Plan
    from pipeline.features.store import FeatureStore


class Listener:
    """Hears how far long work is, and does nothing: override what you want to hear."""

    def listed(self, dataset: Dataset) -> None:
        """Hear which images there are, before any work."""

    def calibrating(self, images: int) -> None:
        """Hear that precision int8 is calibrated on so many training images."""

    def planned(self, plan: Plan) -> None:
        """Hear which rows are stored, and which are to be computed."""

    def set_aside(self, store: FeatureStore) -> None:
        """Hear that shards of a store were found damaged while rows were looked up."""

    def image_read(self, digest: bytes) -> None:
        """Hear the digest of an image that is looked up, in any thread."""

    def rows_made(self, done: int, total: int) -> None:
        """Hear how many of the missing rows are computed, after each batch."""

    def comparing(self) -> None:
        """Hear that all rows are there, and that images are compared to find problems."""
