"""Exported models against this program's own: the probabilities of every image, of every head."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.networks import GET_CLIPARTS
from benchmarks.trials import NETWORKS, few_cliparts
from pipeline import load_dataset, make_recipe
from pipeline.backbones.graph import rows_graph
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.running import load_backbone
from pipeline.evaluation.threshold import call
from pipeline.heads.registry import HEADS
from pipeline.models.formats import FORMATS
from pipeline.models.graphs import HeadGraph
from pipeline.models.network import Network, TunedClassifier
from pipeline.system import tensorflow

TITLE = "Exported models: the same answers in ONNX Runtime"
AT_ONCE = 32
LIMIT = 1e-4
Pixels = np.ndarray


def measure(cliparts: str | None = None) -> str:
    """Fit every head on rows in float32, export all of them, and compare every probability."""
    lines = [
        "Largest difference of a probability, and how many images are called otherwise, between a head on features in",
        "float32 and the ONNX graph of pixels to probabilities in ONNX Runtime; every image, those of training too.",
        "`layers`: the maxima of every layer; else the last layer's output, flattened.",
        "",
        f"| data, network, rows | {' | '.join(HEADS)} | fine-tuned |",
        f"|---{'|---' * (len(HEADS) + 1)}|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        sources = {"demo": "demo"}
        if cliparts:
            sources["cliparts, 7 classes"] = few_cliparts(Path(cliparts), Path(folder), 0)
        for title, source in sources.items():
            dataset = load_dataset(source, cache=folder)
            labels, k = np.asarray(dataset.targets.labels), len(dataset.classes)
            train = dataset.where("train")
            for network in NETWORKS:
                recipe = make_recipe(network, precision="float32")
                pixels = np.stack([recipe.decode(path.read_bytes()) for path in dataset.paths])
                for kind, cells in compare(recipe, pixels, labels, train, k=k, folder=Path(folder)):
                    line = f"{title} ({len(pixels):,}), {network}, {kind} | {' | '.join(cells)}"
                    lines.append(f"| {line} |")
                    print(lines[-1], flush=True)
    return "\n".join([*lines, "", "" if cliparts else f"Seven classes: {GET_CLIPARTS}"])


def compare(
    recipe: Recipe,
    pixels: Pixels,
    labels: np.ndarray,
    train: np.ndarray,
    *,
    k: int,
    folder: Path,
) -> Iterator[tuple[str, list[str]]]:
    """Yield the cells of a line for each kind of rows."""
    _, keras = tensorflow.load()
    layers = make_recipe(recipe.backbone, layer="layers", precision="float32")
    forward = load_backbone(recipe, beside=(layers,))
    parts = [forward(pixels[i : i + AT_ONCE]) for i in range(0, len(pixels), AT_ONCE)]
    whole = np.concatenate(parts)
    width = int(np.prod(recipe.shape))
    for kind, own, rows in (
        ("flatten", recipe, whole[:, :width]),
        ("layers", layers, whole[:, width:]),
    ):
        fitted = {
            name: head.build(0).fit(rows[train], labels[train]) for name, head in HEADS.items()
        }
        expected = [estimator.predict_proba(rows) for estimator in fitted.values()]
        pictures = keras.Input(pixels.shape[1:], dtype="uint8", name="pixels")
        builder, rows_of = HeadGraph(), rows_graph(own, pictures)
        outputs = [builder.probabilities(estimator, rows_of) for estimator in fitted.values()]
        if kind == "flatten":
            tuned = fine_tuned(recipe, k, fitted["dense"])
            expected.append(tuned.predict_proba(rows))
            outputs.append(builder.of_outputs(tuned.network.outputs(pictures)))
        graph = keras.Model(pictures, [keras.ops.cast(p, "float32") for p in outputs])
        file = folder / f"{recipe.backbone}-{kind}-{k}.onnx"
        FORMATS["onnx"].write(graph, file, {})
        session = onnxruntime.InferenceSession(str(file))
        got = [
            session.run(None, {"pixels": pixels[i : i + AT_ONCE]})
            for i in range(0, len(pixels), AT_ONCE)
        ]
        found = [np.concatenate(own) for own in zip(*got)]
        yield kind, [cell(p, e) for p, e in zip(found, expected)] + [""] * (kind != "flatten")


def fine_tuned(recipe: Recipe, k: int, dense) -> TunedClassifier:
    """Make a network whose weights above the cut are not those of the base."""
    parameters = {"pool": "flatten", "units": dense.units, "dropout": dense.dropout}
    below = replace(recipe)
    weights = (
        __import__("pipeline.backbones.registry", fromlist=["x"])
        .get_backbone(recipe.backbone)
        .load_weights()
    )
    network = Network(below, k, weights=weights, **parameters)
    network.dense.set_weights(dense.model_.get_weights())
    return TunedClassifier(network, k, parameters)


def cell(p: np.ndarray, expected: np.ndarray) -> str:
    """Write how far probabilities are apart, and how many images are called otherwise."""
    apart = np.abs(p - expected).max(axis=1)
    changed = int((call(p, None) != call(expected, None)).sum())
    beyond = int((apart > LIMIT).sum())
    return f"{apart.max():.1e}, {changed}" + (
        f" ({beyond} images above {LIMIT:g})" if beyond else ""
    )
