"""A page with a small model, whose network is a stand-in."""

import numpy as np
from asking import ask
from conftest import CountingBackbone, classify, paint, paint_classes

from pipeline.app.guard import Secrets
from pipeline.app.opening import open_site
from pipeline.backbones.registry import make_recipe
from pipeline.data.images import png
from pipeline.features.extractor import Extractor

PORT = 8321


def picture(colour=(180, 70, 70), seed=5, side=48):
    noise = np.random.default_rng(seed).integers(-40, 40, (side, side, 3))
    return png(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


class Served:
    """A site, and what a page that is open may ask of it.

    Parameters
    ----------
    home : Path
        Where images, cache and run lie.
    """

    def __init__(self, home, heads=("logistic",), count=20, **settings):
        self.home = home
        recipe = make_recipe(size=64, precision="float32")
        self.network = CountingBackbone(recipe)
        self.extractor = Extractor(recipe, cache=home / "cache", forward=self.network)
        self.photos = paint_classes(home / "photos", count=count)
        self.run = classify(
            self.photos,
            heads,
            recipe=recipe,
            cache=home / "cache",
            forward=self.network,
            runs=home / "runs",
            **{"splits": True, **settings},
        )
        self.site = open_site(self.photos, run=self.run.folder, extractor=self.extractor)
        self.secrets = Secrets()
        self.app = self.site.guarded(self.secrets, PORT)

    def ask(self, path, method="GET", **more):
        more.setdefault("cookie", f"{self.app.cookie}={self.secrets.session}")
        return ask(self.app, f"{self.secrets.home[:-1]}{path}", method, **more)

    def post(self, path, body=b""):
        return self.ask(path, "POST", body=body)


__all__ = ["PORT", "Served", "paint", "picture"]
