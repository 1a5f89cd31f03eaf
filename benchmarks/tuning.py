"""Ways to fine-tune VGG16, each in a process of its own that answers once for each epoch.

A process loads its network and its images, then waits for a line on standard input before each
epoch, and answers with the epoch's wall and CPU seconds: training, and judging on validation.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

SIZE = 150
BATCH = 20  # Chollet's, as are the learning rates
CLASSES = 2
ROUNDS = 100  # more than anybody asks for
FROZEN_EPOCHS = 30


class Clock:
    """Waits before each epoch until it is asked for, and answers after it."""

    def __init__(self) -> None:
        self.started = (0.0, 0.0)

    def wait(self) -> None:
        """Wait for a line; without one, end."""
        if not sys.stdin.readline():
            raise SystemExit
        self.started = time.perf_counter(), time.process_time()

    def answer(self) -> None:
        """Give the seconds since, and wait again."""
        wall, cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
        print("answer", json.dumps([0, wall, cpu]), flush=True)
        self.wait()


def photographs(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pixels, labels and the number of training images among `count` of the demo."""
    from pipeline import load_dataset
    from pipeline.data.images import decode

    dataset = load_dataset("demo")
    places = np.concatenate(
        [dataset.where("train")[:count], dataset.where("validation")[: count // 4]]
    )
    pixels = np.stack([decode(dataset.paths[place].read_bytes(), SIZE) for place in places])
    return pixels, dataset.targets.labels[places], np.arange(len(places)) < count


def keras_user(count: int, *, frozen: bool, **options: object) -> None:
    """Train as the book's readers do: `ImageDataGenerator`, base and head in one model, `fit`."""
    from pipeline.backbones.vgg16 import VGG16
    from pipeline.system import tensorflow

    tf, keras = tensorflow.load()
    generator = tf.keras.preprocessing.image.ImageDataGenerator
    pixels, labels, train = photographs(count)
    preprocess = keras.applications.vgg16.preprocess_input
    augmented = generator(
        rotation_range=40,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=0.2,
        zoom_range=0.2,
        horizontal_flip=True,
        preprocessing_function=preprocess,
    )
    base = VGG16().build(SIZE, "float32", VGG16().load_weights())
    base.trainable = not frozen
    for layer in base.layers:
        layer.trainable = not frozen and layer.name.startswith("block5")
    model = keras.Sequential(
        [
            base,
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    rate = 1e-4 if frozen else 1e-5
    model.compile(
        keras.optimizers.RMSprop(rate), "binary_crossentropy", metrics=["accuracy"], **options
    )
    clock = Clock()
    clock.wait()
    model.fit(
        augmented.flow(pixels[train].astype(np.float32), labels[train], batch_size=BATCH),
        validation_data=generator(preprocessing_function=preprocess).flow(
            pixels[~train].astype(np.float32), labels[~train], batch_size=BATCH, shuffle=False
        ),
        epochs=ROUNDS,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: clock.answer())],
    )


def ours(count: int, *, source: str, precision: str) -> None:
    """Fine-tune with this project; rows, where they come from the cache, are made before."""
    from pipeline.data.augmentation import PRESETS
    from pipeline.features.extractor import Extractor, extract
    from pipeline.features.views import Views
    from pipeline.finetuning.settings import Finetuning
    from pipeline.finetuning.sources import CachedRows, Images

    dataset, recipe = demo(count, Finetuning(), precision)
    views = Views(count=2, augmentation=PRESETS["textbook"])
    with tempfile.TemporaryDirectory() as folder:
        if source == "cache":
            extractor = Extractor(recipe, cache=folder)
            rows = CachedRows(extract(dataset, views=views, extractor=extractor), Path(folder))
        else:
            rows = Images(dataset, recipe, views)
        our_epochs("finetune", rows, folder=Path(folder), clock=Clock(), epochs=ROUNDS)


def ours_frozen(count: int, *, precision: str) -> None:
    """Train a head on eight cached views: making them is the first answer, 30 epochs the second."""
    from pipeline.data.augmentation import PRESETS
    from pipeline.features.extractor import Extractor, extract
    from pipeline.features.views import Views
    from pipeline.finetuning.settings import Finetuning
    from pipeline.finetuning.sources import CachedRows

    dataset, recipe = demo(count, Finetuning(phase="frozen"), precision)
    views = Views(count=8, augmentation=PRESETS["textbook"])
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        clock.wait()
        extraction = extract(
            dataset, views=views, extractor=Extractor(recipe, cache=folder, layers=False)
        )
        clock.answer()
        rows = CachedRows(extraction, Path(folder))
        our_epochs("frozen", rows, folder=Path(folder), clock=None, epochs=FROZEN_EPOCHS)
        clock.answer()


def demo(count: int, settings, precision: str):
    """Return a part of the demo, and the recipe for its rows."""
    from pipeline import load_dataset, make_recipe

    dataset = load_dataset("demo")
    parts = dataset.where("train")[:count], dataset.where("validation")[: count // 4]
    recipe = settings.cut(make_recipe(size=SIZE, precision=precision))
    return dataset.take(np.concatenate(parts)), recipe


def our_epochs(phase: str, rows, *, folder: Path, clock: Clock | None, epochs: int) -> None:
    """Train for some epochs; with a clock, each begins when it is asked for."""
    from pipeline.backbones.vgg16 import VGG16
    from pipeline.finetuning.batches import OrderedBatches
    from pipeline.finetuning.settings import Training
    from pipeline.finetuning.training import train
    from pipeline.models.network import Network
    from pipeline.runs.listener import RunListener

    class Epochs(RunListener):
        def epoch_ended(self, *_: object) -> None:
            if clock:
                clock.answer()

    network = Network(rows.recipe, CLASSES, weights=VGG16().load_weights())
    network.freeze(upper=phase == "frozen")
    batches = OrderedBatches(rows, network, phase, batch_size=BATCH, seed=0)
    if clock:
        clock.wait()
    train(
        network.head if phase == "frozen" else network.tail,
        batches,
        Training(epochs=epochs, patience=epochs),
        file=folder / "checkpoint",
        listener=Epochs(),
    )


CONTENDERS: dict[str, Callable[[int], None]] = {
    "keras": partial(keras_user, frozen=False),
    "keras-no-xla": partial(keras_user, frozen=False, jit_compile=False),
    "keras-frozen": partial(keras_user, frozen=True),
    "keras-frozen-no-xla": partial(keras_user, frozen=True, jit_compile=False),
    **{
        f"frozen-{precision}": partial(ours_frozen, precision=precision)
        for precision in ("float32", "bfloat16")
    },
    **{
        f"{source}-{precision}": partial(ours, source=source, precision=precision)
        for source in ("images", "cache")
        for precision in ("float32", "bfloat16")
    },
}


if __name__ == "__main__":
    CONTENDERS[sys.argv[1]](int(sys.argv[2]))
