"""The `pipeline` command: arguments, progress, messages and exit codes. No logic.

Results go to standard output, all else to standard error. Exit codes: 0 all went well; 1 an error;
2 wrong usage; 3 done, but some files could not be used; 130 or 143 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import csv
import io
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.classification import Result, Run
    from pipeline.dataset import Dataset, Quarantined
    from pipeline.extraction import Plan
    from pipeline.model import Prediction

SOME_FILES_UNUSABLE = 3

_LINE_EVERY_SECONDS = 10.0
_SHOWN_FILES = 20

app = typer.Typer(
    help="Transfer learning on a laptop: images are looked at once, every experiment is cheap.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_out = Console(highlight=False, emoji=False)
_err = Console(stderr=True, highlight=False, emoji=False)


class Scaling(StrEnum):
    """Preprocessing."""

    caffe = "caffe"
    unit = "unit"


class Precision(StrEnum):
    """Number format."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class Resize(StrEnum):
    """Resize filter."""

    bilinear = "bilinear"
    nearest = "nearest"
    bicubic = "bicubic"


DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder of class folders; a folder with train/, validation/, test/ of class "
        "folders; a CSV with path,label[,split][,group]; or the word demo.",
    ),
]
SizeOption = Annotated[int, typer.Option(help="Side of the network's input, in pixels.")]
LayerOption = Annotated[str, typer.Option(help="Layer that the network is cut at.")]
ScalingOption = Annotated[
    Scaling, typer.Option(help="VGG16's own preprocessing, or the recipe's division by 255.")
]
PrecisionOption = Annotated[
    Precision, typer.Option(help="What to compute in; auto is bfloat16 where the CPU has it.")
]
ResizeOption = Annotated[Resize, typer.Option(help="Filter that brings pictures to size.")]
CacheOption = Annotated[Path, typer.Option(help="Folder that features are kept in.")]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="VGG16's ImageNet weights: .h5, .weights.h5, .keras or .onnx.", metavar="FILE"
    ),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Fail if any file cannot be used.")]
SeedOption = Annotated[int, typer.Option(help="Another seed gives other splits and other luck.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def features(
    data: DataArgument,
    *,
    size: SizeOption = 150,
    layer: LayerOption = "block5_pool",
    scaling: ScalingOption = Scaling.caffe,
    precision: PrecisionOption = Precision.auto,
    resize: ResizeOption = Resize.bilinear,
    cache: CacheOption = Path("cache"),
    weights: WeightsOption = None,
    strict: StrictOption = False,
    seed: SeedOption = 0,
) -> None:
    """Show every image to the network once, and keep what it saw.

    Example: pipeline features photos/
    """
    with _reporting_errors():
        from pipeline.backbone import vgg16_recipe
        from pipeline.dataset import load_dataset
        from pipeline.extraction import extract, plan

        recipe = vgg16_recipe(
            layer=layer, size=size, scaling=scaling, precision=precision, resize=resize
        )
        dataset = load_dataset(data, seed=seed)
        _print_plan(dataset, plan(dataset, recipe, cache=cache))
        with _progress() as on_progress:
            extraction = extract(
                dataset,
                recipe,
                cache=cache,
                weights=weights,
                strict=strict,
                on_progress=on_progress,
            )
        rate = (
            f" in {extraction.seconds:.1f} s ({extraction.made / extraction.seconds:.1f} images/s)"
        )
        _out.print(
            f"{extraction.made:,} rows made{rate if extraction.made else ''}; "
            f"{len(extraction.dataset):,} images have features in "
            f"{_shown(extraction.store.folder)}",
            soft_wrap=True,
        )
    _finish(extraction.dataset.quarantined)


@app.command()
def classify(
    data: DataArgument,
    *,
    head: Annotated[
        list[str] | None,
        typer.Option(
            help="logistic, linear-svm, rbf-svm, knn, dense or all; may be repeated.",
            show_default="all",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run's folder.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder that runs are kept in.")] = Path("runs"),
    as_json: JsonOption = False,
    size: SizeOption = 150,
    layer: LayerOption = "block5_pool",
    scaling: ScalingOption = Scaling.caffe,
    precision: PrecisionOption = Precision.auto,
    resize: ResizeOption = Resize.bilinear,
    cache: CacheOption = Path("cache"),
    weights: WeightsOption = None,
    strict: StrictOption = False,
    seed: SeedOption = 0,
) -> None:
    """Train classifiers on the features, and compare them; features that lack are made first.

    Example: pipeline classify photos/ --head logistic --head rbf-svm
    """
    with _reporting_errors():
        from pipeline.backbone import vgg16_recipe
        from pipeline.classification import classify as run_classify
        from pipeline.dataset import load_dataset
        from pipeline.extraction import plan

        recipe = vgg16_recipe(
            layer=layer, size=size, scaling=scaling, precision=precision, resize=resize
        )
        dataset = load_dataset(data, seed=seed)
        _print_plan(dataset, plan(dataset, recipe, cache=cache))
        with _progress() as on_progress:
            run = run_classify(
                dataset,
                head or "all",
                recipe=recipe,
                cache=cache,
                runs=runs,
                name=name,
                seed=seed,
                weights=weights,
                strict=strict,
                on_progress=on_progress,
                on_result=lambda result: _err.print(
                    f"{result.head}: fitted in {result.seconds:.1f} s"
                ),
            )
        if as_json:
            typer.echo((run.folder / "run.json").read_text(), nl=False)
        else:
            _print_run(run)
    _finish(run.extraction.dataset.quarantined)


@app.command()
def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="runs/NAME, or a model's own folder.")
    ],
    image: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", help="Image files, or folders of them."),
    ],
    *,
    head: Annotated[
        str | None, typer.Option(help="Head of the run; the default is its best on validation.")
    ] = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    weights: WeightsOption = None,
) -> None:
    """Classify new images with a trained model.

    Example: pipeline predict runs/photos new/picture.jpg
    """
    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    with _reporting_errors():
        from pipeline.dataset import Quarantined, list_images
        from pipeline.model import Model, find_model

        loaded = Model.load(find_model(model, head))
        images = list_images(image)
        if not images:
            raise PipelineError("there are no images in the folders named.")
        with _progress() as on_progress:
            predictions = list(loaded.predict(images, weights=weights, on_progress=on_progress))
        if as_json:
            typer.echo(json.dumps([_prediction_dict(item) for item in predictions], indent=2))
        elif as_csv:
            _print_predictions_csv(predictions, loaded.classes)
        else:
            _print_predictions(predictions)
    _finish([Quarantined(item.path, item.error) for item in predictions if item.error])


def main() -> None:
    """Run the command."""
    app()


class _Terminated(KeyboardInterrupt):
    """SIGTERM came: stop as for Ctrl-C."""


@contextmanager
def _reporting_errors() -> Iterator[None]:
    """Turn what the user can act on into one message and an exit code, without a traceback.

    SIGTERM, which a batch system or a container's end sends, stops the work as Ctrl-C does, so
    that it, too, keeps what was computed.
    """

    def terminate(*_: object) -> NoReturn:
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except PipelineError as error:
        found, *rest = str(error).split("\n")
        _err.print(f"[red]Error:[/] {escape(found)}", *map(escape, rest), sep="\n", soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt as stop:
        _err.print("Stopped. Features made so far are kept: the same command goes on from there.")
        raise typer.Exit(143 if isinstance(stop, _Terminated) else 130) from None


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show how far the work is: a bar on a terminal, now and then a line elsewhere."""
    started = 0.0

    def rate(done: int) -> float:
        return done / max(time.monotonic() - started, 1e-9)

    bar = Progress(
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("images  {task.fields[rate]}"),
        TimeRemainingColumn(),
        console=_err,
        transient=True,
        disable=not _err.is_terminal,
    )
    task = bar.add_task("", total=None, rate="", visible=False)
    last_line = 0.0

    def on_progress(done: int, total: int) -> None:
        nonlocal started, last_line
        now = time.monotonic()
        started = started or now
        text = f"{rate(done):.1f}/s" if done else "loading the network"
        bar.update(task, completed=done, total=total, rate=text, visible=True)
        if bar.disable and done and now - max(last_line, started) > _LINE_EVERY_SECONDS:
            last_line = now
            left = (total - done) / rate(done)
            _err.print(f"{done:,} of {total:,} images, {text}, {left:.0f} s left")

    with bar:
        yield on_progress


def _print_plan(dataset: Dataset, plan: Plan) -> None:
    from pipeline import demo
    from pipeline.dataset import count_splits

    if dataset.name == "demo":
        _err.print(demo.SOURCE)
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{len(dataset):,} images")
    counts = count_splits(dataset)
    for split in counts:
        table.add_column(split, justify="right")
    for name in dataset.classes:
        table.add_row(_shown(name), *(f"{of_split[name]:,}" for of_split in counts.values()))
    _err.print(table)
    for bad in plan.store.damaged:
        _err.print(
            f"[yellow]The shard {bad.name} is damaged and set aside:[/] {_shown(bad.reason)}",
            soft_wrap=True,
        )
    recipe = plan.store.recipe
    _err.print(
        f"{recipe.backbone} up to {recipe.layer}, {recipe.size} x {recipe.size} pixels, "
        f"{recipe.precision}: {plan.there:,} rows are there, {plan.missing:,} to make"
    )


def _print_run(run: Run) -> None:
    test = run.results[0].test
    table = Table(
        title=f"{test.n:,} test images, never seen in training",
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("head", no_wrap=True)
    for column in ("accuracy", "95 % interval", "balanced", "ROC AUC", "log loss", "fit time"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in run.results:
        style = "bold" if result is run.best else ""
        table.add_row(*_row(result, best=result is run.best), style=style)
    _out.print(table)
    majority = max(map(sum, test.confusion)) / test.n
    _out.print(
        f"* best on validation. Always guessing the commonest class: {majority:.3f}\n"
        f"The run, with its pictures and models: {_shown(run.folder)}",
        soft_wrap=True,
    )


def _row(result: Result, *, best: bool) -> Sequence[str]:
    test = result.test
    return (
        result.head + (" *" if best else ""),
        f"{test.accuracy:.3f}",
        f"{test.accuracy_low:.3f}-{test.accuracy_high:.3f}",
        f"{test.balanced_accuracy:.3f}",
        "-" if test.roc_auc is None else f"{test.roc_auc:.3f}",
        f"{test.log_loss:.3f}",
        f"{result.seconds:.1f} s",
    )


def _prediction_dict(prediction: Prediction) -> dict[str, Any]:
    fields = {"path": str(prediction.path), "label": prediction.label}
    return {**fields, "probabilities": prediction.probabilities, "error": prediction.error}


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
            table.add_row(_shown(item.path), _shown(item.label), probability)
    _out.print(table)


def _finish(quarantined: Sequence[Quarantined]) -> None:
    """List the files that took no part; they also show in the exit code."""
    if not quarantined:
        return
    _err.print(f"[yellow]{len(quarantined):,} files took no part:[/]")
    for bad in quarantined[:_SHOWN_FILES]:
        _err.print(f"  {_shown(bad.path)}: {_shown(bad.reason)}", soft_wrap=True)
    if len(quarantined) > _SHOWN_FILES:
        _err.print(f"  and {len(quarantined) - _SHOWN_FILES:,} more")
    raise typer.Exit(SOME_FILES_UNUSABLE)


def _shown(text: object) -> str:
    """Show a path or a name so that nothing in it can break the output or act as markup."""
    return escape("".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text)))
