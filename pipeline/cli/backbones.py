"""List the networks that can be used."""

from __future__ import annotations

import json

import typer
from rich import box
from rich.table import Table

from pipeline.cli.options import JsonOption
from pipeline.cli.terminal import out, reporting_errors


def backbones(*, as_json: JsonOption = False) -> None:
    """List the networks: size of pictures, cost, licence of the weights, whether they are here.

    Example: pipeline backbones
    """
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
