"""What several tests need: small pictures, a stand-in for the network, a place for experiments."""

import contextlib
import dataclasses
import hashlib
import json
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import make_recipe
from pipeline.classification import experiment, extras, in_memory
from pipeline.data.augmentation import get_augmentation
from pipeline.data.dataset import Dataset
from pipeline.data.loading import load_dataset
from pipeline.data.targets import Targets
from pipeline.evaluation.protocol import Protocol
from pipeline.features import computing
from pipeline.features.extractor import Extractor, extract
from pipeline.features.store import FeatureStore
from pipeline.features.views import Views
from pipeline.runs.listener import RunListener

# What a shell starts in the background ignores Ctrl-C, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def outside_the_repository(tmp_path_factory):
    """Work elsewhere: what is not told another place is written into the working directory."""
    with (
        contextlib.chdir(tmp_path_factory.mktemp("session")),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def own_working_directory(tmp_path, monkeypatch):
    """Give each test a working directory of its own, beside its `tmp_path`."""
    folder = Path(f"{tmp_path}-cwd")
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """Work in `tmp_path`; leave the process's signal handlers as they were."""
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class CountingBackbone:
    """Rows that depend on the pixels, made in no time; remembers how many it made."""

    def __init__(self, recipe: Recipe, beside: Sequence[Recipe] = ()) -> None:
        self.shapes = [each.shape for each in (recipe, *beside)]
        self.batches: list[int] = []

    @property
    def images(self) -> int:
        return sum(self.batches)

    def __call__(self, pixels):
        assert pixels.dtype == np.uint8
        self.batches.append(len(pixels))
        rows = [self._rows(pixels, *shape) for shape in self.shapes]
        if len(rows) == 1:
            return rows[0]
        return np.concatenate([values.reshape(len(values), -1) for values in rows], axis=1)

    def _rows(self, pixels, height, width, channels):
        side = pixels.shape[1] // height
        cells = pixels[:, : side * height, : side * width].reshape(
            len(pixels), height, side, width, side, 3
        )
        colours = cells.astype(np.float32).mean(axis=(2, 4))
        return np.tile(colours, -(-channels // 3))[..., :channels]


@pytest.fixture
def recipe():
    return make_recipe(size=64, precision="float32")


@pytest.fixture
def backbone(recipe):
    return CountingBackbone(recipe)


@pytest.fixture
def networks(monkeypatch):
    """Put the counting stand-in in the network's place; list those that were loaded."""
    loaded = []

    def load(recipe, weights, **more):
        loaded.append(CountingBackbone(recipe, **more))
        loaded[-1].recipe, loaded[-1].weights = recipe, weights
        return loaded[-1]

    monkeypatch.setattr(computing, "load_backbone", load)
    return loaded


@pytest.fixture
def keras_home(monkeypatch, tmp_path):
    """A home of Keras in which nothing was downloaded."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras"


def paint(file: Path, colour: tuple[int, int, int], seed: int, side: int = 48) -> Path:
    """Save a noisy picture of one colour; another seed gives other bytes."""
    noise = np.random.default_rng(seed).integers(-40, 40, (side, side, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return file


def paint_classes(folder: Path, count: int = 20, classes=("blue", "red")) -> Path:
    """Save `count` pictures of each class, easily told apart, in class folders."""
    colours = {"red": (180, 70, 70), "blue": (70, 70, 180), "green": (70, 180, 70)}
    for number, name in enumerate(classes):
        for picture in range(count):
            paint(folder / name / f"{picture:03}.png", colours[name], 1000 * number + picture)
    return folder


@pytest.fixture
def photos(tmp_path):
    return paint_classes(tmp_path / "photos")


@pytest.fixture
def dataset(photos):
    """40 images, of which 25 are to be learned from."""
    splits = ["train", "test", "train", "validation", "train", "train", "test", "train"]
    return dataclasses.replace(load_dataset(photos), splits=np.resize(splits, 40), drawn=())


def some_views(count, augmentation="mild", *, everywhere=False):
    return Views(count=count, augmentation=get_augmentation(augmentation), everywhere=everywhere)


def views_store(plan):
    """The store of the views beyond view 0, of the plan's first augmentation."""
    return plan.store_of(plan.views[0])


@pytest.fixture
def extractor(tmp_path, recipe, backbone):
    return Extractor(recipe, cache=tmp_path / "cache", forward=backbone)


@pytest.fixture
def extracted(tmp_path, extractor):
    """Compute the rows of a data set that are missing."""

    def extract_here(dataset, views=None, *, cache="cache", listener=None, **settings):
        here = dataclasses.replace(extractor, cache=tmp_path / cache, **settings)
        return extract(dataset, views=views or Views(), extractor=here, listener=listener)

    return extract_here


@pytest.fixture
def set_batches(monkeypatch, recipe):
    """Set how many images are computed at once."""

    def set_size(images):
        monkeypatch.setattr(computing, "PIXELS_PER_BATCH", images * recipe.size**2)

    return set_size


@pytest.fixture
def small_batches(set_batches):
    set_batches(7)


@dataclasses.dataclass(frozen=True)
class Workplace:
    """A cache that holds rows already, and a folder for runs."""

    folder: Path
    recipe: object

    @property
    def runs(self):
        return self.folder / "runs"

    def data(self, counts=(60, 30, 30), classes=("blue", "red"), seed=0, noise=1.0):
        """Make a data set whose rows are in the cache: its classes overlap, and no file exists."""
        rng = np.random.default_rng(seed)
        total = sum(counts)
        digests = [hashlib.sha256(b"%d %d" % (seed, number)).digest() for number in range(total)]
        labels = np.arange(total) % len(classes)
        rows = rng.exponential(size=(total, *self.recipe.shape)) * noise
        rows[np.arange(total), 0, 0, labels] += 1
        keys = [(digest, 0) for digest in digests]
        FeatureStore(self.folder / "cache", self.recipe).write(keys, rows.astype(np.float32))
        return Dataset(
            name="photos",
            paths=tuple(Path(f"{number}.png") for number in range(total)),
            digests=tuple(digests),
            targets=Targets(labels.astype(np.int64), classes),
            splits=np.repeat(["train", "validation", "test"], counts).astype("<U10"),
        )

    def classify(self, data, heads=("logistic",), **settings):
        return classify(
            data,
            heads,
            **{
                "recipe": self.recipe,
                "cache": self.folder / "cache",
                "runs": self.runs,
                "forward": no_network,
                **settings,
            },
        )


class Hears(RunListener):
    """Calls a function for what it hears: `Hears(judged=results.append)`."""

    def __init__(self, **functions):
        for name, function in functions.items():
            assert hasattr(RunListener, name)
            setattr(self, name, function)


def classify(data, heads="all", **settings):
    """Classify with the settings of protocol and extractor given by their names."""
    parts = {}
    for part, kind in (("protocol", Protocol), ("extractor", Extractor)):
        names = {field.name for field in dataclasses.fields(kind)} & set(settings)
        parts[part] = kind(**{name: settings.pop(name) for name in names})
    return experiment.classify(data, heads, **parts, **settings)


def relabelled(dataset, labels, classes=None):
    """The same images with other labels, and perhaps other classes."""
    return dataclasses.replace(dataset, targets=Targets(labels, classes or dataset.classes))


def no_network(pixels):
    raise AssertionError("the rows are stored: nothing is to be computed")


@pytest.fixture
def place_with_pictures(tmp_path, recipe):
    return Workplace(tmp_path, dataclasses.replace(recipe, shape=(1, 1, 12)))


@pytest.fixture
def place(place_with_pictures, monkeypatch):
    """Leave out the looking closer, which takes longer than all the rest."""
    monkeypatch.setattr(in_memory, "find_problems_quickly", lambda *args, **options: None)
    monkeypatch.setattr(extras, "find_examples", lambda *args, **options: None)
    return place_with_pictures


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def run_json(run):
    return json.loads((run.folder / "run.json").read_text())
