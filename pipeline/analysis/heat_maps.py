"""What in one picture counts for a class and against it, and how that is drawn over the picture."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True, eq=False)
class HeatMap:
    """How much each part of a picture counts for a class or against it.

    Attributes
    ----------
    label : str
        The class.
    values : ndarray of float64, shape (height, width)
        One for each position of the features, from the top left: above 0 speaks for the class,
        below 0 against it. They explain the classifier, not the network below it.
    method : {"weights", "gradient", "occlusion"}
        How they were worked out. Of a linear classifier they add up to the score of the class
        without its intercept ("weights"); of a network they are features times gradients of the
        score ("gradient"); of any other they are what the log-odds lose where a patch of the
        features is set to 0 ("occlusion"). See `pipeline.analysis.class_maps.find_class_maps`.
    backbone : str
        The network, whose cells may not fill the picture.
    size : int
        Side of the square that the network gets, in pixels.
    decoding : str
        How image files are decoded, as in a recipe.
    """

    label: str
    values: npt.NDArray[np.float64]
    method: str
    backbone: str
    size: int
    decoding: str = VERSION

    @property
    def where(self) -> str:
        """Where in the picture the largest value lies, as in "top left"; empty if all are 0."""
        if not self.values.any():
            return ""
        down, across = np.unravel_index(self.values.argmax(), self.values.shape)
        vertical = _third(self._centres(0)[down], ("top", "middle", "bottom"))
        horizontal = _third(self._centres(1)[across], ("left", "centre", "right"))
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
        """Interpolate between the middles of the network's cells: red, green, blue, opacity."""
        values, largest = self.values, np.abs(self.values).max() or 1.0
        for axis, count in enumerate((height, width)):
            at = (np.arange(count) + 0.5) / count
            along = partial(np.interp, at, self._centres(axis))
            values = np.apply_along_axis(along, axis, values)
        pixels = np.empty((height, width, 4), np.uint8)
        pixels[..., :3] = np.where(values[..., None] > 0, _FOR, _AGAINST)
        pixels[..., 3] = np.rint(_OPAQUE * np.abs(values) / largest)
        return pixels

    def _centres(self, axis: int) -> npt.NDArray[np.float64]:
        """Return where the middles of the cells lie, as shares of the picture's side."""
        cells = self.values.shape[axis]
        return get_backbone(self.backbone).cell_centres(cells, self.size) / self.size


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
        One picture, as for `Model.predict`: if its features are in the cache, no network is run.
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
        The model has no such class, or no maps: it is an exported file without its run, or its
        features have no places in a picture.

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

    whole = mapped_model(model)
    outcomes = whole.predict_rows([image], extractor or Extractor(), listener or Listener())
    [(found, rows)] = outcomes
    if isinstance(rows, ImageError):
        place = f"{found.path}: " if found.path else ""
        raise ImageError(f"{place}{rows.found}", expected=rows.expected, fix=rows.fix)
    return map_of_rows(whole, rows, label or str(found.label))


def map_of_rows(model: Model, rows: npt.NDArray[np.float32], label: str) -> HeatMap:
    """Make the map of a picture of which the rows are at hand; that of its first view is shown."""
    from pipeline.analysis.class_maps import find_class_maps

    with _ONE_AT_A_TIME:
        maps = find_class_maps(model, rows[:1], np.array([model.classes.index(label)]))
    recipe = model.recipe
    return HeatMap(
        label, maps.values[0], maps.method, recipe.backbone, recipe.size, recipe.decoding
    )


def mapped_model(model: Model) -> Model:
    """Return the model that maps are made by: not an exported file, but what it was made from."""
    if model.estimator is None and model.original is None:
        raise PipelineError(
            "an exported file has no maps.", fix="name the run that it was exported from"
        )
    from pipeline.analysis.class_maps import has_places

    whole = model if model.original is None else model.original()
    if not has_places(whole):
        raise PipelineError(
            "this classifier learned from the maxima over the whole picture, which have no "
            "place in it: there is no map.",
            fix="classify with --pool flatten for one that has maps",
        )
    return whole


def _third(share: float, names: tuple[str, str, str]) -> str:
    return names[min(int(3 * share), 2)]
