"""What is trained, and how.

The command line imports this file to declare its options, so networks are imported where needed.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from pipeline.errors import PipelineError
from pipeline.heads.pooling import POOLS, Pooling

if TYPE_CHECKING:
    from pipeline.backbones.recipe import Recipe
    from pipeline.features.views import Views

Source = Literal["cache", "images"]
SOURCES: tuple[Source, ...] = get_args(Source)
Phase = Literal["both", "frozen", "finetune"]
PHASES: tuple[Phase, ...] = get_args(Phase)
Optimizer = Literal["rmsprop", "adam"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
Schedule = Literal["constant", "cosine"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained.

    Parameters
    ----------
    epochs : int
        The most epochs.
    learning_rate : float
        Of the optimiser.
    optimizer : {"rmsprop", "adam"}
        Keras's, with its defaults. The textbook uses RMSprop.
    schedule : {"constant", "cosine"}
        The learning rate is constant, as in the textbook, or falls along half a cosine to 0 at the
        last epoch (I. Loshchilov, F. Hutter, *SGDR*, ICLR 2017).
    patience : int
        Training ends when the validation loss has not fallen for so many epochs; the weights of
        the best epoch are kept.
    """

    epochs: int = 30
    learning_rate: float = 1e-5
    optimizer: Optimizer = "rmsprop"
    schedule: Schedule = "constant"
    patience: int = 5

    def __post_init__(self) -> None:
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        if self.epochs < 1 or self.patience < 1 or not 0 < self.learning_rate < math.inf:
            raise PipelineError(
                f"{self.epochs} epochs, patience {self.patience}, learning rate "
                f"{self.learning_rate}.",
                expected="at least 1 epoch, patience of 1 or more and a positive learning rate",
            )


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """What is trained, and how.

    Parameters
    ----------
    source : {"cache", "images"}
        Cached rows, or the images through the whole network.
    phase : {"both", "frozen", "finetune"}
        Train the head on the frozen base, the last layers jointly with the head, or one after the
        other.
    unfreeze : str, optional
        The first layer that is trained jointly with the head: one of the backbone's `cuts`. The
        default is the backbone's own.
    pool, units, dropout
        Of the head; see `pipeline.models.network.Network`. A trained head keeps its own. The
        default pool is "flatten".
    batch_size : int
        Images a step. This and the learning rates are Chollet's.
    frozen, joint : Training
        How the two phases are trained.
    final : bool
        Train on the validation images, too, and for all epochs: once the best number of epochs is
        known. The result is then judged on the test images only. From the cache, validation images
        have view 0 only, unless all images have all views.
    """

    source: Source = "cache"
    phase: Phase = "both"
    unfreeze: str | None = None
    pool: Pooling | None = None
    units: int = 256
    dropout: float = 0.0
    batch_size: int = 20
    frozen: Training = field(default_factory=lambda: Training(learning_rate=1e-4))
    joint: Training = field(default_factory=lambda: Training(learning_rate=1e-5))
    final: bool = False

    def __post_init__(self) -> None:
        _check_choice("source", self.source, SOURCES)
        _check_choice("phase", self.phase, PHASES)
        _check_choice("pool", self.head["pool"], POOLS)
        if self.batch_size < 1 or not 0 <= self.dropout < 1 or self.units < 1:
            raise PipelineError(
                f"batch size {self.batch_size}, {self.units} units, dropout {self.dropout}.",
                expected="at least 1 image, at least 1 unit, and dropout from 0 to below 1",
            )

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases in their order."""
        return ("frozen", "finetune") if self.phase == "both" else (self.phase,)

    @property
    def head(self) -> dict[str, Any]:
        """What `pipeline.models.network.Network` takes for the head."""
        pool = "flatten" if self.pool is None else self.pool
        return {"pool": pool, "units": self.units, "dropout": self.dropout}

    def cut(self, recipe: Recipe) -> Recipe:
        """Return a recipe with its network cut at the last layer that is not trained."""
        from pipeline.backbones.registry import get_backbone, remake_recipe

        backbone = get_backbone(recipe.backbone)
        below = backbone.below(self.unfreeze or backbone.default_cut)
        return remake_recipe(recipe, layer=backbone.top if self.phase == "frozen" else below)

    def check_views(self, views: Views) -> None:
        """Refuse views that would do nothing."""
        if self.source == "images" and (views.count > 1) != views.everywhere:
            raise PipelineError(
                f"{views.count} views from images {'with' if views.everywhere else 'without'} "
                "--tta.",
                expected="the number of views to average over: every epoch sees views of its own",
                fix="give both --tta and --views 4, say, or neither",
            )
        if self.source == "cache" and views.count == 1 and views.augmentation.name != "none":
            raise PipelineError(
                "one cached view is the image itself: its augmentation would do nothing.",
                expected="more than one view, or no augmentation",
            )

    def described(self, views: Views, recipe: Recipe) -> dict[str, Any]:
        """List all that was chosen, for the run's document."""
        from pipeline.backbones.registry import get_backbone

        return {
            **asdict(self),
            **self.head,
            "unfreeze": self.unfreeze or get_backbone(recipe.backbone).default_cut,
            "views": views.count,
            "augmentation": views.augmentation.name,
            "averaged_over_views": views.everywhere,
        }


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise PipelineError(f"unknown {name} {value!r}.", expected=f"one of {', '.join(known)}")
