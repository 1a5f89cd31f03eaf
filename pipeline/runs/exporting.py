"""The model of a run as a file that other programs run, checked on the run's own images."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import Recipe
from pipeline.data.digests import read_image
from pipeline.errors import PipelineError
from pipeline.models.export import FOLDER, Parity, check_target, export_model, keep
from pipeline.models.files import MANIFEST, find_model, read_manifest
from pipeline.models.model import Model
from pipeline.models.opening import KEPT
from pipeline.runs.folder import MODEL, fill_folder
from pipeline.runs.reading import Record, read_run
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
    """

    path: Path
    kind: str
    model: Model
    parity: Parity
    images: int

    def sentences(self) -> list[str]:
        """Say what is to be known of it."""
        parity, model = self.parity, self.model
        on = f"{self.images} images of the run"
        if self.images < parity.pictures:
            on += f" and {parity.pictures - self.images} drawn pictures, as its images are not here"
        exact = "int8" if model.recipe.precision == "int8" else "float32"
        first = f"checked in its own runtime on {on}: probabilities differ by at most "
        lines = [f"{first}{parity.difference:.1g} from those of the model in {exact}"]
        if model.recipe.precision == "bfloat16":
            called = "1 image is" if parity.changed == 1 else f"{parity.changed} images are"
            lines.append(
                f"predict computes features in {model.recipe.precision}, the file in float32: "
                f"probabilities differ by at most {parity.own_difference:.1g}, and {called} called "
                "otherwise"
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
    pictures, count = _pictures(record, model.recipe)
    about = {"model": read_manifest(folder).digest, **_figures(record, model.head)}
    if kind != FOLDER:
        parity = export_model(model, kind, out, pictures, about=about, weights=weights)
    else:
        with temporary_folder(out.parent, ".export-") as new:
            content = new / out.name
            content.mkdir()
            file = content / MODEL
            parity = export_model(model, "onnx", file, pictures, about=about, weights=weights)
            fill_folder(content, model, record)
            keep(new, out)
    return Exported(out, kind, model, parity, count)


def _record(folder: Path) -> Record | None:
    """Read the run that a model's folder lies in; None where it was moved away from it."""
    run = folder.resolve().parent.parent
    return read_run(run) if (run / "run.json").is_file() else None


def _figures(record: Record | None, head: str) -> dict[str, Any]:
    """Return how well a head did on the images that it was tested on."""
    found = [own for own in record.heads if own.name == head] if record else []
    if not record or not found:
        return {}
    return {"tested_on": record.judged_on, "test": to_plain(found[0].test)}


def _pictures(record: Record | None, recipe: Recipe) -> tuple[npt.NDArray[np.uint8], int]:
    """Decode some images of a run, the same on every call; count them, and add drawn pictures."""
    predictions = next(iter(record.predictions.values()), None) if record else None
    paths = sorted(predictions.paths) if predictions else []
    pictures = []
    for path in random.Random(0).sample(paths, len(paths)):  # noqa: S311 -- not for secrets
        try:
            pictures.append(recipe.decode(read_image(Path(path))[0]))
        except PipelineError:
            continue
        if len(pictures) == _PICTURES:
            break
    count = len(pictures)
    if count < _FEW:
        pictures += _drawn(_PICTURES - count, recipe.size)
    return np.stack(pictures), count


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
