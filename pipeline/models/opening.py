"""A model that is ready to predict: from a run, from a model's own folder, or from an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from pipeline.backbones.recipe import Recipe
from pipeline.errors import ModelError
from pipeline.models.files import find_model, read_manifest
from pipeline.models.model import Model, require_same_features
from pipeline.models.portable import Portable

KEPT = "model.onnx"
"""In a model's folder: the same model as one graph, which `pipeline export` made."""


def load_model(model: str | Path, *, head: str | None = None, trusted: Sequence[str] = ()) -> Model:
    """Load a model, to predict with it again and again.

    Parameters
    ----------
    model : str or Path
        A run's folder, a model's own, or an ONNX file that `pipeline export` wrote. Where such a
        file was kept in the model's folder, it classifies images whose features are not in the
        cache; TensorFlow is then not loaded.
    head : str, optional
        Head of the run; the default is its best on validation.
    trusted : sequence of str
        As for `Model.load`.

    Raises
    ------
    ModelError
        There is no model, or it cannot be loaded.
    """
    path = Path(model)
    if path.suffix.lower() == ".onnx":
        if head:
            raise ModelError(
                f"{path} is one model, so there is no head to choose in it.",
                fix="leave --head away, or name the run",
            )
        return _exported(path)
    folder = find_model(path, head)
    if not (folder / KEPT).exists():
        return Model.load(folder, trusted=trusted)
    kept = _exported(folder / KEPT)
    if kept.portable is None or kept.portable.model != read_manifest(folder).digest:
        raise ModelError(
            f"{folder / KEPT} was not made from the model that it lies beside.",
            expected="what `pipeline export` made of it",
            fix="delete that file; to have it again, export the model",
        )
    require_same_features(kept.recipe, kept.views, kept.augmentation, folder)
    return replace(kept, original=cache(partial(Model.load, folder, trusted=trusted)))


def _exported(file: Path) -> Model:
    portable = Portable.load(file)
    try:
        recipe = Recipe.from_fields(dict(portable.recipe))
    except ValueError as error:
        raise ModelError(
            f"{file}: its recipe cannot be read: {error}.",
            expected="what `pipeline export` writes",
            fix="export the model again",
        ) from error
    return Model(
        recipe,
        portable.head,
        portable.classes,
        None,
        portable.views,
        portable.augmentation,
        portable.trained_on,
        portable.threshold,
        portable.positive,
        portable=portable,
    )
