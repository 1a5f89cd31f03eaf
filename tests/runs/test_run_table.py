"""The table of a run, as text."""

import numpy as np
import pytest
from rich.cells import cell_len

from pipeline.evaluation.metrics import evaluate
from pipeline.runs.table import Figures, TextTable


@pytest.mark.parametrize(
    "names",
    [
        ("good", "bad"),
        ("音楽", "ok"),
        ("カメラ", "한국어"),
        ("أحمر", "औज़ार"),
        ("e\u0301te\u0301", "hiver"),
    ],
)
def test_columns_are_aligned_as_a_terminal_shows_them(names):
    rows = [[name, "0.838", name, "1.5 s"] for name in names]
    table = TextTable("title", ["class", "accuracy", f"recall of {names[0]}", "time"], rows, 0, [])
    lines = table.as_text().splitlines()[2:5]
    assert len({cell_len(line) for line in lines}) == 1
    at = [cell_len(line[: line.index("0.838")]) for line in lines[1:]]
    assert at[0] == at[1]


def test_all_columns_hold_the_precision_of_the_positive_class():
    truth = np.repeat([0, 1], [30, 10])
    p = np.array([[0.8, 0.2]] * 25 + [[0.3, 0.7]] * 5 + [[0.1, 0.9]] * 8 + [[0.6, 0.4]] * 2)
    figures = Figures(("fine", "defect"), positive=1, every=True)
    cells = dict(zip(figures.headings, figures.row("knn", evaluate(truth, p), 1.0), strict=True))
    assert cells["recall of\ndefect"].startswith("0.800 (")
    assert cells["precision of\ndefect"].startswith("0.615 (")
