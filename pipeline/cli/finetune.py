"""`pipeline finetune`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pipeline.cli.listening import TerminalListener
from pipeline.cli.options import (
    AllColumnsOption,
    AugmentationOption,
    DataArgument,
    JsonOption,
    NameOption,
    PositiveOption,
    RunsOption,
    SeedOption,
    StageOne,
    TtaOption,
    ViewsOption,
    views_of,
    with_bundle,
    with_stage_one,
)
from pipeline.cli.results import end_run
from pipeline.cli.terminal import GOES_ON, err, progress, reporting_errors
from pipeline.errors import PipelineError
from pipeline.finetuning.settings import (
    Finetuning,
    Optimizer,
    Phase,
    Schedule,
    Source,
    Training,
)
from pipeline.heads.pooling import Pooling

if TYPE_CHECKING:
    from pipeline.runs.listener import Layer

_DEFAULT = Finetuning()
_PHASES = {"frozen": "frozen base", "finetune": "fine-tuning"}


HeadOption = Annotated[
    Path | None,
    typer.Option(help="Run, or model, with a dense head to start from.", metavar="MODEL"),
]

PoolOption = Annotated[
    Pooling | None,
    typer.Option(
        help="Keep the places of a picture apart, or take their mean or maximum; with --head, "
        "its own.",
        show_default="flatten",
    ),
]


def _options(
    *,
    source: Annotated[
        Source,
        typer.Option("--from", help="Cached rows, or the images through the whole network (slow)."),
    ] = _DEFAULT.source,
    phase: Annotated[
        Phase,
        typer.Option(
            help="both: train the head on the frozen base, then the last layers jointly with it; "
            "frozen or finetune: one of the two."
        ),
    ] = _DEFAULT.phase,
    unfreeze: Annotated[
        str | None,
        typer.Option(help="First layer trained with the head.", show_default="the last block's"),
    ] = _DEFAULT.unfreeze,
    pool: PoolOption = _DEFAULT.pool,
    units: Annotated[
        int, typer.Option(help="Size of the head's hidden layer; with --head, its own.")
    ] = _DEFAULT.units,
    dropout: Annotated[
        float, typer.Option(help="Dropout in the head; with --head, its own.")
    ] = _DEFAULT.dropout,
    optimizer: Annotated[Optimizer, typer.Option(help="Optimiser.")] = _DEFAULT.joint.optimizer,
    schedule: Annotated[
        Schedule,
        typer.Option(
            help="Learning rate: constant, or cosine (reaches 0 at the last of --epochs; without "
            "--final, raise --patience so that training gets there)."
        ),
    ] = _DEFAULT.joint.schedule,
    epochs: Annotated[
        int, typer.Option(help="The most epochs of the joint training.")
    ] = _DEFAULT.joint.epochs,
    frozen_epochs: Annotated[
        int, typer.Option(help="The most epochs on the frozen base.")
    ] = _DEFAULT.frozen.epochs,
    learning_rate: Annotated[
        float, typer.Option(help="Of the joint training.")
    ] = _DEFAULT.joint.learning_rate,
    frozen_learning_rate: Annotated[
        float, typer.Option(help="Of the training on the frozen base.")
    ] = _DEFAULT.frozen.learning_rate,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = _DEFAULT.batch_size,
    patience: Annotated[
        int, typer.Option(help="Epochs without a lower loss before it stops.")
    ] = _DEFAULT.joint.patience,
    final: Annotated[
        bool,
        typer.Option(
            "--final", help="Train on validation images, too, for all epochs: the last run."
        ),
    ] = False,
) -> None:
    """Carry the options that make the settings."""


def _settings(
    *, optimizer: Optimizer, schedule: Schedule, patience: int, **options: Any
) -> Finetuning:
    training = partial(Training, optimizer=optimizer, schedule=schedule, patience=patience)
    frozen = training(
        epochs=options.pop("frozen_epochs"), learning_rate=options.pop("frozen_learning_rate")
    )
    joint = training(epochs=options.pop("epochs"), learning_rate=options.pop("learning_rate"))
    return Finetuning(**options, frozen=frozen, joint=joint)


@partial(with_stage_one, but=("layer",))
@partial(
    with_bundle,
    parameter="settings",
    declared=_options,
    make=lambda options: partial(_settings, **options),
)
def finetune(
    data: DataArgument,
    *,
    stage_one: StageOne,
    settings: Callable[[], Finetuning],
    head: HeadOption = None,
    views: ViewsOption = 1,
    augmentation: AugmentationOption = None,
    tta: TtaOption = False,
    name: NameOption = None,
    runs: RunsOption = Path("runs"),
    all_columns: AllColumnsOption = False,
    as_json: JsonOption = False,
    seed: SeedOption = 0,
    positive: PositiveOption = None,
) -> None:
    """Train a dense head, and the last layers of the network jointly with it.

    Example: pipeline finetune photos/ --views 4 --augmentation mild
    """
    with (
        reporting_errors(kept=f"Features and the last checkpoint are {GOES_ON}"),
        FinetuneListener(data) as listener,
    ):
        from pipeline.finetuning.experiment import finetune as run_finetune
        from pipeline.runs.run import Interrupted

        chosen = settings()
        wanted = views_of(views, augmentation, tta=tta, endless=chosen.source == "images")
        if len(wanted) > 1:
            raise PipelineError("finetune takes one --augmentation.")
        if chosen.phase == "finetune" and head is None:
            err.print(
                "The head starts from random weights. To train it on the frozen base first, leave "
                "out --phase; or name a run with a trained one by --head."
            )
        stopped = None
        try:
            run = run_finetune(
                data,
                chosen,
                views=wanted[0],
                head=head,
                extractor=stage_one.extractor(),
                runs=runs,
                name=name,
                seed=seed,
                positive=positive,
                listener=listener,
            )
        except Interrupted as stop:  # the training was complete
            run, stopped = stop.run, stop
        listener.end_bar()
        again = [data, *stage_one.typed(seed=seed)]
        end_run(run, stopped, again, as_json=as_json, every=all_columns)


class FinetuneListener(TerminalListener):
    """Shows stage one, the network's layers, and each phase with a bar of its own."""

    _phase = ""
    _before = 0

    def built(self, layers: Sequence[Layer]) -> None:
        """Show the layers, which of them are trained, and the parameter counts."""
        self.end_bar()
        table = Table(box=None, pad_edge=False)
        table.add_column("layer")
        table.add_column("output")
        table.add_column("parameters", justify="right")
        table.add_column("")
        counts = {True: 0, False: 0}
        for name, shape, parameters, trained in layers:
            counts[trained] += parameters
            note = ("trained" if trained else "frozen") if parameters else ""
            table.add_row(name, " x ".join(map(str, shape)), f"{parameters:,}", note)
        err.print(table)
        err.print(
            f"{sum(counts.values()):,} parameters: {counts[True]:,} are trained, "
            f"{counts[False]:,} are frozen"
        )

    def images_trained(self, phase: str, done: int, total: int) -> None:
        """Move the bar on; images that an earlier start trained do not count."""
        if phase != self._phase:
            self.end_bar()
            self._phase, self._before = phase, done
            self._report = self._bar.enter_context(progress())
            if done:
                err.print(f"{_PHASES[phase]}: going on after {done:,} of {total:,} images")
        if self._report:
            self._report(done - self._before, total - self._before)

    def epoch_ended(self, phase: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Print the losses and accuracies."""
        validation = (
            f"; on validation {figures['val_loss']:.4f}, {figures['val_accuracy']:.3f}"
            if "val_loss" in figures
            else ""
        )
        err.print(
            f"{_PHASES[phase]}, epoch {epoch}: loss {figures['loss']:.4f}, accuracy "
            f"{figures['accuracy']:.3f}{validation}",
            soft_wrap=True,
        )
