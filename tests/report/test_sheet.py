"""The views of an image on one sheet."""

import numpy as np
import pytest

from pipeline.data.views import View
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


def test_below_each_view_stands_what_was_done_to_it():
    views = np.full((2, 150, 150, 3), 255, np.uint8)
    plain = draw_sheet(views, ["the image itself"] * 2)
    turned = draw_sheet(views, ["the image itself", str(View(theta=12.3, zx=0.8, tx=-0.1))])
    assert plain.height <= turned.height
    assert np.array_equal(*(np.asarray(sheet)[312:330, :320] for sheet in (plain, turned)))
    assert not np.array_equal(*(np.asarray(sheet)[312:330, 330:] for sheet in (plain, turned)))


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (View(), "the image itself"),
        (View(theta=-12.34), "turned -12.3°"),
        (View(tx=0.1, ty=-0.2), "10% left, 20% down"),
        (View(zx=0.8, zy=1.25), "size 125% x 80%"),
        (
            View(flip_horizontal=True, flip_vertical=True),
            "left and right swapped, top and bottom swapped",
        ),
        (
            View(shear=3, brightness=-0.1, contrast=1.2),
            "shear +3.0°, brightness -10%, contrast 120%",
        ),
    ],
)
def test_a_view_says_what_is_changed_as_a_person_sees_it(view, words):
    assert str(view) == words
