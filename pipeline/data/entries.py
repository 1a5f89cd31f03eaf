"""What a source lists: images with what the user says of them, before any file is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.data.dataset import Quarantined
from pipeline.data.names import nfc, remarks_on
from pipeline.data.urls import Location, Url

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
"""What users call splits, in lower case, and their names here."""

LAYOUTS = (
    "a folder of class folders (cats/, dogs/), a folder with train/, validation/ and test/ of "
    "class folders, or a CSV with the columns path,label[,split][,group]"
)
"""What a data set may be, for messages."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One image: its file, and its class, split and group by name, empty where it has none."""

    path: Location
    label: str
    split: str = ""
    group: str = ""

    def composed(self) -> Entry:
        """Return the same with composed names, as `pipeline.data.names` has them."""
        label, group = nfc(self.label), nfc(self.group)
        if (label, group) == (self.label, self.group):  # as nearly always, and of a million
            return self
        return replace(self, label=label, group=group)


@dataclass(frozen=True)
class Listing:
    """The images of a source, the signatures of those behind URLs, and what else is to be said."""

    name: str
    entries: list[Entry]
    quarantined: list[Quarantined] = field(default_factory=list)
    signatures: Mapping[Url, bytes] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted."""
        return tuple(sorted({entry.label for entry in self.entries}))

    def composed(self) -> Listing:
        """Return the same with composed names, and with remarks on them."""
        entries = [entry.composed() for entry in self.entries]
        remarks = [
            *self.remarks,
            *remarks_on("class", {entry.label for entry in self.entries}),
            *remarks_on("group", {entry.group for entry in self.entries} - {""}),
        ]
        return replace(self, entries=entries, remarks=remarks)
