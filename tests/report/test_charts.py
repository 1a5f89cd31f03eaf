"""Axes, and charts as files."""

import pytest

from pipeline.report import charts


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.66, 0.87, ["0.70", "0.75", "0.80", "0.85"]),
        (0.31, 1.36, ["0.50", "0.75", "1.00", "1.25"]),
        (1e-5, 9e-5, ["0.00002", "0.00004", "0.00006", "0.00008"]),
    ],
)
def test_an_axis_has_round_numbers_within_its_range(low, high, texts):
    assert [text for _, text in charts.ticks(low, high, 5)] == texts


@pytest.mark.parametrize(("epochs", "first"), [(2, "1"), (6, "1"), (30, "5"), (200, "50")])
def test_an_axis_of_epochs_has_whole_numbers(epochs, first):
    texts = [text for _, text in charts.ticks(1, epochs, whole=True)]
    assert texts[0] == first
    assert all(text.isdigit() for text in texts)
    assert 2 <= len(texts) <= 9
