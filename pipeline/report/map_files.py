"""Pictures with heat maps laid over them, written into a folder as they are classified."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.analysis.heat_maps import map_of
from pipeline.data.names import nfc
from pipeline.data.urls import Location, without_query
from pipeline.errors import ImageError, PipelineError
from pipeline.features.extractor import Extractor
from pipeline.features.listener import Listener
from pipeline.models.model import Model, Prediction, read_picture
from pipeline.system.files import file_errors, make_folder, write_file

_MOST_BYTES = 180  # of a name; a file system takes 255
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³])(\.|$)")  # on Windows


@dataclass(frozen=True)
class MappedPrediction(Prediction):
    """What a model says of one image, and the file of its map; None where it has none."""

    map: Path | None = None


def predict_with_maps(
    model: Model,
    images: Sequence[Location],
    folder: Path,
    *,
    extractor: Extractor,
    listener: Listener,
) -> Iterator[MappedPrediction]:
    """Classify images, and write each with the map of its predicted class laid over it.

    The model is one from `mapped_model`: a map explains the answer that is given.
    A picture that cannot be drawn has an answer, and an error beside it.

    Raises
    ------
    PipelineError
        The folder is not empty or cannot be written into; at once, before any image is classified.
    """
    with file_errors(f"write into the folder {folder}", fix="name another folder"):
        if folder.is_dir() and any(folder.iterdir()):
            raise PipelineError(
                f"the folder {folder} is not empty.",
                expected="a new or an empty folder for the maps",
                fix="name another folder, or empty this one",
            )
        make_folder(folder)
    return _written(model, images, folder, extractor, listener)


def _written(
    model: Model, images: Sequence[Location], folder: Path, extractor: Extractor, listener: Listener
) -> Iterator[MappedPrediction]:
    taken: dict[str, int] = {}
    for done, (found, rows) in enumerate(model.predict_rows(images, extractor, listener), 1):
        item = MappedPrediction(**vars(found))
        if found.path and found.label is not None and not isinstance(rows, ImageError):
            try:
                picture = read_picture(found.path)
                drawn = map_of(model, picture, rows, found.label, extractor).over(picture)
            except PipelineError as error:  # a picture that was moved, a head that takes no zeros
                item = replace(item, error=f"its map cannot be drawn: {error.found}")
            else:
                file = folder / _free_name(found.path, taken)
                with file_errors(f"write {file}"):
                    write_file(file, drawn, replace=False)
                item = replace(item, map=file)
        yield item
        listener.rows_made(done, len(images))


def _free_name(image: Location, taken: dict[str, int]) -> str:
    """Name a map after its image, but like no other; what has a meaning in paths is left out."""
    stem = Path(without_query(image).name).stem
    plain = re.sub(r"[^\w.-]+", "_", nfc(stem)).strip("._-")
    plain = plain.encode()[:_MOST_BYTES].decode(errors="ignore") or "image"
    plain = f"image-{plain}" if _DEVICES.match(plain) else plain
    name, first = plain, plain.casefold()
    while name.casefold() in taken:
        taken[first] += 1
        name = f"{plain}-{taken[first]}"
    taken[name.casefold()] = 1
    return f"{name}.jpg"
