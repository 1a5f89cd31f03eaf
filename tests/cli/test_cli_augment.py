"""`pipeline augment`."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
from commands import run_command as run
from conftest import paint_classes
from PIL import Image

from pipeline.data.augmentation import PRESETS, Augmentation
from pipeline.data.images import decode
from pipeline.data.views import apply, draw

pytestmark = pytest.mark.usefixtures("at_home")


@pytest.fixture
def photos(tmp_path):
    return paint_classes(tmp_path / "photos", 2)


def test_a_sheet_of_views_is_a_picture_with_a_tile_for_each(photos):
    image = photos / "red" / "000.png"
    result = run("augment", image, "--views", "12", "--out", "sheet.png")
    assert result.exit_code == 0
    assert result.stdout == "12 views in sheet.png; the first is the image itself\n"
    with Image.open("sheet.png") as sheet:
        assert sheet.format == "PNG"
        pixels = np.asarray(sheet.convert("RGB"))
    down = (pixels.shape[0] - 12) // 3  # as many lines of text as the longest caption needs
    assert pixels.shape == (3 * down + 12, 1260, 3)
    tiles = [
        pixels[top : top + 300, left : left + 300]
        for top in range(12, 3 * down, down)
        for left in range(12, 1260, 312)
    ]
    assert len(tiles) == 12
    assert all(np.median(tile[..., 0]) > np.median(tile[..., 2]) + 50 for tile in tiles)
    assert len({tile.tobytes() for tile in tiles}) == 12


@pytest.mark.parametrize(
    ("options", "augmentation"),
    [
        ([], PRESETS["textbook"]),
        (["--augmentation", "mild"], PRESETS["mild"]),
        (["--augmentation", "rotation=10"], Augmentation(rotation=10)),
        (["--augmentation", "none"], Augmentation()),
    ],
)
def test_the_views_on_a_sheet_are_those_that_training_sees(
    photos, options, augmentation, monkeypatch
):
    drawn = []

    def keep(pictures, captions):
        drawn.append(pictures)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("pipeline.report.sheet.draw_sheet", keep)
    image = photos / "red" / "000.png"
    assert run("augment", image, "--views", "5", "--size", "64", *options).exit_code == 0
    picture = decode(image.read_bytes(), 64)
    digest = hashlib.sha256(image.read_bytes()).digest()
    expected = [
        picture,
        *(apply(picture, draw(augmentation, digest, view)) for view in range(1, 5)),
    ]
    assert np.array_equal(drawn[0], expected)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--views", "0"], 2, "--views"),
        (["--size", "0"], 2, "--size"),
        (["--out", "sheet.txt"], 2, r"sheet\.txt is no name of a PNG file"),
        (["--out", "photos/red/000.png"], 2, "is the image itself"),
        (
            ["--out", "photos/red/001.png"],
            1,
            r"001\.png is there already, and this",
        ),
        (["--out", "nowhere/sheet.png"], 1, r"cannot write nowhere/sheet\.png: No such file"),
        (["--out", "photos.png"], 1, r"cannot write photos\.png: Is a directory"),
        (["--out", "pipe.png"], 1, r"cannot write pipe\.png: pipe\.png is not a regular file"),
        (["--augmentation", "wild"], 1, r"'wild'(.|\n)*textbook, mild, none"),
        (["--augmentation", "rotation=x"], 1, "rotation is 'x'"),
    ],
)
def test_a_sheet_that_cannot_be_drawn_is_one_error(photos, options, code, message):
    Path("photos.png").mkdir()
    os.mkfifo("pipe.png")
    before = (photos / "red" / "000.png").read_bytes()
    result = run("augment", "photos/red/000.png", *options)
    assert result.exit_code == code
    assert re.search(message, result.stderr)
    assert result.stdout == ""
    assert (photos / "red" / "000.png").read_bytes() == before


def test_a_sheet_takes_the_place_of_another_sheet(photos):
    sheets = set()
    for number in range(2):
        assert run("augment", photos / "red" / f"00{number}.png").exit_code == 0
        sheets.add(Path("sheet.png").read_bytes())
    assert len(sheets) == 2


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\x1a\n and no picture"])
def test_an_image_that_cannot_be_read_is_one_error(tmp_path, content):
    if content is not None:
        (tmp_path / "bad.png").write_bytes(content)
    result = run("augment", "bad.png", "--out", "sheet.png")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "bad.png" in result.stderr
    assert not Path("sheet.png").exists()
