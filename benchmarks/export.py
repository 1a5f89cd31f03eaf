"""Exported models against this program's own: the probabilities of every image, of every head."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.networks import GET_CLIPARTS
from benchmarks.trials import NETWORKS, few_cliparts
from pipeline import load_dataset, make_recipe
from pipeline.backbones.graph import rows_graph
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import get_backbone
from pipeline.backbones.running import load_backbone
from pipeline.evaluation.threshold import call
from pipeline.heads.pooling import pools_of
from pipeline.heads.registry import HEADS
from pipeline.models.formats import FORMATS
from pipeline.models.graphs import HeadGraph
from pipeline.models.network import Network, TunedClassifier
from pipeline.system import tensorflow

TITLE = "Exported models: the same answers in ONNX Runtime"
AT_ONCE = 32
LIMIT = 1e-4
Array = np.ndarray


@dataclass(frozen=True)
class Images:
    """Pictures, their labels, and which of them are learned from."""

    pixels: Array
    labels: Array
    train: Array
    classes: int


def measure(cliparts: str | None = None) -> str:
    """Fit every head on rows in float32, export it, and compare the probabilities of all images."""
    lines = [
        "Largest difference of a probability, and how many images are called otherwise, between a head on this program's features in",
        "float32 and its ONNX graph on what the network's ONNX graph makes of the pixels, in ONNX Runtime; every image, those of training",
        "too. *layers*: the maxima of every layer; else the last layer, pooled as by default. The fine-tuned network has other weights",
        "above its cut.",
        "",
        f"| data, network, rows | {' | '.join(HEADS)} | fine-tuned |",
        f"|---{'|---' * (len(HEADS) + 1)}|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        sources = {"demo": "demo"}
        if cliparts:
            sources["cliparts, 7 classes"] = few_cliparts(Path(cliparts), Path(folder), 0)
        for network in reversed(NETWORKS):
            for title, source in sources.items():
                dataset = load_dataset(source, cache=folder)
                recipe = make_recipe(network, precision="float32")
                images = Images(
                    np.stack([recipe.decode(path.read_bytes()) for path in dataset.paths]),
                    np.asarray(dataset.targets.labels),
                    dataset.where("train"),
                    len(dataset.classes),
                )
                for kind, cells in compare(recipe, images, Path(folder)):
                    name = f"{title} ({len(images.labels):,}), {network}, {kind}"
                    lines.append(f"| {name} | {' | '.join(cells)} |")
                    print(lines[-1], flush=True)
    return "\n".join([*lines, "", "" if cliparts else f"Seven classes: {GET_CLIPARTS}"])


def compare(recipe: Recipe, images: Images, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the cells of a line for each kind of rows."""
    backbone = get_backbone(recipe.backbone)
    below = backbone.below(backbone.default_cut)
    recipes = [
        make_recipe(backbone.name, layer=layer, precision="float32") for layer in ("layers", below)
    ]
    forward = load_backbone(recipe, beside=recipes)
    whole = joined(forward(part) for part in parts(images.pixels))
    ends = np.cumsum([np.prod(own.shape) for own in (recipe, *recipes)])
    for own, rows in zip((recipe, recipes[0]), np.split(whole, ends[:2], axis=1)):
        cells = []
        file = folder / "network.onnx"
        write(lambda pixels, own=own: rows_graph(own, pixels), file, images.pixels[0])
        found = run(file, images.pixels)
        [pool] = pools_of(own, None)
        for head in HEADS.values():
            options = {} if pool == "flatten" else {"pool": pool}
            fitted = head.with_pools([pool], own.shape).build(0, **options)
            fitted.fit(rows[images.train], images.labels[images.train])
            file = folder / "head.onnx"
            write(lambda x, fitted=fitted: HeadGraph().probabilities(fitted, x), file, rows[0])
            cells.append(cell(run(file, found), fitted.predict_proba(rows)))
        if own is recipe:
            tuned = fine_tuned(recipes[1], images.classes)
            write(
                lambda x, tuned=tuned: HeadGraph().of_outputs(tuned.network.outputs(x)),
                file,
                images.pixels[0],
            )
            cells.append(cell(run(file, images.pixels), tuned.predict_proba(whole[:, ends[1] :])))
        yield (pool if own is recipe else "layers"), cells + [""] * (own is not recipe)


def parts(array: Array) -> Iterator[Array]:
    """Yield a few rows at a time."""
    yield from (array[start : start + AT_ONCE] for start in range(0, len(array), AT_ONCE))


def joined(blocks: Iterator[Array]) -> Array:
    """Put together what was computed of a few at a time."""
    return np.concatenate(list(blocks))


def write(build: Any, file: Path, example: Array) -> None:
    """Write what `build` makes of an input like `example` as an ONNX file."""
    _, keras = tensorflow.load()
    source = keras.Input(example.shape, dtype=example.dtype.name, name="pixels")
    graph = keras.Model(source, keras.ops.cast(build(source), "float32"))
    FORMATS["onnx"].write(graph, file, {})


def run(file: Path, inputs: Array) -> Array:
    """Run an ONNX file in ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(file))
    [name] = (own.name for own in session.get_inputs())
    return joined(session.run(None, {name: part})[0] for part in parts(inputs))


def fine_tuned(recipe: Recipe, classes: int) -> TunedClassifier:
    """Make a network whose weights above the cut are no longer those of the base."""
    parameters = {"pool": "average", "units": 64, "dropout": 0.5}
    weights = get_backbone(recipe.backbone).load_weights()
    network = Network(recipe, classes, weights=weights, **parameters)
    rng = np.random.default_rng(0)
    network.tail.set_weights(
        [own * rng.uniform(0.9, 1.1, own.shape) for own in network.tail.get_weights()]
    )
    return TunedClassifier(network, classes, parameters)


def cell(p: Array, expected: Array) -> str:
    """Write how far probabilities are apart, and how many images are called otherwise."""
    apart = np.abs(p - expected).max(axis=1)
    changed = int((call(p, None) != call(expected, None)).sum())
    beyond = int((apart > LIMIT).sum())
    return f"{apart.max():.1e}, {changed}" + (
        f" ({beyond} images above {LIMIT:g})" if beyond else ""
    )
