"""The files of a saved model, checked before they are loaded.

Only `pipeline.models.loading` imports scikit-learn, which takes a second.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec

from pipeline.errors import ModelError
from pipeline.evaluation.threshold import Threshold
from pipeline.system.documents import (
    DamagedError,
    Document,
    NewerError,
    convert,
    parse,
    read_document,
    to_json,
    to_plain,
)
from pipeline.system.files import read_regular
from pipeline.system.machine import free_memory

MANIFEST = "manifest.json"
SKLEARN_FILE = "head.skops"
KERAS_FILE = "head.weights.h5"
_MOST_BYTES = 2**24  # of a manifest; of a run.json, 16 times that
WHOLE_FILE = "model.keras"  # for use elsewhere: here it would be a second copy of the base
KINDS = {(SKLEARN_FILE,): "sklearn", (KERAS_FILE,): "dense", (KERAS_FILE, WHOLE_FILE): "tuned"}


class Manifest(Document, frozen=True, kw_only=True):
    """What `manifest.json` holds: the fields of `pipeline.models.model.Model`, and its files.

    Attributes
    ----------
    files : dict of str to str
        SHA-256 of each, by its name.
    digest : str
        That of all other fields; see `digest_of_manifest`.
    """

    head: str
    classes: tuple[str, ...]
    parameters: dict[str, Any]
    recipe: dict[str, Any]
    views: int = 1
    augmentation: str = "none"
    trained_on: str = ""
    threshold: Threshold | None = None
    positive: int | None = None
    files: dict[str, str]
    digest: str = ""

    def __post_init__(self) -> None:
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise ValueError("its classes are not two or more different names")
        if self.positive not in (None, 0, 1):
            raise ValueError("its positive class is not one of two")


class _RunDocument(msgspec.Struct):
    """Of a run's `run.json`, which is read in `pipeline.runs`, what tells the model to take."""

    best: str


def find_model(folder: Path, head: str | None = None) -> Path:
    """Find the model's own folder, given that or a run's."""
    run_file = folder / "run.json"
    run_elsewhere = hint_at_run(folder)
    if not folder.is_dir() or (run_elsewhere and not (folder / MANIFEST).exists()):
        raise ModelError(
            f"{folder} is no run and no model."
            if folder.is_dir()
            else f"there is no folder {folder}.",
            expected="a folder that `pipeline classify` wrote: runs/<name>, or one of its models",
            fix=run_elsewhere,
        )
    if not run_file.exists():
        if head:
            raise ModelError(
                f"{folder} is not a run, so there is no head to choose in it.",
                expected="the folder of a run, which holds run.json",
                fix="leave --head away if it is a model's own folder",
            )
        return folder
    try:
        name = head or convert(parse(read_regular(run_file, 16 * _MOST_BYTES)), _RunDocument).best
    except (OSError, DamagedError) as error:
        raise ModelError(
            f"{run_file} cannot be read: {error}.", fix="name one of the folders in models/ itself"
        ) from error
    names = sorted(path.name for path in (folder / "models").glob("*"))
    if folder_name(name) not in names:
        raise ModelError(
            f"the run {folder} has no head {name!r}.",
            expected=f"one of {', '.join(names)}",
            fix="name one of these, or train another: `pipeline classify DATA --head NAME`",
        )
    return folder / "models" / folder_name(name)


def hint_at_run(folder: Path) -> str:
    """Say which run may be meant by a folder that holds none: that of its name in runs/."""
    run = Path("runs", folder)
    is_meant = not (folder / "run.json").exists() and (run / "run.json").is_file()
    return f"name the run: {run}" if is_meant else ""


def folder_name(head: str) -> str:
    """Give a head's name as part of a file's: Windows allows no colon there."""
    return head.replace(":", "--")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest with its digest."""
    fields = to_plain(manifest)
    del fields["digest"]
    fields["digest"] = digest_of_manifest(fields)
    (folder / MANIFEST).write_text(to_json(fields))


def read_manifest(folder: Path) -> Manifest:
    """Read a manifest, and check its digest."""
    path = folder / MANIFEST
    try:
        content = read_regular(path, _MOST_BYTES, follow=True)
        manifest = read_document(content, Manifest)
    except OSError as error:
        raise ModelError(
            f"there is no model in {folder}: {MANIFEST} cannot be read ({error.strerror}).",
            expected="a folder that `pipeline classify` wrote: runs/<name>, or one of its models",
        ) from error
    except NewerError as error:
        raise ModelError(
            f"the model in {folder} is of schema version {error.version}.",
            expected=f"version {error.known} or older, which is what this installation reads",
            fix="update cached-feature-pipeline",
        ) from error
    except DamagedError as error:
        raise damaged(folder, f"{MANIFEST} is not a manifest: {error}") from error
    fields = parse(content)  # as written: a manifest of an older version has fewer fields
    if fields.pop("digest", None) != digest_of_manifest(fields):
        raise damaged(folder, f"{MANIFEST} was changed since the model was saved")
    return manifest


def digest_of_manifest(fields: dict[str, Any]) -> str:
    """Give the SHA-256 of all fields but the digest, in canonical JSON."""
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def damaged(folder: Path, reason: str) -> ModelError:
    """Make the error for a model whose files cannot be believed."""
    return ModelError(
        f"the model in {folder} is damaged: {reason}.",
        expected="the files as `pipeline classify` wrote them",
        fix="copy the folder again from where it came, or train the model again",
    )


def read_checked(folder: Path, file: str, digest: str) -> bytes:
    """Read a file of a model, and check its digest."""
    try:
        content = read_regular(folder / file, free_memory(), follow=True)
    except OSError as error:
        raise damaged(folder, f"{file} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise damaged(folder, f"{file} was changed since the model was saved")
    return content
