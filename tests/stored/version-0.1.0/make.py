"""Make this folder anew: what commit e4e668e stores, and what its models say.

Everything beside this file is made by the code that is imported as `pipeline`, so this is to be run
on a checkout of that commit, with a Python that has its dependencies:

    git worktree add /tmp/e4e668e e4e668e
    PYTHONPATH=/tmp/e4e668e python make.py [FOLDER]

With FOLDER, a fine-tuned model, which takes 60 MB, is made there of the same photos.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.model import Model
from pipeline.store import open_stores

CLASSES = {"lichen": (126, 126, 104), "moss": (98, 136, 80)}
IMAGES = 20  # of each class
SEED = 11
RECIPE = ("--size", "32", "--precision", "float32")
FINETUNING = ("--epochs", "2", "--frozen-epochs", "2", "--name", "tuned")
THRESHOLD = ("--threshold", "recall=0.9", "--positive", "lichen")


def main() -> None:
    """Make all of it."""
    os.chdir(Path(__file__).parent)  # so that paths in runs are relative
    for name in ("photos", "cache", "runs"):
        shutil.rmtree(name, ignore_errors=True)
    Path("features.h5").unlink(missing_ok=True)
    make_photos()
    pipeline("features", "photos", "--views", "2", "--augmentation", "mild", *RECIPE)
    pipeline("classify", "photos", "--name", "all", *RECIPE)
    logistic = ("classify", "photos", "--head", "logistic", *RECIPE)
    pipeline(*logistic, "--cv", "3", "--name", "cv")
    pipeline(*logistic, *THRESHOLD, "--name", "threshold")
    pipeline("problems", "photos", "--run", "runs/threshold", *RECIPE)
    pipeline("cache", "export", "photos", "features.h5", *RECIPE)
    for picture in Path("runs").glob("*/*.png"):
        picture.unlink()  # nothing reads them, and they are a tenth of all
    Path("cache", "digests.sqlite").unlink()  # what it knows is true of this machine's disk only
    write({"stores": stores(Path("cache")), "models": models(Path("runs"))}, Path("expected.json"))
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        there = ("--cache", str(folder / "cache"), "--runs", str(folder / "runs"))
        pipeline("finetune", "photos", *RECIPE, *FINETUNING, *there)
        found = {"stores": stores(folder / "cache"), "models": models(folder / "runs")}
        write(found, folder / "expected.json")


def make_photos() -> None:
    """Draw noisy pictures, of classes that overlap; one is there twice, and one nearly."""
    rng = np.random.default_rng(SEED)
    for name, colour in CLASSES.items():
        folder = Path("photos", name)
        folder.mkdir(parents=True)
        for number in range(IMAGES):
            height, width = rng.integers(24, 49, 2)
            spots = rng.normal(0, 30, (int(rng.integers(3, 7)), int(rng.integers(3, 7)), 3))
            pixels = np.add(colour, rng.normal(0, 12, 3)) + resized(spots, width, height)
            pixels += rng.normal(0, 12, pixels.shape)
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(folder / f"{number:02}.{'png' if number % 4 == 0 else 'jpg'}")
    shutil.copy("photos/lichen/01.jpg", "photos/lichen/copy.jpg")
    with Image.open("photos/moss/02.jpg") as image:
        image.save("photos/moss/nearly.png")


def resized(spots: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bring each channel to a size."""
    channels = (Image.fromarray(np.float32(spots[:, :, channel])) for channel in range(3))
    return np.stack([one.resize((width, height), Image.Resampling.BICUBIC) for one in channels], -1)


def pipeline(*arguments: str) -> None:
    """Run the command."""
    subprocess.run([sys.executable, "-m", "pipeline", *arguments], check=True)


def stores(cache: Path) -> dict[str, object]:
    """Describe each store of a cache: its rows are hashed in the order of their keys."""
    return {
        store.folder.name: {
            "fingerprint": store.recipe.fingerprint,
            "rows": len(store),
            "sha256": hashlib.sha256(store.read(sorted(store)).tobytes()).hexdigest(),
        }
        for store in open_stores(cache)
    }


def models(runs: Path) -> dict[str, object]:
    """Tell what each model of each run says of every photo."""
    photos = sorted(str(path) for path in Path("photos").glob("*/*"))
    found: dict[str, object] = {}
    for folder in sorted(runs.glob("*/models/*")):
        model = Model.load(folder)
        said = list(model.predict(photos))
        found[str(folder.relative_to(runs))] = {
            "fingerprint": model.recipe.fingerprint,
            "classes": model.classes,
            "labels": {str(one.path): one.label for one in said},
            "probabilities": {str(one.path): list(one.probabilities.values()) for one in said},
        }
    return found


def write(found: object, file: Path) -> None:
    """Write what is expected."""
    file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
