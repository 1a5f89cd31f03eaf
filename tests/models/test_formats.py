"""Every head of this program in the runtimes of other programs."""

import functools

import numpy as np
import onnxruntime
import pytest
from rows import NAMES

from pipeline.heads.registry import get_head
from pipeline.models.formats import FORMATS
from pipeline.models.graphs import HeadGraph
from pipeline.system import tensorflow

SIDE = 6


def pictures(count, classes, seed=0):
    """Pictures whose brightness, in one of the channels, tells their class."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 160, (count, SIDE, SIDE, 3), dtype=np.uint8)
    labels = np.arange(count) % classes
    for number, label in enumerate(labels):
        pixels[number, ..., label % 3] += 30
    return pixels, labels


@functools.cache
def fitted(classes):
    pixels, labels = pictures(60, classes)
    rows = pixels.reshape(len(pixels), -1).astype(np.float32)
    options = {"dense": {"epochs": 2, "units": 8}}
    return [get_head(name).build(0, **options.get(name, {})).fit(rows, labels) for name in NAMES]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The probabilities of all heads, from one file for all of them in each format."""

    @functools.cache
    def run(kind, classes):
        _, keras = tensorflow.load()
        target = FORMATS[kind]
        source = keras.Input((SIDE, SIDE, 3), dtype="uint8", name="pixels")
        rows = keras.layers.Flatten()(keras.ops.cast(source, "float32"))
        builder = HeadGraph(target.precise)
        outputs = [builder.probabilities(own, rows) for own in fitted(classes)]
        outputs = [keras.ops.cast(own, "float32") for own in outputs]
        file = tmp_path_factory.mktemp("formats") / f"all{target.suffix}"
        target.write(keras.Model(source, keras.ops.concatenate(outputs, axis=1)), file, {})
        pixels, _ = pictures(20, classes, seed=1)
        if kind == "onnx":  # as any program runs it
            p = onnxruntime.InferenceSession(file).run(None, {"pixels": pixels})[0]
        else:
            p = target.load(file)(pixels)
        return dict(zip(NAMES, np.split(p, len(NAMES), axis=1), strict=True))

    return run


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", ["onnx", "openvino", "litert"])
@pytest.mark.parametrize("name", NAMES)
def test_every_head_gives_its_probabilities_in_every_runtime(answers, name, kind, classes):
    pixels, _ = pictures(20, classes, seed=1)
    rows = pixels.reshape(len(pixels), -1).astype(np.float32)
    expected = fitted(classes)[NAMES.index(name)].predict_proba(rows)
    p = answers(kind, classes)[name]
    assert np.abs(p - expected).max() <= FORMATS[kind].tolerance
    assert (p.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert expected.std() > 0.01
