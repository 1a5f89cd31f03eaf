"""What in one picture counts for a class and against it, and how that is drawn over the picture."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.analysis.lime import MIDDLES, lime
from pipeline.backbones.choices import EVERY_LAYER
from pipeline.backbones.registry import get_backbone
from pipeline.data.decoding import VERSION
from pipeline.data.images import jpeg, png, shrink
from pipeline.errors import ImageError, PipelineError, did_you_mean

if TYPE_CHECKING:  # a page of a run is drawn without them
    from pipeline.features.extractor import Extractor
    from pipeline.features.listener import Listener
    from pipeline.models.model import Image, Model

_SIDE = 640
_OVERLAY_SIDE = 40
_FOR, _AGAINST = (230, 97, 1), (33, 102, 172)  # the colour-blind can tell them apart
_OPAQUE = 170  # of 255: what lies below is still seen
_ONE_AT_A_TIME = threading.Lock()

Middles = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class HeatMap:
    """How much each part of a picture counts for a class or against it.

    Attributes
    ----------
    label : str
        The class.
    values : ndarray of float64, shape (height, width)
        One for each position of the features, or each part of the picture, from the top left:
        above 0 speaks for the class, below 0 against it.
    method : {"weights", "gradient", "occlusion", "lime"}
        How they were worked out. Of a linear classifier they add up to the score of the class
        without its intercept ("weights"); of a network they are features times gradients of the
        score ("gradient"); of any other they are what the log-odds lose where a patch of the
        features is set to 0 ("occlusion"). See `pipeline.analysis.class_maps.find_class_maps`.
        These three explain the classifier, not the network below it. Where features have no
        places, as the maxima of every layer, network and classifier see 128 pictures that show half
        of 5 x 5 parts each, the others in the picture's mean colour, and the values are what a part
        adds to the log-odds ("lime": M. Ribeiro, S. Singh, C. Guestrin, *Why should I trust you?*,
        KDD 2016).
    middles : tuple of ndarray of float64, shapes (height,) and (width,)
        Where each value lies, from the top and from the left, as shares of the picture's sides: a
        network's cells may not fill the picture.
    decoding : str
        How image files are decoded, as in a recipe.
    """

    label: str
    values: npt.NDArray[np.float64]
    method: str
    middles: Middles
    decoding: str = VERSION

    @property
    def where(self) -> str:
        """Where most speaks for the class, as in "top left"; empty if nothing does."""
        if self.values.max() <= 0:
            return ""
        down, across = np.unravel_index(self.values.argmax(), self.values.shape)
        vertical = _third(self.middles[0][down], ("top", "middle", "bottom"))
        horizontal = _third(self.middles[1][across], ("left", "centre", "right"))
        return f"{vertical} {horizontal}"

    def overlay(self) -> bytes:
        """Draw the map alone, to be stretched over the picture.

        Returns
        -------
        bytes
            A PNG file: orange where the picture speaks for the class, blue where against it, the
            more opaque the more. The largest value, of either sign, has the strongest colour. Empty
            if all values are 0.
        """
        return png(self._colours(_OVERLAY_SIDE, _OVERLAY_SIDE)) if self.values.any() else b""

    def over(self, image: Image, *, side: int = _SIDE) -> bytes:
        """Draw the map over a picture.

        Parameters
        ----------
        image : path, bytes or ndarray
            The picture, as for `heat_map`.
        side : int
            The most pixels that its longer side gets; nothing is enlarged.

        Returns
        -------
        bytes
            A JPEG file: upright, in the picture's aspect ratio, in the colours of `overlay`.

        Raises
        ------
        ImageError
            The picture cannot be read.
        """
        from pipeline.models.model import read_picture

        picture = shrink(read_picture(image), side, self.decoding)
        colours = self._colours(*picture.shape[:2]).astype(np.float32)
        share = colours[..., 3:] / 255
        return jpeg(np.rint(picture * (1 - share) + colours[..., :3] * share).astype(np.uint8))

    def _colours(self, height: int, width: int) -> npt.NDArray[np.uint8]:
        """Interpolate between the middles: red, green, blue, opacity."""
        values, largest = self.values, np.abs(self.values).max() or 1.0
        for axis, count in enumerate((height, width)):
            at = (np.arange(count) + 0.5) / count
            along = partial(np.interp, at, self.middles[axis])
            values = np.apply_along_axis(along, axis, values)
        pixels = np.empty((height, width, 4), np.uint8)
        pixels[..., :3] = np.where(values[..., None] > 0, _FOR, _AGAINST)
        pixels[..., 3] = np.rint(_OPAQUE * np.abs(values) / largest)
        return pixels


def middles_of_cells(backbone: str, size: int, values: npt.NDArray[np.float64]) -> Middles:
    """Return where a network's cells lie, of which there is a value each; see `HeatMap`."""
    height, width = (
        get_backbone(backbone).cell_centres(cells, size) / size for cells in values.shape
    )
    return height, width


def heat_map(
    model: Model,
    image: Image,
    label: str | None = None,
    *,
    extractor: Extractor | None = None,
    listener: Listener | None = None,
) -> HeatMap:
    """Find out what in a picture counts for a class and what against it.

    Parameters
    ----------
    model : Model
        A model, as from `pipeline.load_model`.
    image : path, bytes or ndarray
        One picture, as for `Model.predict`: if its features are in the cache, no network is run,
        but where the method is "lime".
    label : str, optional
        The class; the default is what the model's classifier calls the picture.
    extractor : Extractor, optional
        Where features are looked up, and where the network's weights are.
    listener : Listener, optional
        Told of damaged shards.

    Raises
    ------
    ImageError
        The picture cannot be read.
    PipelineError
        The model has no such class.

    Examples
    --------
    >>> from pipeline import heat_map, load_model
    >>> found = heat_map(load_model("runs/photos"), "new/picture.jpg")  # doctest: +SKIP
    >>> print(found.label, found.where)  # doctest: +SKIP
    >>> Path("map.jpg").write_bytes(found.over("new/picture.jpg"))  # doctest: +SKIP
    """
    if label is not None and label not in model.classes:
        raise PipelineError(
            f"the model knows no class {label!r}.",
            expected=f"one of {', '.join(model.classes)}",
            fix=did_you_mean(label, model.classes),
        )
    from pipeline.features.extractor import Extractor
    from pipeline.features.listener import Listener

    mapped, extractor = mapped_model(model), extractor or Extractor()
    [(found, rows)] = mapped.predict_rows([image], extractor, listener or Listener())
    if isinstance(rows, ImageError):
        place = f"{found.path}: " if found.path else ""
        raise ImageError(f"{place}{rows.found}", expected=rows.expected, fix=rows.fix)
    return map_of(mapped, image, rows, label or str(found.label), extractor)


def mapped_model(model: Model) -> Model:
    """Return the model that maps are made by: where features have places, not an exported file."""
    if model.recipe.layer in EVERY_LAYER or model.original is None:
        return model
    original = model.original()
    return original if _has_places(original) else model


def map_of(
    model: Model,
    image: Image,
    rows: npt.NDArray[np.float32],
    label: str,
    extractor: Extractor,
) -> HeatMap:
    """Make the map of a picture of which the rows are at hand, by a model from `mapped_model`.

    Of several views, it is that of the picture itself.
    """
    if not _has_places(model):
        return _by_lime(model, image, label, extractor)
    from pipeline.analysis.class_maps import find_class_maps

    with _ONE_AT_A_TIME:
        maps = find_class_maps(model, rows[:1], np.array([model.classes.index(label)]))
    values, recipe = maps.values[0], model.recipe
    middles = middles_of_cells(recipe.backbone, recipe.size, values)
    return HeatMap(label, values, maps.method, middles, recipe.decoding)


def _has_places(model: Model) -> bool:
    if model.estimator is None:  # an exported file: what is in it cannot be told apart
        return False
    from pipeline.analysis.class_maps import has_places

    return has_places(model)


def _by_lime(model: Model, image: Image, label: str, extractor: Extractor) -> HeatMap:
    from pipeline.models.model import read_picture

    recipe, number = model.recipe, model.classes.index(label)
    values = lime(
        recipe.decode(read_picture(image)),
        lambda pictures: model.probabilities_of_pixels(pictures, extractor)[:, number],
    )
    return HeatMap(label, values, "lime", (MIDDLES, MIDDLES), recipe.decoding)


def _third(share: float, names: tuple[str, str, str]) -> str:
    return names[min(int(3 * share), 2)]
