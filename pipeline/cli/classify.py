"""`pipeline classify`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.backbones.choices import DEFAULT
from pipeline.cli.live import ClassifyListener
from pipeline.cli.options import (
    AllColumnsOption,
    AugmentationOption,
    JsonOption,
    NameOption,
    PositiveOption,
    RunsOption,
    SchedulerOption,
    SeedOption,
    StageOne,
    TtaOption,
    ViewsOption,
    WorkersOption,
    on_workers,
    views_of,
    with_bundle,
    with_stage_one,
)
from pipeline.cli.results import end_run
from pipeline.cli.terminal import reporting_errors
from pipeline.heads.pooling import CHOICES

DataOrFileArgument = Annotated[
    str, typer.Argument(metavar="DATA", help="As for features, or a file of cache export.")
]
HeadOption = Annotated[
    list[str] | None,
    typer.Option(
        help="logistic, ridge, lda, linear-svm, rbf-svm, knn, random-forest, mlp, dense or "
        "all; textbook-dense (dense as the textbook trains it; not in all); module:factory for "
        "any scikit-learn classifier; may be repeated.",
        show_default="all",
    ),
]
BackboneOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Network; `pipeline backbones` lists them. May be repeated: of several, each head has "
        "the best.",
        show_default=DEFAULT,
    ),
]
PoolOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="|".join(CHOICES),
        help="Keep the places of the last layer apart, take their mean or maximum, or take the "
        "maxima of every layer; may be repeated: of several, each head has the best.",
        show_default="flatten, or average where a layer is large; and layers",
    ),
]
SearchOption = Annotated[
    bool,
    typer.Option(
        "--search",
        help="Choose by 5-fold cross-validation on training and validation images together.",
    ),
]
CvOption = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        help="Nested cross-validation with K folds, 3 or more, in place of splits: each image is "
        "tested on once.",
    ),
]
NoCvOption = Annotated[
    bool,
    typer.Option(
        "--no-cv",
        help="Keep the splits. Else up to 1,000 images with fewer than 10 test images of a class "
        "are cross-validated, unless with --views or --stream.",
    ),
]
RepeatsOption = Annotated[
    int, typer.Option(help="How often --cv is done, with other folds and seeds.")
]
BalancedOption = Annotated[
    bool, typer.Option("--balanced", help="All classes count the same in training.")
]
ThresholdOption = Annotated[
    str | None,
    typer.Option(
        metavar="AIM",
        help="For two classes, choose from which probability on an image is called positive: "
        "f1, youden, precision=0.95 or recall=0.95. Chosen in cross-validation on training and "
        "validation images; so is the classifier, by the same aim.",
    ),
]
StreamOption = Annotated[
    bool | None,
    typer.Option(
        "--stream/--no-stream",
        help="Read rows from the cache shard by shard, several times, instead of holding them "
        "in memory: logistic, linear-svm, dense and textbook-dense only.",
        show_default="where they need more memory than is free",
    ),
]


def _judging(
    *,
    search: SearchOption = False,
    cv: CvOption = None,
    splits: NoCvOption = False,
    repeats: RepeatsOption = 1,
    balanced: BalancedOption = False,
    threshold: ThresholdOption = None,
    positive: PositiveOption = None,
) -> None:
    """Carry the options that say how classifiers are chosen and judged."""


@partial(with_stage_one, but=("backbone",))
@partial(with_bundle, parameter="judging", declared=_judging, make=dict)
def classify(
    data: DataOrFileArgument,
    *,
    stage_one: StageOne,
    backbone: BackboneOption = None,
    head: HeadOption = None,
    pool: PoolOption = None,
    judging: dict[str, Any],
    stream: StreamOption = None,
    views: ViewsOption = 1,
    augmentation: AugmentationOption = None,
    tta: TtaOption = False,
    name: NameOption = None,
    runs: RunsOption = Path("runs"),
    all_columns: AllColumnsOption = False,
    as_json: JsonOption = False,
    seed: SeedOption = 0,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
) -> None:
    """Train classifiers on the features, and compare them; missing features are computed first.

    Example: pipeline classify photos/ --head logistic --head rbf-svm --search
    """
    with reporting_errors():
        from pipeline.classification.experiment import classify as run_classify
        from pipeline.evaluation.protocol import Protocol
        from pipeline.runs.run import Interrupted

        stopped = None
        with (
            on_workers(scheduler, workers) as cluster,
            ClassifyListener(data, cluster) as listener,
        ):
            try:
                run = run_classify(
                    data,
                    head or "all",
                    protocol=Protocol(**judging),
                    views=views_of(views, augmentation, tta=tta),
                    pools=pool or None,
                    extractor=stage_one.extractors(backbone, workers=cluster, stream=stream),
                    runs=runs,
                    name=name,
                    seed=seed,
                    listener=listener,
                )
            except Interrupted as stop:
                run, stopped = stop.run, stop
        again = [data, *stage_one.typed(backbone=backbone and backbone[0], seed=seed)]
        candidates = candidates_typed(backbone or [], head or [], pool or [])
        end_run(run, stopped, again, candidates=candidates, as_json=as_json, every=all_columns)


def candidates_typed(
    backbones: Sequence[str], heads: Sequence[str], pools: Sequence[str]
) -> list[str]:
    """Repeat what was to be compared, but a single network, which is an option of stage one.

    So is the first of several, unless it is the default, which is not repeated there.
    """
    several = backbones if len(backbones) > 1 else ()
    others = [name for name in several if name == DEFAULT or name != several[0]]
    options = {"--backbone": others, "--head": heads, "--pool": pools}
    return [word for option, names in options.items() for name in names for word in (option, name)]
