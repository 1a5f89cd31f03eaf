"""The model of a run as a file that other programs run, checked on the run's own images."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import Recipe
from pipeline.data.digests import read_image
from pipeline.data.urls import Location, Url, locate
from pipeline.errors import ImageError, ModelError, PipelineError, in_one_line, printable
from pipeline.models.export import FOLDER, check_target, export_model, keep
from pipeline.models.files import MANIFEST, find_model, read_manifest
from pipeline.models.graphs import NotExportableError
from pipeline.models.model import Model
from pipeline.models.opening import KEPT
from pipeline.models.parity import Parity
from pipeline.runs.folder import MODEL, fill_folder
from pipeline.runs.reading import Record, read_run, run_of
from pipeline.system.documents import to_plain
from pipeline.system.folders import temporary_folder

_PICTURES = 32  # a file is checked on
_FEW = 8  # where fewer of a run's images are left, drawn ones are added


@dataclass(frozen=True)
class Exported:
    """A model that was written as a file.

    Attributes
    ----------
    path : Path
        The file or folder.
    kind : str
        Name of its format.
    model : Model
        What was exported.
    parity : Parity
        How it compares with the model.
    images : int
        On how many of the run's own images; the other pictures were drawn.
    reason : str
        Why there are drawn ones, else empty.
    """

    path: Path
    kind: str
    model: Model
    parity: Parity
    images: int
    reason: str = ""

    def sentences(self) -> list[str]:
        """Say what is to be known of it."""
        parity, model = self.parity, self.model
        exact = "int8" if model.recipe.precision == "int8" else "float32"
        first = (
            f"checked in its own runtime on {self._pictures()}: probabilities differ by at most "
        )
        of_model = f"{parity.difference:.1g} from those of the model in {exact}"
        lines = [f"{first}{of_model}, and {_called(parity.changed)}"]
        if self.reason:
            lines.append(
                f"{self.reason}, so it was checked on drawn pictures, which say less than the "
                "run's images do: compare some answers with those of the model"
            )
        if model.recipe.precision == "bfloat16":
            lines.append(
                f"the model has features in {model.recipe.precision}, the file in float32: "
                f"probabilities differ by at most {parity.own_difference:.1g}, and "
                f"{_called(parity.own_changed)}"
            )
        if self.path.name == KEPT and self.path.with_name(MANIFEST).exists():
            lines.append(
                "kept beside the model: from now on predict answers with it where an image's "
                "features are not in the cache"
            )
        elif model.views > 1 and self.kind != FOLDER:
            lines.append(
                f"the model averages {model.views} views of an image; the file gives the "
                "probabilities of one picture, and says how views are drawn"
            )
        return lines

    def _pictures(self) -> str:
        drawn = self.parity.pictures - self.images
        parts = [f"{self.images} images of the run"] if self.images else []
        return " and ".join([*parts, *([f"{drawn} drawn pictures"] if drawn else [])])


def _called(changed: int) -> str:
    some = "1 image is" if changed == 1 else f"{changed} images are"
    return f"{some if changed else 'no image is'} called otherwise"


def export_run(
    run: str | Path,
    kind: str,
    out: str | Path | None = None,
    *,
    head: str | None = None,
    weights: str | Path | None = None,
    trusted: Sequence[str] = (),
) -> Exported:
    """Write the model of a run as a file of another format, whole or not at all.

    Parameters
    ----------
    run : str or Path
        A run's folder, or that of one of its models.
    kind : str
        ``"onnx"``, ``"openvino"``, ``"litert"``, ``"saved-model"`` or ``"keras"``; or ``"folder"``:
        the ONNX file with a program that runs it and needs no other part of this project.
    out : str or Path
        The file to write, for ``"saved-model"`` and ``"folder"`` the folder; it must not exist.
        Without it an ONNX file is kept beside the model, where `pipeline.load_model` finds it.
    head : str, optional
        A head of the run; the default is its best.
    weights : str or Path, optional
        As in `pipeline.backbones.backbone.Backbone.load_weights`.
    trusted : sequence of str
        As in `pipeline.models.model.Model.load`.

    Raises
    ------
    PipelineError
        There is no such run, the target exists, the format cannot hold the model, or the file does
        not give what the model gives.
    """
    folder = find_model(Path(run), head)
    if out is None and kind != "onnx":
        raise PipelineError(f"no place was named for the {kind}.", fix="name one with --out")
    out = folder / KEPT if out is None else Path(out)
    weights = None if weights is None else Path(weights)
    check_target(out, kind)
    model = Model.load(folder, trusted=trusted)
    record = _record(folder)
    about = {"model": read_manifest(folder).digest, **_figures(record, model.head)}
    with _naming_others(model, record):
        return _export(model, kind, out, record, about=about, weights=weights)


def _export(
    model: Model,
    kind: str,
    out: Path,
    record: Record | None,
    *,
    about: Mapping[str, Any],
    weights: Path | None,
) -> Exported:
    pictures, count, reason = _pictures(record, model.recipe)
    if kind != FOLDER:
        parity = export_model(model, kind, out, pictures, about=about, weights=weights)
        return Exported(out, kind, model, parity, count, reason)
    with temporary_folder(out.parent, ".export-") as new:
        content = new / out.name
        content.mkdir()
        file = content / MODEL
        parity = export_model(model, "onnx", file, pictures, about=about, weights=weights)
        made = Exported(out, kind, model, parity, count, reason)
        fill_folder(content, model, record, made.sentences())
        keep(new, out)
    return made


@contextmanager
def _naming_others(model: Model, record: Record | None) -> Iterator[None]:
    """Name the run's other heads where one cannot be exported; all of this program can be."""
    try:
        yield
    except NotExportableError as error:
        names = [own.name for own in record.heads] if record else []
        others = [name for name in names if name != model.head and ":" not in name]
        fix = f"{error.fix}: {', '.join(others)}" if others else error.fix
        raise ModelError(error.found, expected=error.expected, fix=fix) from error


def _record(folder: Path) -> Record | None:
    """Read the run that a model's folder lies in; None where it was moved away from it."""
    run = run_of(folder)
    return read_run(run) if run else None


def _figures(record: Record | None, head: str) -> dict[str, Any]:
    """Return how well a head did on the images that it was tested on."""
    found = [own for own in record.heads if own.name == head] if record else []
    if not record or not found:
        return {}
    return {"tested_on": record.judged_on, "test": to_plain(found[0].test)}


def _pictures(record: Record | None, recipe: Recipe) -> tuple[npt.NDArray[np.uint8], int, str]:
    """Decode some images of a run, the same on every call; count them, and add drawn pictures.

    Return also why there are drawn ones, else an empty text.
    """
    predictions = next(iter(record.predictions.values()), None) if record else None
    paths = sorted(predictions.paths) if predictions else []
    pictures, failures = [], []
    for path in random.Random(0).sample(paths, len(paths)):  # noqa: S311 -- not for secrets
        location = locate(path)
        try:
            pictures.append(recipe.decode(_read(location, record)))
        except (PipelineError, OSError) as error:
            failures.append(f"{printable(path)}: {in_one_line(error)}")
        slow = isinstance(location, Url)  # a server may take long to say no
        if len(pictures) == _PICTURES or (slow and len(failures) == _PICTURES):
            break
    count = len(pictures)
    if count >= _FEW:
        return np.stack(pictures), count, ""
    if record is None:
        reason = "the model does not lie in the folder of its run"
    elif failures:
        reason = f"images of the run could not be read from here ({failures[0]})"
    else:
        reason = record.problem or f"the run names {count} test images only"
    return np.stack(pictures + _drawn(_PICTURES - count, recipe.size)), count, reason


def _read(location: Location, record: Record | None) -> bytes:
    """Read an image that a run names.

    Where the run itself opened none, its paths came in a file of features, perhaps a stranger's:
    no server is asked for them. Where the run has an image's digest, no other bytes are taken.
    """
    if isinstance(location, Url) and not (record and record.pictures.images):
        raise ImageError("the run has read no picture from there itself")
    content, digest = read_image(location)
    known = record.pictures.images.get(str(location)) if record else None
    if known and known.sha256 != digest.hex():
        raise ImageError("changed since the run")
    return content


def _drawn(count: int, side: int) -> list[npt.NDArray[np.uint8]]:
    """Draw pictures of soft spots of colour."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    waves = rng.uniform(1, 12, (count, 3, 4)).astype(np.float32)
    return [
        np.stack([127 + 120 * np.sin(a * x + b) * np.cos(c * y + d) for a, b, c, d in own], axis=-1)
        .round()
        .astype(np.uint8)
        for own in waves
    ]
