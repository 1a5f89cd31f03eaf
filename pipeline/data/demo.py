"""The demo data: photographs of solar cells, from a package that holds them."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import DataError
from pipeline.system.packages import install_hint

SOURCE = (
    "ELPV: 2,624 electroluminescence photographs of solar cells. "
    "Deitsch et al., Automatic classification of defective photovoltaic module cells in "
    "electroluminescence images, Solar Energy 185, 2019. Licence CC BY-NC-SA 4.0."
)

_DEFECTIVE_FROM = 0.5  # experts' defect probability; the split that Deitsch et al. use


def demo_images() -> list[tuple[Path, str]]:
    """List the demo's photographs, each with its label."""
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise DataError(
            "the demo data is not installed.",
            fix=f"{install_hint('demo')}, or name a folder of your own "
            "(a folder that is called demo: ./demo)",
        )
    data = Path(spec.origin).parent / "data"
    with (data / "labels.csv").open(newline="") as file:
        rows = list(csv.reader(file, delimiter=" ", skipinitialspace=True))
    return [
        (data / path, "defective" if float(probability) >= _DEFECTIVE_FROM else "functional")
        for path, probability, *_ in rows
    ]
