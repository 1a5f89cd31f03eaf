"""`pipeline predict`."""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
import shlex
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from pipeline.cli.listening import TerminalListener
from pipeline.cli.options import (
    CacheOption,
    HeadOption,
    JsonOption,
    TrustOption,
    WeightsOption,
    on_this_machine,
)
from pipeline.cli.terminal import MORE_MEMORY, err, finish, out, reporting_errors, shown
from pipeline.errors import PipelineError, printable
from pipeline.system.cells import to_cell
from pipeline.system.packages import as_typed, install_hint

MapsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Also write each image, its longer side at most 640 pixels, with a heat map over it: "
        "orange speaks for the class that it is called, blue against; as slow as 128 images where "
        "features have no places (--pool layers). DIR must be new or empty; "
        "--json and --csv name each file as map.",
        callback=on_this_machine,
    ),
]

_FEW = 100  # images, of which classifying takes less time than importing TensorFlow

if TYPE_CHECKING:
    from pipeline.data.dataset import Quarantined
    from pipeline.data.urls import Location
    from pipeline.models.model import Model, Prediction


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="runs/NAME, a model's own folder, or an exported .onnx file."
        ),
    ],
    image: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Image files, folders of them, or their URLs."),
    ],
    *,
    head: HeadOption = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    cache: CacheOption = Path("cache"),
    weights: WeightsOption = None,
    maps: MapsOption = None,
    trust: TrustOption = None,
) -> None:
    """Classify new images with a trained model.

    Example: pipeline predict runs/photos new/picture.jpg
    """
    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    with reporting_errors("The predictions so far are printed", spare=MORE_MEMORY):
        from pipeline.analysis.heat_maps import mapped_model
        from pipeline.data.dataset import Quarantined
        from pipeline.features.extractor import Extractor
        from pipeline.models.model import Prediction
        from pipeline.models.opening import load_model
        from pipeline.runs.training_images import training_images

        loaded = load_model(model, head=head, trusted=trust or ())
        loaded = loaded if maps is None else mapped_model(loaded)
        if remark := loaded.remark:
            err.print(shown(remark), soft_wrap=True)
        images, skipped = _list(image)
        extractor = Extractor(cache=cache, weights=weights)
        unusable: list[Quarantined] = []

        def noted(found: Iterable[Prediction]) -> Iterator[Prediction]:
            others = (Prediction(bad.path, None, {}, bad.reason) for bad in skipped)
            for item in itertools.chain(found, others):
                if item.error and item.path:
                    unusable.append(Quarantined(item.path, item.error))
                yield item

        stream = _show_json if as_json else _show_csv if as_csv else None
        show = partial(stream, with_maps=maps is not None) if stream else _show_table
        with _PredictListener(training_images(model), streams=stream is not None) as listener:
            found = _predict(loaded, images, maps, extractor=extractor, listener=listener)
            show(noted(found), loaded, listener)
        _print_known(listener.known, len(images))
        can_be_kept = loaded.recipe.precision != "int8"  # ONNX has no such networks
        slow = "tensorflow" in sys.modules and len(images) <= _FEW
        if maps is not None:
            meaning = "orange speaks for the predicted class, blue against it"
            err.print(f"maps in {shown(maps)}: {meaning}", soft_wrap=True)
        elif not stream and slow and can_be_kept:
            _propose_export(model, head)
    finish(unusable)


class _PredictListener(TerminalListener):
    """Also counts the images that the model knows: their answers tell little."""

    def __init__(self, is_known: Callable[[bytes], bool], *, streams: bool) -> None:
        super().__init__(unit="images", streams=streams)
        self._is_known = is_known
        self.known = 0
        self._alone = threading.Lock()

    def image_read(self, digest: bytes) -> None:
        if self._is_known(digest):
            with self._alone:
                self.known += 1


def _print_known(known: int, count: int) -> None:
    if known:
        images = "1 image" if count == 1 else f"{count:,} images"
        was, answers = ("was", "its answer does") if known == 1 else ("were", "their answers do")
        err.print(
            f"Of {images}, {known:,} {was} used to train this model or to choose it, so {answers} "
            "not show how well it does on new ones.",
            soft_wrap=True,
        )


def _list(paths: Sequence[str]) -> tuple[list[Location], list[Quarantined]]:
    from pipeline.data.dataset import shorten
    from pipeline.data.listing import list_images

    images, skipped = list_images(paths)
    if not images:
        reasons = shorten(f"{bad.path}: {bad.reason}" for bad in skipped)
        raise PipelineError(
            "there are no images in the folders named"
            + (f"; {len(skipped):,} files skipped: {reasons}" if skipped else "."),
        )
    return images, skipped


def _predict(
    model: Model, images: Sequence[Location], maps: Path | None, **more: Any
) -> Iterator[Prediction]:
    if maps is None:
        return model.predict(images, **more)
    from pipeline.report.map_files import predict_with_maps

    return predict_with_maps(model, images, maps, **more)


def _propose_export(model: Path, head: str | None) -> None:
    from pipeline.models.formats import FORMATS

    head_option = ["--head", head] if head else []
    command = as_typed(shlex.join(["pipeline", "export", str(model), *head_option]))
    if not all(map(importlib.util.find_spec, FORMATS["onnx"].packages)):
        command = f"{install_hint('export')} && {command}"
    err.print("next: predict without loading TensorFlow, which took most of the time")
    err.print(f"  {shown(command)}", soft_wrap=True)


def _show_json(
    items: Iterable[Prediction], model: Model, _: TerminalListener, *, with_maps: bool
) -> None:
    from pipeline.models.standalone import as_answer, print_array

    threshold = asdict(model.threshold) if model.threshold else None
    answers = (
        {
            **as_answer(item.path, item.label, item.probabilities, threshold, item.error),
            **({"map": _map_of(item)} if with_maps else {}),
        }
        for item in items
    )
    print_array(answers, partial(typer.echo, nl=False))


def _map_of(item: Prediction) -> str | None:
    file = getattr(item, "map", None)
    return None if file is None else str(file)


def _show_csv(
    items: Iterable[Prediction], model: Model, _: TerminalListener, *, with_maps: bool
) -> None:
    """Print a line for each item as it comes."""
    threshold = {f"threshold of {model.positive_class}": model.threshold} if model.threshold else {}
    titles = ("path", "predicted", *(f"probability of {name}" for name in model.classes))
    line = [printable(title) for title in (*titles, *threshold, "error", "map")]
    line = line if with_maps else line[:-1]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(line)
    for item in items:
        path, label, *rest = (
            to_cell(printable(part or ""))
            for part in (item.path, item.label, item.error, _map_of(item))[: 3 + with_maps]
        )
        values = [item.probabilities.get(name, "") for name in model.classes]
        writer.writerow([path, label, *values, *(own.value for own in threshold.values()), *rest])
        typer.echo(text.getvalue().encode(), nl=False)
        text.seek(0)
        text.truncate()


def _show_table(items: Iterable[Prediction], model: Model, listener: TerminalListener) -> None:
    """Print a table at the end, or of what is done where the work is stopped."""
    positive = model.positive_class
    threshold = {"threshold": f"{model.threshold.value:.3f}"} if model.threshold else {}
    probability = "probability" if positive is None else f"P({positive})"
    table = Table(box=box.SIMPLE)
    for column in ("image", "predicted", probability, *threshold):
        table.add_column(shown(column), overflow="fold")
    try:
        for item in items:
            if item.label is not None:
                p = f"{item.probabilities[positive or item.label]:.3f}"
                table.add_row(shown(item.path), shown(item.label), p, *threshold.values())
    finally:
        listener.end_bar()
        if table.row_count:
            out.print(table)
            if model.threshold:
                out.print(shown(model.threshold.rule(model.classes)), soft_wrap=True)
