"""The white level and the page hold wherever an image becomes pixels; that they lack is said."""

from dataclasses import replace

import numpy as np
import pytest
from commands import run_command
from conftest import CountingBackbone
from hostile import encode, picture
from PIL import Image

from pipeline.backbones.registry import make_recipe
from pipeline.data.loading import load_dataset
from pipeline.features.extractor import Extractor, extract
from pipeline.features.transformer import FeatureExtractor
from pipeline.features.views import Views
from pipeline.finetuning.sources import Images

GREY = [np.roll(picture(64, 64)[..., 0], 5 * number, 1) for number in range(6)]


def write(folder, make):
    for number, grey in enumerate(GREY):
        file = folder / "ab"[number % 2] / f"{number}.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(make(grey))
    return folder


def twelve_bits(grey):
    return np.rint(grey / 255 * 4095).astype(np.uint16)


@pytest.fixture
def eight(tmp_path):
    return load_dataset(write(tmp_path / "eight", lambda grey: encode(grey, "TIFF")))


@pytest.fixture(params=["white", "white and page"])
def chosen(request, tmp_path):
    """The same pictures of a 12-bit camera, perhaps behind a blank page, and what to choose."""
    if request.param == "white":
        data = write(tmp_path / "deep", lambda grey: encode(twelve_bits(grey), "TIFF"))
        return load_dataset(data), {"white": 4095}

    def stack(grey):
        blank = Image.fromarray(np.zeros_like(twelve_bits(grey)))
        others = [Image.fromarray(twelve_bits(grey))]
        return encode(blank, "TIFF", save_all=True, append_images=others)

    return load_dataset(write(tmp_path / "deep", stack)), {"white": 4095, "page": 2}


def extractor(tmp_path, **chosen):
    recipe = make_recipe(size=64, precision="float32", **chosen)
    return Extractor(recipe, cache=tmp_path / "cache", forward=CountingBackbone(recipe))


def test_rows_are_those_of_the_pictures_in_8_bits(eight, chosen, tmp_path):
    dataset, options = chosen
    expected = extract(eight, extractor=extractor(tmp_path)).rows()
    mine = extractor(tmp_path, **options)
    assert np.array_equal(extract(dataset, extractor=mine).rows(), expected)
    dark = extract(dataset, extractor=extractor(tmp_path)).rows()
    assert dark.max() < 17 < expected.max()
    for number, (_, rows) in enumerate(mine.rows_of_files(dataset.paths)):
        assert np.array_equal(rows[0], expected[number])
    apart = replace(mine, cache=tmp_path / "none")
    for number, (_, rows) in enumerate(apart.rows_of_files(dataset.paths)):
        assert np.array_equal(rows[0], expected[number])


def test_fine_tuning_from_images_sees_the_same(eight, chosen, tmp_path):
    dataset, options = chosen
    recipe = make_recipe(size=64, precision="float32", **options)
    source = Images(dataset, recipe, Views())
    for place, grey in enumerate(eight.paths):
        expected = make_recipe(size=64).decode(grey.read_bytes())
        assert np.array_equal(source._pixels(place, 0), expected)


def test_what_the_transformer_is_given_is_in_its_recipe(chosen, tmp_path, monkeypatch):
    dataset, options = chosen
    recipes = []

    def settle(self, *_, **__):
        recipes.append(self.recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(Extractor, "settle", settle)
    with pytest.raises(KeyboardInterrupt):
        FeatureExtractor(size=64, **options).transform(dataset.paths)
    assert recipes[0].decoding == make_recipe(**options).decoding


def test_that_images_are_seen_dark_is_said_and_kept_with_the_data_set(tmp_path):
    data = write(tmp_path / "deep", lambda grey: encode(twelve_bits(grey), "TIFF"))
    expected = "all 6 images in 16-bit grey stay below 4096, and are seen dark: --white 4095"
    extraction = extract(load_dataset(data), extractor=extractor(tmp_path))
    assert [remark for remark in extraction.dataset.remarks if expected in remark]
    again = extract(load_dataset(data), extractor=extractor(tmp_path))
    assert again.made == 0
    assert again.dataset.remarks == extraction.dataset.remarks
    lit = extract(load_dataset(data), extractor=extractor(tmp_path, white=4095))
    assert not lit.dataset.remarks
    status = run_command("status", data, "--cache", tmp_path / "none")
    assert expected in " ".join(status.output.split())
    status = run_command("status", data, "--cache", tmp_path / "none", "--white", "4095")
    assert status.exit_code == 0, status.output
    assert "16-bit" not in status.output


@pytest.mark.parametrize("white", ["0", "70000", "dark"])
def test_a_wrong_white_level_is_one_error(white, tmp_path):
    data = write(tmp_path / "deep", lambda grey: encode(twelve_bits(grey), "TIFF"))
    done = run_command("status", data, "--white", white)
    assert done.exit_code != 0
    assert "Traceback" not in done.output
    assert "white" in done.output


def test_the_command_augment_shows_it_too(tmp_path):
    data = write(tmp_path / "deep", lambda grey: encode(twelve_bits(grey), "TIFF"))
    for options, brightest in (((), 16), (("--white", "4095"), 255)):
        sheet = tmp_path / "sheet.png"
        done = run_command("augment", data / "a" / "2.tif", "--views", 1, "--out", sheet, *options)
        assert done.exit_code == 0, done.output
        middle = np.asarray(Image.open(sheet).convert("L"))[40:110, 40:110]
        assert brightest / 4 < middle.max() <= brightest
