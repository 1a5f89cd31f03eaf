"""The views of an image on one sheet."""

import numpy as np
import pytest

from pipeline.report.sheet import draw_sheet


@pytest.mark.parametrize("count", [1, 4, 5])
def test_a_sheet_holds_each_view_as_it_is_with_its_number_below(count):
    rng = np.random.default_rng(0)
    views = rng.integers(1, 255, (count, 150, 150, 3), dtype=np.uint8)
    sheet = np.asarray(draw_sheet(views))
    for number, view in enumerate(views):
        row, column = divmod(number, 4)
        top, left = 12 + row * 332, 12 + column * 312
        assert np.array_equal(sheet[top : top + 300 : 2, left : left + 300 : 2], view)
        below = sheet[top + 300 : top + 320, left : left + 300]
        assert (below == 0).any()  # black on white
        assert (below == 255).mean() > 0.9


def test_large_views_keep_their_size():
    assert draw_sheet(np.zeros((2, 500, 500, 3), np.uint8)).size == (2 * 512 + 12, 532 + 12)
