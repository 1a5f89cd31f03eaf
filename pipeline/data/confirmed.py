"""Labels that somebody looked at and found right: beside the file of labels, line by line."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.table import list_csv
from pipeline.data.urls import locate, whole_name
from pipeline.system.files import file_errors, open_regular
from pipeline.system.journal import Journal


def labels_file_of(name: str) -> Path:
    """Name the file that the labels of a data set are kept in, unless another is named."""
    return Path(f"{name}-labels.csv")


def journal_of(file: Path) -> Path:
    """Name what lies beside a file of labels, whose columns `classify` knows."""
    return file.parent / f".{file.name}.confirmed"


def confirmed_labels(file: Path) -> dict[str, str]:
    """Return the label that was confirmed last, by the whole names of the images; empty if none."""
    journal = journal_of(file)
    with file_errors(f"read {journal}"):
        if not journal.exists():
            return {}
        with open_regular(journal) as lines:  # no lock: half a line is passed over
            found = Journal(lines).lines()
    return {whole_name(locate(text, file.parent)): label for text, label in found}


def labels_still_confirmed(file: Path) -> dict[str, str]:
    """Return those of them that the images have in the file by now."""
    found = confirmed_labels(file)
    listed = list_csv(file).entries if found else ()
    now = {whole_name(entry.path): entry.label for entry in listed}
    return {key: label for key, label in found.items() if label and label == now.get(key)}
