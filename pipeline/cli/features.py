"""`pipeline features` and `pipeline status`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from pipeline.cli.listening import TerminalListener
from pipeline.cli.options import (
    AugmentationOption,
    DataArgument,
    JsonOption,
    SchedulerOption,
    SeedOption,
    StageOne,
    TtaOption,
    ViewsOption,
    WorkersOption,
    on_workers,
    views_of,
    with_stage_one,
)
from pipeline.cli.terminal import (
    finish,
    out,
    print_damaged,
    print_remarks,
    reporting_errors,
    shown,
    status_of,
)


@with_stage_one
def features(
    data: DataArgument,
    *,
    stage_one: StageOne,
    views: ViewsOption = 1,
    augmentation: AugmentationOption = None,
    tta: TtaOption = False,
    seed: SeedOption = 0,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
    layers: Annotated[
        bool | None,
        typer.Option(
            "--layers/--no-layers",
            help="Keep the maxima of every layer, too, for classifiers; the same pass gives them.",
            show_default="on, unless over 10 % of the images would need another pass",
        ),
    ] = None,
) -> None:
    """Compute and store the features of every image.

    Example: pipeline features photos/ --views 4 --augmentation mild
    """
    with (
        reporting_errors(),
        on_workers(scheduler, workers) as cluster,
        TerminalListener(data, cluster) as listener,
    ):
        from pipeline.features.extractor import extract

        extraction = extract(
            data,
            views=views_of(views, augmentation, tta=tta),
            extractor=stage_one.extractor(workers=cluster, layers=layers),
            seed=seed,
            listener=listener,
        )
        listener.end_bar()
        made, seconds = extraction.made, extraction.seconds
        rate = f" in {seconds:.1f} s ({made / seconds:.1f} rows/s)" if made else ""
        out.print(
            f"{made:,} rows computed{rate}; {len(extraction.dataset):,} images have features in "
            + " and ".join(shown(store.folder) for store in extraction.plan.every_store),
            soft_wrap=True,
        )
    finish(extraction.dataset.quarantined, listed=status_of(data, stage_one.typed()))


@partial(with_stage_one, but=("strict",))
def status(data: DataArgument, *, stage_one: StageOne, as_json: JsonOption = False) -> None:
    """Tell what a run would reuse and what it would have to compute; change nothing.

    Example: pipeline status photos/
    """
    with reporting_errors():
        from pipeline.features.status import status as find_status
        from pipeline.system.documents import to_json

        state = find_status(data, stage_one.extractor())
        print_remarks(state.remarks)
        lists = {
            "new": state.new,
            "changed": state.changed,
            "removed": state.removed,
            "unreadable": [bad.path for bad in state.unreadable],
        }
        if as_json:
            names = {kind: [str(path) for path in paths] for kind, paths in lists.items()}
            typer.echo(to_json({"reused": state.reused, **names}), nl=False)
            return
        print_damaged(state.store)
        out.print(f"{state.reused:,} reused")
        for kind, paths in lists.items():
            examples = ": " + ", ".join(shown(path) for path in paths[:3]) if paths else ""
            more = ", ..." if len(paths) > 3 else ""
            out.print(f"{len(paths):,} {kind}{examples}{more}", soft_wrap=True)
