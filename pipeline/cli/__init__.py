"""The `pipeline` command: arguments, messages and exit codes. No logic.

Results go to standard output, all else to standard error. Exit codes: 0 all went well; 1 an error;
2 wrong usage; 3 done, but some files or heads could not be used; 130 or 143 stopped by Ctrl-C
or SIGTERM.
"""

from __future__ import annotations

import csv
import gc
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from pipeline.cli.cache import app as cache_app
from pipeline.cli.classify import classify
from pipeline.cli.finetune import augment, finetune
from pipeline.cli.options import (
    AugmentationOption,
    CacheOption,
    DataArgument,
    JsonOption,
    SchedulerOption,
    SeedOption,
    StrictOption,
    TtaOption,
    ViewsOption,
    WeightsOption,
    WorkersOption,
    views_of,
    with_recipe,
)
from pipeline.cli.problems import problems
from pipeline.cli.report import compare, report
from pipeline.cli.steps import on_cluster, prepare
from pipeline.cli.terminal import (
    SOME_FILES_UNUSABLE,
    finish,
    out,
    print_damaged,
    progress,
    reporting_errors,
    shown,
)
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.evaluate.threshold import Threshold
    from pipeline.model import Prediction

__all__ = ["SOME_FILES_UNUSABLE", "app", "main"]

app = typer.Typer(
    help="Transfer learning on a laptop: images are looked at once, every experiment is cheap.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(cache_app, name="cache")
app.command()(classify)
app.command()(finetune)
app.command()(augment)
app.command()(problems)
app.command()(report)
app.command()(compare)


@app.command()
@with_recipe
def features(
    data: DataArgument,
    *,
    recipe: dict[str, Any],
    views: ViewsOption = 1,
    augmentation: AugmentationOption = None,
    tta: TtaOption = False,
    cache: CacheOption = Path("cache"),
    weights: WeightsOption = None,
    strict: StrictOption = False,
    seed: SeedOption = 0,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
) -> None:
    """Show every image to the network once, and keep what it saw.

    Example: pipeline features photos/ --views 4 --augmentation mild
    """
    with reporting_errors(), on_cluster(scheduler, workers) as cluster:
        from pipeline.extraction import extract

        wanted = views_of(views, augmentation, tta=tta)
        dataset, plans = prepare(
            data, recipe, cache=cache, weights=weights, seed=seed, views=wanted
        )
        for one, plan in zip(wanted, plans):
            with progress("rows", cluster) as on_progress:
                extraction = extract(
                    dataset,
                    plan.store.recipe,
                    views=one,
                    cache=cache,
                    weights=weights,
                    strict=strict,
                    on_progress=on_progress,
                    plan=plan,
                    commit=cluster.commit_rows if cluster else None,
                )
            dataset = extraction.dataset  # what could not be read is not tried again
            made, seconds = extraction.made, extraction.seconds
            rate = f" in {seconds:.1f} s ({made / seconds:.1f} rows/s)" if made else ""
            views_in = f", views in {shown(extraction.augmented.folder)}" if one.count > 1 else ""
            out.print(
                f"{made:,} rows made{rate}; {len(dataset):,} images have features in "
                f"{shown(extraction.store.folder)}{views_in}",
                soft_wrap=True,
            )
    finish(dataset.quarantined)


@app.command()
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
        from pipeline.dataset import Quarantined, list_images
        from pipeline.model import Model, find_model

        loaded = Model.load(find_model(model, head), trusted=trust or ())
        images = list_images(image)
        if not images:
            raise PipelineError("there are no images in the folders named.")
        with progress() as on_progress:
            predictions = list(loaded.predict(images, weights=weights, on_progress=on_progress))
        if as_json:
            found = [_prediction_dict(item, loaded.threshold) for item in predictions]
            typer.echo(json.dumps(found, indent=2))
        elif as_csv:
            _print_predictions_csv(predictions, loaded.classes)
        elif any(item.label is not None for item in predictions):
            _print_predictions(predictions)
            if loaded.threshold:
                out.print(shown(loaded.threshold.rule(loaded.classes)), soft_wrap=True)
    finish([Quarantined(item.path, item.error) for item in predictions if item.error])


@app.command()
@with_recipe
def status(
    data: DataArgument,
    *,
    recipe: dict[str, Any],
    cache: CacheOption = Path("cache"),
    as_json: JsonOption = False,
) -> None:
    """Tell what a run would reuse and what it would have to make; change nothing.

    Example: pipeline status photos/
    """
    with reporting_errors():
        from pipeline.backbone import vgg16_recipe
        from pipeline.status import status as find_status

        found = find_status(data, vgg16_recipe(**recipe), cache=cache)
        lists = {
            "new": found.new,
            "changed": found.changed,
            "removed": found.removed,
            "unreadable": [bad.path for bad in found.unreadable],
        }
        if as_json:
            names = {kind: [str(path) for path in paths] for kind, paths in lists.items()}
            typer.echo(json.dumps({"reused": found.reused, **names}, indent=2))
        else:
            print_damaged(found.store)
            out.print(f"{found.reused:,} reused")
            for kind, paths in lists.items():
                examples = ": " + ", ".join(shown(path) for path in paths[:3]) if paths else ""
                more = ", ..." if len(paths) > 3 else ""
                out.print(f"{len(paths):,} {kind}{examples}{more}", soft_wrap=True)


def main() -> None:
    """Run the command."""
    # Importing makes many objects and no garbage: with the default of 700, looking for it takes a
    # sixth of a run that has nothing to do.
    gc.set_threshold(100_000)
    # What is wrong with an image is said once, in the list of files that took no part.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # The head mlp learns in batches of 64 images; that fewer images make smaller ones is no news.
    warnings.filterwarnings("ignore", message="Got `batch_size` less than 1 or larger")
    app()


def _prediction_dict(prediction: Prediction, threshold: Threshold | None) -> dict[str, Any]:
    return {
        "path": str(prediction.path),
        "label": prediction.label,
        "probabilities": prediction.probabilities,
        **({"threshold": threshold.to_dict()} if threshold else {}),
        "error": prediction.error,
    }


def _print_predictions_csv(predictions: Sequence[Prediction], classes: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    probabilities = [f"probability of {name}" for name in classes]
    writer.writerow(["path", "predicted", *probabilities, "error"])
    for item in predictions:
        values = [item.probabilities.get(name, "") for name in classes]
        writer.writerow([item.path, item.label or "", *values, item.error or ""])
    # Names of files are bytes to the system: what is no text comes out as it went in.
    typer.echo(text.getvalue().encode("utf-8", "surrogateescape"), nl=False)


def _print_predictions(predictions: Sequence[Prediction]) -> None:
    table = Table(box=box.SIMPLE)
    for column in ("image", "predicted", "probability"):
        table.add_column(column, overflow="fold")
    for item in predictions:
        if item.label is not None:
            probability = f"{item.probabilities[item.label]:.3f}"
            table.add_row(shown(item.path), shown(item.label), probability)
    out.print(table)
