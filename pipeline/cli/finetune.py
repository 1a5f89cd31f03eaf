"""`pipeline finetune` and `pipeline augment`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pipeline.cli.listening import TerminalListener
from pipeline.cli.options import (
    AugmentationOption,
    DataArgument,
    JsonOption,
    NameOption,
    RunsOption,
    SeedOption,
    StageOne,
    TtaOption,
    ViewsOption,
    views_of,
    with_stage_one,
)
from pipeline.cli.results import print_run
from pipeline.cli.terminal import (
    SOME_FILES_UNUSABLE,
    err,
    exit_code,
    finish,
    progress,
    reporting_errors,
)
from pipeline.errors import PipelineError
from pipeline.heads.pooling import Pooling

if TYPE_CHECKING:
    from pipeline.models.network import Network


class Source(StrEnum):
    """Where training reads from."""

    cache = "cache"
    images = "images"


class Phase(StrEnum):
    """What is trained."""

    both = "both"
    frozen = "frozen"
    finetune = "finetune"


class Optimizer(StrEnum):
    """Keras's optimisers."""

    rmsprop = "rmsprop"
    adam = "adam"


class Schedule(StrEnum):
    """What becomes of the learning rate."""

    constant = "constant"
    cosine = "cosine"


_PHASES = {"frozen": "frozen base", "finetune": "fine-tuning"}


@partial(with_stage_one, but=("layer",))
def finetune(
    data: DataArgument,
    *,
    stage_one: StageOne,
    source: Annotated[
        Source,
        typer.Option("--from", help="Cached rows, or the images through the whole network (slow)."),
    ] = Source.cache,
    phase: Annotated[
        Phase, typer.Option(help="Train the head on the frozen base, both jointly, or one by one.")
    ] = Phase.both,
    unfreeze: Annotated[
        str | None,
        typer.Option(
            help="First layer that is trained jointly with the head.",
            show_default="the first of the last block",
        ),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option(help="Run, or model, with a dense head to start from.", metavar="MODEL"),
    ] = None,
    views: ViewsOption = 1,
    augmentation: AugmentationOption = None,
    tta: TtaOption = False,
    pool: Annotated[Pooling, typer.Option(help="What is between base and head.")] = "flatten",
    units: Annotated[
        int, typer.Option(help="Size of the head's hidden layer; with --head, its own.")
    ] = 256,
    dropout: Annotated[
        float, typer.Option(help="Dropout in the head; with --head, its own.")
    ] = 0.0,
    optimizer: Annotated[Optimizer, typer.Option(help="Optimiser.")] = Optimizer.rmsprop,
    schedule: Annotated[
        Schedule,
        typer.Option(
            help="Learning rate: constant, or falling to 0 until the last of --epochs, so without "
            "--final take --patience so large that it comes to that."
        ),
    ] = Schedule.constant,
    epochs: Annotated[int, typer.Option(help="The most epochs of the joint training.")] = 30,
    frozen_epochs: Annotated[int, typer.Option(help="The most epochs on the frozen base.")] = 30,
    learning_rate: Annotated[float, typer.Option(help="Of the joint training.")] = 1e-5,
    frozen_learning_rate: Annotated[
        float, typer.Option(help="Of the training on the frozen base.")
    ] = 1e-4,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 20,
    patience: Annotated[int, typer.Option(help="Epochs to wait for a lower validation loss.")] = 5,
    final: Annotated[
        bool,
        typer.Option(
            "--final",
            help="Train on validation images, too, and for all epochs: for the last run.",
        ),
    ] = False,
    name: NameOption = None,
    runs: RunsOption = Path("runs"),
    as_json: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """Train a dense head, and the last layers of the network jointly with it.

    Example: pipeline finetune photos/ --views 4 --augmentation mild
    """
    with reporting_errors(kept="Features and the last minute's checkpoint are"):
        from pipeline.finetuning.experiment import finetune as run_finetune
        from pipeline.finetuning.settings import Finetuning
        from pipeline.finetuning.training import Training
        from pipeline.models.files import find_model
        from pipeline.models.model import Model
        from pipeline.runs.run import Interrupted

        settings = Finetuning(
            source=source.value,
            phase=phase.value,
            unfreeze=unfreeze,
            pool=pool,
            units=units,
            dropout=dropout,
            batch_size=batch_size,
            frozen=Training(
                epochs=frozen_epochs,
                learning_rate=frozen_learning_rate,
                optimizer=optimizer.value,
                schedule=schedule.value,
                patience=patience,
            ),
            joint=Training(
                epochs=epochs,
                learning_rate=learning_rate,
                optimizer=optimizer.value,
                schedule=schedule.value,
                patience=patience,
            ),
            final=final,
        )
        wanted = views_of(views, augmentation, tta=tta, endless=source is Source.images)
        if len(wanted) > 1:
            raise PipelineError("finetune takes one --augmentation.")
        start = None
        if head:
            of_run = (head / "run.json").exists()
            start = Model.load(find_model(head, "dense" if of_run else None))
        if settings.phase == "finetune" and start is None:
            err.print(
                "The head starts from random weights. To train it on the frozen base first, leave "
                "out --phase; or name a run with a trained one by --head."
            )
        stopped = None
        try:
            with TerminalListener(data) as listener, _Bars() as bars:
                run = run_finetune(
                    data,
                    settings,
                    views=wanted[0],
                    head=start,
                    extractor=stage_one.extractor(),
                    runs=runs,
                    name=name,
                    seed=seed,
                    listener=listener,
                    on_network=_print_network,
                    on_images=bars.show,
                    on_epoch=_print_epoch,
                )
        except Interrupted as stop:  # the training was done
            run, stopped = stop.run, stop
        if as_json:
            typer.echo((run.folder / "run.json").read_text(), nl=False)
        else:
            print_run(run)
        if stopped:
            err.print("Stopped. The trained model is kept.")
            raise typer.Exit(exit_code(stopped))
    finish(run.dataset.quarantined)
    if run.left_out:
        raise typer.Exit(SOME_FILES_UNUSABLE)


def _print_network(network: Network) -> None:
    """Show the layers, what of them is trained, and the parameter counts."""
    table = Table(box=None, pad_edge=False)
    for column, justify in (("layer", "left"), ("output", "left"), ("parameters", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("")
    counts = {True: 0, False: 0}
    for name, shape, parameters, trained in network.layers():
        counts[trained] += parameters
        note = ("trained" if trained else "frozen") if parameters else ""
        table.add_row(name, " x ".join(map(str, shape)), f"{parameters:,}", note)
    err.print(table)
    err.print(
        f"{sum(counts.values()):,} parameters: {counts[True]:,} are trained, "
        f"{counts[False]:,} are frozen"
    )


class _Bars(ExitStack):
    """One bar after the other: of the features that are made, and of each phase."""

    _part = ""

    def show(self, part: str, done: int, total: int) -> None:
        """Show how far a part of the work is, without what an earlier start has done of it."""
        if part != self._part:
            self.close()
            self._part, self._before = part, done
            self._report = self.enter_context(progress())
            if part in _PHASES and done:
                err.print(f"{_PHASES[part]}: going on after {done:,} of {total:,} images")
        self._report(done - self._before, total - self._before)


def _print_epoch(phase: str, epoch: int, figures: Mapping[str, float]) -> None:
    held_out = (
        f"; on validation {figures['val_loss']:.4f}, {figures['val_accuracy']:.3f}"
        if "val_loss" in figures
        else ""
    )
    err.print(
        f"{_PHASES[phase]}, epoch {epoch}: loss {figures['loss']:.4f}, accuracy "
        f"{figures['accuracy']:.3f}{held_out}",
        soft_wrap=True,
    )
