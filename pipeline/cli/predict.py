"""`pipeline predict`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from pipeline.cli.listening import TerminalListener
from pipeline.cli.options import CacheOption, JsonOption, WeightsOption
from pipeline.cli.terminal import finish, out, reporting_errors, shown
from pipeline.errors import PipelineError, printable
from pipeline.system.cells import to_cell

if TYPE_CHECKING:
    from pipeline.evaluation.threshold import Threshold
    from pipeline.models.model import Model, Prediction


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="runs/NAME, or a model's own folder.")
    ],
    image: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Image files, folders of them, or their URLs."),
    ],
    *,
    head: Annotated[
        str | None, typer.Option(help="Head of the run; the default is its best on validation.")
    ] = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    cache: CacheOption = Path("cache"),
    weights: WeightsOption = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE",
            help="A type that a head given as module:factory holds, and whose code may run; may "
            "be repeated.",
        ),
    ] = None,
) -> None:
    """Classify new images with a trained model.

    Example: pipeline predict runs/photos new/picture.jpg
    """
    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    with reporting_errors():
        from pipeline.data.dataset import Quarantined, shorten
        from pipeline.data.listing import list_images
        from pipeline.features.extractor import Extractor
        from pipeline.models.files import find_model
        from pipeline.models.model import Model, Prediction
        from pipeline.system.documents import to_json

        loaded = Model.load(find_model(model, head), trusted=trust or ())
        images, skipped = list_images(image)
        if not images:
            reasons = shorten(f"{bad.path}: {bad.reason}" for bad in skipped)
            raise PipelineError(
                "there are no images in the folders named"
                + (f"; {len(skipped):,} files skipped: {reasons}" if skipped else "."),
            )
        with TerminalListener(unit="images") as listener:
            extractor = Extractor(cache=cache, weights=weights)
            predictions = list(loaded.predict(images, extractor=extractor, listener=listener))
        predictions += (Prediction(bad.path, None, {}, bad.reason) for bad in skipped)
        if as_json:
            items = [_prediction_dict(item, loaded.threshold) for item in predictions]
            typer.echo(to_json(items), nl=False)
        elif as_csv:
            _print_predictions_csv(predictions, loaded)
        elif any(item.label is not None for item in predictions):
            _print_predictions(predictions, loaded)
            if loaded.threshold:
                out.print(shown(loaded.threshold.rule(loaded.classes)), soft_wrap=True)
    finish([Quarantined(item.path, item.error) for item in predictions if item.error])


def _prediction_dict(prediction: Prediction, threshold: Threshold | None) -> dict[str, Any]:
    return {
        "path": str(prediction.path),
        "label": prediction.label,
        "probabilities": prediction.probabilities,
        **({"threshold": asdict(threshold)} if threshold else {}),
        "error": prediction.error,
    }


def _print_predictions_csv(predictions: Sequence[Prediction], model: Model) -> None:
    threshold = {f"threshold of {model.positive_class}": model.threshold} if model.threshold else {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    titles = ("path", "predicted", *(f"probability of {name}" for name in model.classes))
    titles = (*titles, *threshold, "error")
    writer.writerow(map(printable, titles))
    for item in predictions:
        path, label, error = (
            to_cell(printable(part or "")) for part in (item.path, item.label, item.error)
        )
        values = [item.probabilities.get(name, "") for name in model.classes]
        writer.writerow([path, label, *values, *(own.value for own in threshold.values()), error])
    typer.echo(text.getvalue().encode(), nl=False)


def _print_predictions(predictions: Sequence[Prediction], model: Model) -> None:
    positive = model.positive_class
    threshold = {"threshold": f"{model.threshold.value:.3f}"} if model.threshold else {}
    probability = "probability" if positive is None else f"P({positive})"
    table = Table(box=box.SIMPLE)
    for column in ("image", "predicted", probability, *threshold):
        table.add_column(shown(column), overflow="fold")
    for item in predictions:
        if item.label is not None:
            p = f"{item.probabilities[positive or item.label]:.3f}"
            table.add_row(shown(item.path), shown(item.label), p, *threshold.values())
    out.print(table)
