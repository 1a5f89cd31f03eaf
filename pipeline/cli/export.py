"""`pipeline export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import HeadOption, TrustOption, WeightsOption
from pipeline.cli.terminal import MORE_MEMORY, reporting_errors, shown
from pipeline.cli.terminal import out as console


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="runs/NAME, or a model's own folder.")],
    *,
    kind: Annotated[
        str,
        typer.Option("--format", help="onnx, openvino, litert, saved-model, keras or folder."),
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="File or folder to write, which must not exist. Without it an ONNX file is kept "
            "beside the model, and predict answers with it, without TensorFlow.",
        ),
    ] = None,
    head: HeadOption = None,
    weights: WeightsOption = None,
    trust: TrustOption = None,
) -> None:
    """Write a trained model as a file that answers without this program.

    Example: pipeline export runs/photos --format onnx --out photos.onnx
    """
    with reporting_errors("Nothing was written", spare=MORE_MEMORY):
        from pipeline.runs.exporting import export_run

        made = export_run(run, kind, out, head=head, weights=weights, trusted=trust or ())
        console.print(
            f"{made.kind} of {shown(made.model.head)}: {shown(made.path)}", soft_wrap=True
        )
        for sentence in made.sentences():
            console.print(shown(sentence), soft_wrap=True)
