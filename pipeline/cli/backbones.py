"""`pipeline backbones`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from pipeline.cli.live import ClassifyListener
from pipeline.cli.options import CacheOption, JsonOption, SeedOption
from pipeline.cli.terminal import finish, out, propose, reporting_errors

_CACHE = Path("cache")


def backbones(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]",
            help="Compare, on a sample of these images, those whose weights are here.",
        ),
    ] = None,
    *,
    cache: CacheOption = _CACHE,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """List the networks; with DATA, find out which of those here, at which size, suits the images.

    Example: pipeline backbones photos/
    """
    if data is not None:
        _compare(data, cache, seed, as_json=as_json)
        return
    with reporting_errors():
        from pipeline.backbones.registry import BACKBONES

        networks = sorted(BACKBONES.values(), key=lambda network: not network.is_here)
        if as_json:
            fields = ("name", "default_size", "parameters", "multiply_adds", "licence", "is_here")
            listed = [{field: getattr(each, field) for field in fields} for each in networks]
            typer.echo(json.dumps(listed, indent=2))
            return
        table = Table(box=box.SIMPLE, padding=0, pad_edge=False)
        for column in ("network", "pixels", "parameters", "multiply-adds", "weights", "licence"):
            number = column in {"pixels", "parameters", "multiply-adds"}
            table.add_column(column, justify="right" if number else "left", no_wrap=True)
        for network in networks:
            table.add_row(
                network.name,
                str(network.default_size),
                f"{network.parameters / 1e6:.1f} M",
                f"{network.multiply_adds:.2f} G",
                "here" if network.is_here else "to download",
                network.licence,
            )
        out.print(table)


def _compare(data: str, cache: Path, seed: int, *, as_json: bool) -> None:
    """Show how well each network's rows tell the classes apart, and what they cost."""
    with reporting_errors(), ClassifyListener(data, None) as listener:
        from pipeline.classification.networks import (
            advise,
            cheapest_of_the_best,
            compare_backbones,
        )

        suited = compare_backbones(data, cache=cache, seed=seed, listener=listener)
        listener.end_bar()
    if as_json:
        listed = [
            {
                "backbone": each.backbone,
                "size": each.size,
                "pool": each.pool,
                "accuracy": each.metrics.accuracy,
                "accuracy_interval": [each.metrics.accuracy_low, each.metrics.accuracy_high],
                "log_loss": each.metrics.log_loss,
                "images_per_cpu_second": each.images_per_second,
            }
            for each in suited
        ]
        typer.echo(json.dumps(listed, indent=2))
        finish(suited[0].skipped)
        return
    table = Table(box=box.SIMPLE, padding=0, pad_edge=False)
    columns = ("network", "pixels", "rows", "accuracy", "95 % interval", "log loss", "images/CPU-s")
    for column in columns:
        table.add_column(
            column, justify="left" if column in {"network", "rows"} else "right", no_wrap=True
        )
    for each in suited:
        figures = each.metrics
        table.add_row(
            each.backbone,
            str(each.size),
            each.pool,
            f"{figures.accuracy:.3f}",
            f"{figures.accuracy_low:.3f}-{figures.accuracy_high:.3f}",
            f"{figures.log_loss:.3f}",
            f"{each.images_per_second:.0f}",
        )
    out.print(table)
    out.print(advise(suited), soft_wrap=True)
    if network := cheapest_of_the_best(suited):
        command = ["classify", data, "--backbone", network.backbone]
        command += ["--size", str(network.size)]
        command += ["--cache", str(cache)] if cache != _CACHE else []
        propose("compare classifiers by its features of all images", *command)
    finish(suited[0].skipped)
