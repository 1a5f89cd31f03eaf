"""Maps to be laid over pictures."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.backbones.registry import get_backbone
from pipeline.report.thumbnails import overlay, strongest


def centres(size):
    return lambda cells: get_backbone("vgg16").cell_centres(cells, size) / size


def drawn(values, size):
    content = base64.b64decode(overlay(np.array(values, float), centres(size)).partition(",")[2])
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture).astype(int)


def test_a_map_is_orange_for_and_blue_against_and_strongest_where_it_is_largest():
    pixels = drawn([[2, 0], [0, -1]], 64)
    side = len(pixels)
    red, _, blue, opaque = pixels[side // 8, side // 8]
    assert red > blue
    assert opaque == pixels[..., 3].max()
    red, _, blue, other = pixels[-side // 8, -side // 8]
    assert blue > red
    assert other == pytest.approx(opaque / 2, abs=2)


def test_a_map_lies_where_the_networks_cells_are_not_stretched_over_the_picture():
    # Of 150 pixels, block5_pool's four cells take in 0 to 127: the third's middle is at 80.
    opaque = drawn([[0, 0, 1, 0]] * 4, 150)[0, :, 3]
    assert opaque.argmax() / len(opaque) == pytest.approx(80 / 150, abs=0.02)


def test_a_map_of_zeros_is_no_picture():
    assert overlay(np.zeros((4, 4)), centres(150)) == ""


@pytest.mark.parametrize(
    ("place", "words"), [((0, 0), "top left"), ((1, 2), "middle centre"), ((3, 3), "bottom right")]
)
def test_where_a_map_is_strongest_is_said_in_words(place, words):
    values = np.zeros((4, 4))
    values[place] = 1
    assert strongest(values, centres(128)) == words
