"""A model as one file that other programs run: from pixels to probabilities.

Whatever the format, the file comes from one Keras graph, and is kept only if its own runtime gives
of real pictures what the model gives.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.backbones.choices import EVERY_LAYER
from pipeline.backbones.graph import as_rows, output_shapes, rows_graph
from pipeline.backbones.running import graph_in_8_bits
from pipeline.errors import ModelError, PipelineError, in_one_line
from pipeline.models.formats import FORMATS, Format, OpenVino, Pixels
from pipeline.models.graphs import HeadGraph, NotExportableError
from pipeline.models.model import Model
from pipeline.models.network import TunedClassifier
from pipeline.models.parity import (
    Parity,
    answers_of,
    compare,
    in_float32,
    in_pieces,
    require_parity,
)
from pipeline.models.portable import FORMAT
from pipeline.system import tensorflow
from pipeline.system.files import publish
from pipeline.system.folders import temporary_folder
from pipeline.system.packages import install_hint

FOLDER = "folder"
"""In place of a format's name: the ONNX file in a folder with all that runs it."""


@tensorflow.pinned()
def export_model(
    model: Model,
    kind: str,
    out: Path,
    pictures: Pixels,
    *,
    about: Mapping[str, Any],
    weights: Path | None = None,
) -> Parity:
    """Write a model as a file of another format, whole or not at all.

    Parameters
    ----------
    model : Model
        What is exported.
    kind : str
        Name of a format in `pipeline.models.formats.FORMATS`.
    out : Path
        The file, or for ``"saved-model"`` the folder; it must not exist.
    pictures : ndarray of uint8, shape (n, size, size, 3)
        On which the file has to agree with the model.
    about : mapping
        More for its description, beside what the model itself knows.
    weights : Path, optional
        As in `pipeline.backbones.backbone.Backbone.load_weights`.

    Raises
    ------
    ModelError
        The model cannot be written in this format, or the file does not agree with the model.
    """
    target = check_target(out, kind)
    expected = answers_of(model, pictures, weights)
    description = describe(model, {**about, **expected.about(model)})
    builder = HeadGraph(target.precise)
    with temporary_folder(out.parent, ".export-") as folder, _told(target, model):
        file = folder / out.name
        if model.recipe.precision != "int8":
            target.write(whole_graph(model, builder, weights), file, description)
        elif isinstance(target, OpenVino):
            below = graph_in_8_bits(model.recipe, weights)
            target.write_above(below, head_graph(model, builder), file, description)
        else:
            raise ModelError(
                "a model whose network computes in int8 cannot be exported to " + target.title,
                expected="--format openvino, or a model on features in float32 or bfloat16",
                fix="train another: pipeline classify DATA --precision float32",
            )
        parity = compare(model, in_pieces(target.load(file), pictures), expected)
        steps = builder.has_steps or model.recipe.layer in EVERY_LAYER
        require_parity(model, parity, target, steps=steps)
        keep(folder, out)
    return parity


def keep(folder: Path, out: Path) -> None:
    """Move all that is in a folder to its place, or nothing where a name is taken by now.

    The target itself is what is opened: it comes when the others are there.
    """
    moved: list[Path] = []
    try:
        for part in sorted(folder.iterdir(), key=lambda part: part.name == out.name):
            taken = out.with_name(part.name)
            publish(part, taken)
            moved.append(taken)
    except BaseException as error:
        for part in moved:
            part.unlink()
        if isinstance(error, FileExistsError):
            raise _there(taken) from error
        raise


def check_target(out: Path, kind: str) -> Format:
    """Return the format of a name; refuse a target that cannot be written.

    That is one that is there already, has another suffix, or has no folder to be in.
    """
    target = FORMATS.get("saved-model" if kind == FOLDER else kind)
    if target is None:
        raise PipelineError(
            f"unknown format {kind!r}.", expected=f"one of {', '.join(FORMATS)}, {FOLDER}"
        )
    for package in target.packages:
        if importlib.util.find_spec(package) is None:
            raise PipelineError(
                f"the package {package} is not installed.", fix=install_hint("export")
            )
    if target.suffix and out.suffix != target.suffix:
        raise PipelineError(
            f"{out} is not the name of a file in the format {kind}.",
            expected=f"a name that ends in {target.suffix}",
        )
    for part in (out, *(out.with_suffix(own) for own in target.beside)):
        check_absent(part)
    if not out.absolute().parent.is_dir():
        raise PipelineError(f"there is no folder {out.absolute().parent}.", fix="make it first")
    return target


def check_absent(out: Path) -> None:
    """Refuse a target that is there already."""
    if os.path.lexists(out):
        raise _there(out)


def _there(out: Path) -> PipelineError:
    return PipelineError(
        f"{out} exists already; nothing is ever overwritten.",
        fix="name another with --out, or delete it",
    )


@contextmanager
def _told(target: Format, model: Model) -> Iterator[None]:
    """Turn what a converter or a runtime raises into one error: each has its own classes."""
    try:
        yield
    except (PipelineError, OSError, MemoryError, ImportError):
        raise
    except Exception as error:
        raise NotExportableError(
            f"the head {model.head} cannot be exported to {target.title}: "
            f"{in_one_line(error)[:300]}",
            fix=f"use another --format ({', '.join(FORMATS)}) or another --head",
        ) from error


def whole_graph(model: Model, builder: HeadGraph, weights: Path | None = None) -> Any:
    """Return a Keras model from pixels, uint8 (n, size, size, 3), to probabilities (n, k)."""
    _, keras = tensorflow.load()
    size = model.recipe.size
    pixels = keras.Input((size, size, 3), dtype="uint8", name="pixels")
    if isinstance(model.estimator, TunedClassifier):
        network = in_float32(model.estimator).network
        p = builder.of_outputs(network.outputs(pixels, weights))
    else:
        p = builder.probabilities(model.estimator, rows_graph(model.recipe, pixels, weights))
    outputs = keras.layers.Activation("linear", dtype="float32", name="probabilities")(p)
    return keras.Model(pixels, outputs, name="model")


def head_graph(model: Model, builder: HeadGraph) -> Any:
    """Return a Keras model from what the network gives to probabilities (n, k)."""
    _, keras = tensorflow.load()
    inputs = [keras.Input(shape) for shape in output_shapes(model.recipe)]
    if isinstance(model.estimator, TunedClassifier):
        p = builder.of_outputs(model.estimator.network.tail(inputs[0], training=False))
    else:
        p = builder.probabilities(model.estimator, as_rows(model.recipe, inputs))
    return keras.Model(inputs, p)


def describe(model: Model, about: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what a file says of itself; see `pipeline.models.portable`."""
    recipe = model.recipe
    return {
        "format": FORMAT,
        "head": model.head,
        "classes": list(model.classes),
        "positive": model.positive,
        "threshold": asdict(model.threshold) if model.threshold else None,
        "size": recipe.size,
        "resize": recipe.resize,
        "decoding": recipe.decoding,
        "scaling": recipe.scaling,
        "recipe": asdict(recipe),
        "fingerprint": recipe.fingerprint,
        "views": model.views,
        "augmentation": model.augmentation,
        "trained_on": model.trained_on,
        **about,
    }
