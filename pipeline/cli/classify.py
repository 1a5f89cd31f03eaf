"""`pipeline classify`: arguments, the live table, and what is said at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.live import live_table
from pipeline.cli.options import (
    AugmentationOption,
    CacheOption,
    JsonOption,
    NameOption,
    Pool,
    RunsOption,
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
from pipeline.cli.steps import called, on_cluster, prepare, print_run
from pipeline.cli.terminal import (
    SOME_FILES_UNUSABLE,
    err,
    exit_code,
    finish,
    out,
    progress,
    reporting_errors,
)

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.runs.run import Run


@with_recipe
def classify(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="As for features, or a file of cache export.")
    ],
    *,
    recipe: dict[str, Any],
    head: Annotated[
        list[str] | None,
        typer.Option(
            help="logistic, ridge, lda, linear-svm, rbf-svm, knn, random-forest, mlp, dense or "
            "all; module:factory for any scikit-learn classifier; may be repeated.",
            show_default="all",
        ),
    ] = None,
    pool: Annotated[
        list[Pool] | None,
        typer.Option(
            help="Keep the places of a picture apart, or take their mean or maximum; may be "
            "repeated: of several, each head has the best.",
            show_default="flatten",
        ),
    ] = None,
    search: Annotated[
        bool,
        typer.Option(
            "--search",
            help="Choose by 5-fold cross-validation on training and validation images together.",
        ),
    ] = False,
    cv: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Nested cross-validation in place of splits: each image is tested on once.",
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="How often --cv is done, with other folds and seeds.")
    ] = 1,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="All classes count the same in training.")
    ] = False,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="AIM",
            help="For two classes, choose from which probability on an image is called positive: "
            "f1, youden, precision=0.95 or recall=0.95. Not chosen on what is tested on.",
        ),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS", help="The positive class of --threshold.", show_default="the second"
        ),
    ] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Read rows from the cache shard by shard, several times, instead of holding them "
            "in memory: logistic, linear-svm and dense only.",
            show_default="where they need more memory than is free",
        ),
    ] = None,
    views: ViewsOption = 1,
    augmentation: AugmentationOption = None,
    tta: TtaOption = False,
    name: NameOption = None,
    runs: RunsOption = Path("runs"),
    as_json: JsonOption = False,
    cache: CacheOption = Path("cache"),
    weights: WeightsOption = None,
    strict: StrictOption = False,
    seed: SeedOption = 0,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
) -> None:
    """Train classifiers on the features, and compare them; features that lack are made first.

    Example: pipeline classify photos/ --head logistic --head rbf-svm --search
    """
    with reporting_errors(), on_cluster(scheduler, workers) as cluster:
        from pipeline.classification.experiment import choose_heads, is_features_file
        from pipeline.classification.experiment import classify as run_classify
        from pipeline.classification.size import why_stream
        from pipeline.evaluation.protocol import Protocol
        from pipeline.runs.run import Interrupted

        heads = choose_heads(head or ["all"])  # a slip is said first
        names = [one.name for one in heads]
        settings: dict[str, Any] = {
            "search": search,
            "cv": cv,
            "repeats": repeats,
            "balanced": balanced,
            "threshold": threshold,
            "positive": positive,
        }
        protocol = Protocol(**settings)
        wanted = views_of(views, augmentation, tta=tta)
        dataset: str | Dataset = data
        settled = None
        if not is_features_file(data):
            dataset, plans = prepare(
                data,
                recipe,
                cache=cache,
                weights=weights,
                seed=seed,
                views=wanted,
                protocol=protocol,
            )
            settled = plans[0].store.recipe
            why = why_stream(
                dataset, settled, heads=heads, views=wanted, protocol=protocol, asked=stream
            )
            if why:
                err.print(f"Rows are read shard by shard: {why}", soft_wrap=True)
            else:
                stream = False  # less memory may be free once rows were made
        stopped = None
        try:
            with progress("rows", cluster) as on_progress, live_table(names) as live:
                run = run_classify(
                    dataset,
                    head or "all",
                    recipe=settled,
                    views=wanted,
                    pools=[one.value for one in pool or [Pool.flatten]],
                    **settings,
                    stream=stream,
                    cache=cache,
                    runs=runs,
                    name=name,
                    seed=seed,
                    weights=weights,
                    strict=strict,
                    on_progress=on_progress,
                    on_result=live.on_result,
                    on_epoch=live.on_epoch,
                    cluster=cluster,
                )
        except Interrupted as stop:
            run, stopped = stop.run, stop
        if as_json:
            typer.echo((run.folder / "run.json").read_text(), nl=False)
        else:
            print_run(run)
            print_reference(run)
            print_augmentation(run)
        if stopped:
            err.print(f"Stopped. {len(run.results)} of {len(names)} heads were done and are kept.")
            raise typer.Exit(exit_code(stopped))
    finish(run.dataset.quarantined)
    if run.failed or run.left_out:
        raise typer.Exit(SOME_FILES_UNUSABLE)


def print_reference(run: Run) -> None:
    """Tell what computing in int8 costs in accuracy."""
    if run.recipe.precision != "int8" or "reference" in run.left_out:
        return
    if any("augmentation" in result.parameters for result in run.results):
        out.print("Accuracy lost to int8: measured without --views only.")
    elif not run.reference:
        out.print(
            "Accuracy lost to int8: not measured. For that, run `pipeline features` with "
            "--precision auto on the same data first."
        )
    for ours, exact in zip(run.results, run.reference):
        difference = ours.test.accuracy - exact.test.accuracy
        out.print(
            f"{ours.head}: {ours.test.accuracy:.3f} in int8, {exact.test.accuracy:.3f} in "
            f"{exact.model.recipe.precision}: {100 * difference:+.1f} points"
        )


def print_augmentation(run: Run) -> None:
    """Tell what augmentation did on validation, and where it hurts."""
    for result in run.results:
        losses: dict[str, float] = {}
        for parameters, log_loss in result.candidates:
            name = parameters.get("augmentation")
            if name is not None:
                losses[name] = min(log_loss, losses.get(name, log_loss))
        if not losses:
            continue
        chosen = result.parameters["augmentation"]
        shares = ", ".join(f"{called(name)} {loss:.3f}" for name, loss in losses.items())
        verdict = "; augmentation hurts here" if losses["none"] <= losses[chosen] else ""
        out.print(
            f"{result.head}: log loss on validation by augmentation: {shares}{verdict}",
            soft_wrap=True,
        )
