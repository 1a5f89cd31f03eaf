"""What is trained, and how."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import get_backbone, remake_recipe
from pipeline.data.dataset import Dataset
from pipeline.errors import ModelError, PipelineError
from pipeline.features.views import Views
from pipeline.finetuning.training import Training
from pipeline.heads.dense import DenseHead
from pipeline.heads.pooling import POOLS
from pipeline.models.model import Model

SOURCES = ("cache", "images")
PHASES = ("both", "frozen", "finetune")


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """What is trained, and how.

    Parameters
    ----------
    source : {"cache", "images"}
        Cached rows, or the images through the whole network.
    phase : {"both", "frozen", "finetune"}
        The head on a frozen base, both jointly, or one after the other.
    unfreeze : str, optional
        The first layer that is trained jointly with the head: one of the backbone's `cuts`. The
        default is the backbone's own.
    pool, units, dropout
        Of the head; see `pipeline.models.network.Network`.
    batch_size : int
        Images a step. This and the learning rates are Chollet's.
    frozen, joint : Training
        How the two phases are trained.
    final : bool
        Train on the validation images, too, and for exactly as many epochs: once it is known how
        many are good. Nothing is then known of the result but what it does on test. From the
        cache, validation images have view 0 only, unless all images have all views.
    """

    source: str = "cache"
    phase: str = "both"
    unfreeze: str | None = None
    pool: str = "flatten"
    units: int = 256
    dropout: float = 0.0
    batch_size: int = 20
    frozen: Training = field(default_factory=lambda: Training(learning_rate=1e-4))
    joint: Training = field(default_factory=lambda: Training(learning_rate=1e-5))
    final: bool = False

    def __post_init__(self) -> None:
        for name, known in (
            ("source", SOURCES),
            ("phase", PHASES),
            ("pool", POOLS),
        ):
            if getattr(self, name) not in known:
                raise PipelineError(
                    f"cannot fine-tune with {name} {getattr(self, name)!r}.",
                    expected=f"one of {', '.join(known)}",
                )
        if self.batch_size < 1 or not 0 <= self.dropout < 1 or self.units < 1:
            raise PipelineError(
                f"batch size {self.batch_size}, {self.units} units, dropout {self.dropout}.",
                expected="at least 1 image, at least 1 unit, and dropout from 0 to below 1",
            )

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return a recipe with its network cut at the last layer that is not trained."""
        backbone = get_backbone(recipe.backbone)
        below = backbone.below(self.unfreeze or backbone.default_cut)
        return remake_recipe(recipe, layer=backbone.top if self.phase == "frozen" else below)


def dense_of(head: Model) -> DenseHead:
    if not isinstance(head.estimator, DenseHead):
        raise ModelError(
            f"fine-tuning cannot start from a head of the kind {head.head}.",
            expected="a head named dense, the only one that can be trained on with the base",
            fix="train one: pipeline classify DATA --head dense",
        )
    return head.estimator


def settings_of(head: Model, settings: Finetuning) -> Finetuning:
    """Settle what follows from starting with a head that is trained."""
    start = dense_of(head)
    if settings.phase == "frozen":
        raise PipelineError("a head that is trained leaves nothing to do in phase frozen.")
    if settings.pool != "flatten":
        raise PipelineError(
            f"a head of `classify` does not take features with pool {settings.pool!r}.",
            expected="pool 'flatten', as it was trained",
        )
    return replace(settings, phase="finetune", units=start.units, dropout=start.dropout)


def check_head(head: Model, dataset: Dataset, recipe: Recipe) -> None:
    if head.classes != dataset.classes:
        raise ModelError(
            f"the head tells {', '.join(head.classes)} apart; the data has "
            f"{', '.join(dataset.classes)}.",
            expected="the same classes",
        )
    there, wanted = (
        f"{one.layer} at {one.size} pixels, scaling {one.scaling}, resized by {one.resize}"
        for one in (head.recipe, replace(recipe, layer=get_backbone(recipe.backbone).top))
    )
    if there != wanted:
        raise ModelError(
            f"the head was trained on {there}.",
            expected=wanted,
            fix="give --size, --scaling and --resize as they were when the head was trained",
        )


def check_views(source: str, views: Views) -> None:
    """Refuse views that would do nothing."""
    if source == "images" and (views.count > 1) != views.everywhere:
        raise PipelineError(
            f"{views.count} views from images {'with' if views.everywhere else 'without'} --tta.",
            expected="the number of views to average over: every epoch sees views of its own",
            fix="give both --tta and --views 4, say, or neither",
        )
    if source == "cache" and views.count == 1 and views.augmentation.name != "none":
        raise PipelineError(
            "one cached view is the image itself: its augmentation would do nothing.",
            expected="more than one view, or no augmentation",
        )


def describe(settings: Finetuning, views: Views, recipe: Recipe) -> dict[str, Any]:
    return {
        **asdict(settings),
        "unfreeze": settings.unfreeze or get_backbone(recipe.backbone).default_cut,
        "views": views.count,
        "augmentation": views.augmentation.name,
        "averaged_over_views": views.everywhere,
    }
