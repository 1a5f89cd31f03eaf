"""What several tests need: small pictures, and a stand-in for the network that counts its work."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.backbone import vgg16_recipe
from pipeline.recipe import Recipe


class CountingBackbone:
    """Rows that depend on the pixels, made in no time; remembers how many it made."""

    def __init__(self, recipe: Recipe) -> None:
        self.shape = recipe.shape
        self.batches: list[int] = []

    @property
    def images(self) -> int:
        return sum(self.batches)

    def __call__(self, pixels):
        assert pixels.dtype == np.uint8
        self.batches.append(len(pixels))
        height, width, channels = self.shape
        side = pixels.shape[1] // height
        cells = pixels[:, : side * height, : side * width].reshape(
            len(pixels), height, side, width, side, 3
        )
        colours = cells.astype(np.float32).mean(axis=(2, 4))
        return np.tile(colours, -(-channels // 3))[..., :channels]


@pytest.fixture
def recipe():
    return vgg16_recipe(size=64, precision="float32")


@pytest.fixture
def backbone(recipe):
    return CountingBackbone(recipe)


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
