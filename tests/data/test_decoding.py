"""Tests of the white level and the page: what is seen, what is refused, what is said."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hostile import encode, picture, tiff
from PIL import Image

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import make_recipe, remake_recipe
from pipeline.data import depth
from pipeline.data.decoding import Decoding
from pipeline.data.depth import remarks_on_decoding
from pipeline.data.images import decode, thumbnail
from pipeline.data.levels import extremes
from pipeline.data.urls import Url
from pipeline.errors import ImageError, PipelineError

SIDE = 32
EIGHT = picture(SIDE, SIDE)[..., 0]


def deep(bits: int) -> np.ndarray:
    """Return the picture as a camera of so many bits gives it."""
    return np.rint(EIGHT / 255 * (2**bits - 1)).astype(np.uint16)


def signed(values: np.ndarray) -> bytes:
    tags = {256: SIDE, 257: SIDE, 258: 16, 259: 1, 262: 1, 277: 1, 339: 2}
    return tiff(tags, values.astype("<i2").tobytes())


def big_endian_bigtiff(values: np.ndarray) -> bytes:
    strip = values.astype(">u2").tobytes()
    tags = {256: SIDE, 257: SIDE, 258: 16, 259: 1, 262: 1, 277: 1, 273: 16, 279: len(strip)}
    entries = b"".join(struct.pack(">HHQQ", tag, 16, 1, tags[tag]) for tag in sorted(tags))
    return (
        (b"MM\0\x2b\0\x08\0\0" + struct.pack(">Q", 16 + len(strip)) + strip)
        + struct.pack(">Q", len(tags))
        + entries
        + bytes(8)
    )


def stack(*pages: np.ndarray) -> bytes:
    first, *others = map(Image.fromarray, pages)
    return encode(first, "TIFF", save_all=True, append_images=others)


# --- the white level -------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize(
    "write",
    [
        lambda values: encode(values, "PNG"),
        lambda values: encode(values, "TIFF"),
        lambda values: encode(values.astype(">u2"), "TIFF"),
        lambda values: encode(values, "TIFF", compression="tiff_lzw"),
        lambda values: encode(values.astype(np.int32), "TIFF"),
        lambda values: encode(values, "TIFF", big_tiff=True),
    ],
)
def test_a_camera_of_fewer_bits_fills_the_range_with_its_white_level(bits, write):
    pixels = decode(write(deep(bits)), SIDE, decoding=f"1 white={2**bits - 1}")
    assert np.abs(pixels[..., 1].astype(int) - EIGHT).max() <= 1


def test_signed_16_bits_are_read_with_a_white_level_and_refused_below_zero():
    pixels = decode(signed(EIGHT.astype(int) * 128), SIDE, decoding="1 white=32767")
    assert np.abs(pixels[..., 1].astype(int) - EIGHT).max() <= 1
    with pytest.raises(ImageError, match="integers from -100 to 155"):
        decode(signed(EIGHT.astype(int) - 100), SIDE, decoding="1 white=32767")


def test_the_page_shows_a_picture_with_the_same_white_level():
    data = encode(deep(12), "PNG")
    with Image.open(io.BytesIO(thumbnail(data, SIDE, "1 white=4095"))) as small:
        assert np.abs(np.asarray(small.convert("L")).astype(int) - EIGHT).mean() < 3
    with Image.open(io.BytesIO(thumbnail(data, SIDE))) as small:
        assert np.asarray(small).max() < 24


def test_values_above_the_white_level_are_refused_not_cut_off():
    with pytest.raises(ImageError) as caught:
        decode(encode(deep(14), "PNG"), SIDE, decoding="1 white=4095")
    assert caught.value.found == "integers from 0 to 16383"
    assert caught.value.expected == "8-bit values, or 16-bit values from 0 to 4095"
    assert caught.value.fix == "Give a higher white level: --white 16383."


def test_a_white_level_leaves_8_bits_and_floats_alone():
    for data in (
        encode(picture(), "PNG"),
        encode(picture(), "JPEG"),
        encode((EIGHT / 255).astype(np.float32), "TIFF"),
    ):
        assert np.array_equal(decode(data, 24, decoding="1 white=4095"), decode(data, 24))


def test_16_bit_colour_is_refused_where_a_white_level_is_given():
    rgb = picture(SIDE, SIDE).astype(np.uint16) * 16
    bits = struct.pack("<3H", 16, 16, 16)
    tags = {256: SIDE, 257: SIDE, 258: 16, 259: 1, 262: 2, 277: 3}
    data = tiff(tags, rgb.tobytes() + bits)
    decode(data, SIDE)
    with pytest.raises(ImageError, match="16-bit colour"):
        decode(data, SIDE, decoding="1 white=4095")


@pytest.mark.parametrize(
    "data",
    [
        big_endian_bigtiff(deep(16)),
        *(
            tiff({256: 4, 257: 4, 258: bits, 259: 1, 262: 1, 277: 1, 339: 3}, bytes(16 * bits // 8))
            for bits in (16, 64)
        ),
    ],
)
def test_kinds_that_pillow_cannot_read_are_refused_with_what_to_do(data):
    with pytest.raises(ImageError, match="unusual kind of TIFF") as caught:
        decode(data, SIDE)
    assert caught.value.fix == "If it opens elsewhere, save it from there as PNG or JPEG."


# --- the page --------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [1, 2, 3])
def test_a_page_that_is_not_the_first_can_be_named(page):
    pages = [picture(SIDE, SIDE), np.rot90(picture(SIDE, SIDE)), 255 - picture(SIDE, SIDE)]
    data = stack(*map(np.ascontiguousarray, pages))
    name = Decoding(page=page).name
    assert np.array_equal(decode(data, SIDE, decoding=name), pages[page - 1])


def test_a_page_of_16_bits_takes_the_white_level():
    data = stack(np.zeros_like(deep(12)), deep(12))
    pixels = decode(data, SIDE, decoding="1 white=4095 page=2")
    assert np.abs(pixels[..., 1].astype(int) - EIGHT).max() <= 1


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (stack(EIGHT, EIGHT), "it has no page 3"),
        (encode(EIGHT, "TIFF"), "it has no page 3"),
        (encode(EIGHT, "PNG"), "page 3 was asked for, and a PNG has no pages"),
        (encode(EIGHT, "JPEG"), "page 3 was asked for, and a JPEG has no pages"),
    ],
)
def test_a_page_that_is_not_there_is_refused(data, found):
    with pytest.raises(ImageError) as caught:
        decode(data, SIDE, decoding="1 page=3")
    assert caught.value.found == found


def test_a_page_that_is_too_large_is_refused_too():
    first = bytearray(stack(EIGHT, EIGHT))
    at = first.rindex(struct.pack("<HHI", 257, 4, 1)) + 8
    first[at : at + 4] = struct.pack("<I", 40_000_000)
    decode(bytes(first), 8)
    with pytest.raises(ImageError, match="more than the limit"):
        decode(bytes(first), 8, decoding="1 page=2")


# --- recipes ---------------------------------------------------------------------------------


def test_recipes_without_them_keep_their_fingerprints_and_with_them_have_others():
    plain = make_recipe(precision="float32")
    assert plain.decoding == "1"
    assert make_recipe(precision="float32", white=None, page=1).fingerprint == plain.fingerprint
    chosen = [
        make_recipe(precision="float32", white=white, page=page)
        for white, page in ((4095, 1), (1023, 1), (None, 2), (4095, 2))
    ]
    assert [recipe.decoding for recipe in chosen] == [
        "1 white=4095",
        "1 white=1023",
        "1 page=2",
        "1 white=4095 page=2",
    ]
    assert len({recipe.fingerprint for recipe in (plain, *chosen)}) == 5
    for recipe in chosen:
        assert remake_recipe(recipe) == recipe
        assert remake_recipe(recipe, layer="block4_pool").decoding == recipe.decoding
        assert Recipe.from_json(recipe.to_json(), source="it") == recipe


def test_a_recipe_decodes_its_way():
    data = stack(EIGHT, EIGHT.T.copy())
    recipe = make_recipe(page=2, size=SIDE)
    assert np.array_equal(recipe.decode(data)[..., 0], EIGHT.T)


@pytest.mark.parametrize("white", [0, -1, 65_536])
def test_a_white_level_out_of_range_is_the_users_mistake(white):
    with pytest.raises(PipelineError, match=f"white level {white} is out of range"):
        make_recipe(white=white)


@pytest.mark.parametrize("page", [0, -1, 1_000_000_000])
def test_a_page_that_no_file_can_have_is_the_users_mistake(page):
    with pytest.raises(PipelineError, match=f"there is no page {page}"):
        make_recipe(page=page)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "0",
        "2",
        "1 white=",
        "1 page=1",
        "1 page=2 white=9",
        "1 white=07",
        "1 gamma=2",
    ],
)
def test_a_decoding_of_another_version_is_not_guessed(name):
    with pytest.raises(PipelineError, match="in a way that is not known"):
        Decoding.from_name(name)


# --- what is said ----------------------------------------------------------------------------


def files(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in contents]


def remarks(folder: Path, contents: dict[str, bytes], **chosen: int) -> tuple[str, ...]:
    return remarks_on_decoding(files(folder, contents), Decoding(**chosen))


@pytest.mark.parametrize(("bits", "white"), [(9, 1023), (10, 1023), (12, 4095), (13, 16383)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_images_that_stay_below_a_power_of_two_are_said_once(tmp_path, bits, white, kind):
    said = remarks(tmp_path, {f"{n}.{kind[:3]}": encode(deep(bits), kind) for n in range(3)})
    assert len(said) == 1
    assert said[0] == (
        f"all 3 images in 16-bit grey stay below {white + 1}, and are seen dark: --white {white} "
        "makes that value white"
    )


def test_signed_16_bits_are_said(tmp_path):
    said = remarks(tmp_path, {"a.tif": signed(EIGHT.astype(int) * 128)})
    assert "--white 32767" in said[0]


def test_nothing_is_said_where_nothing_is_amiss(tmp_path):
    contents = {
        "dim.png": encode(deep(12), "PNG"),
        "bright.png": encode(deep(16), "PNG"),  # one that is not dark is enough
        "eight.png": encode(EIGHT, "PNG"),
        "photo.jpg": encode(picture(), "JPEG"),
        "declared.tif": tiff(
            {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 277: 1}, bytes.fromhex("0008007fffff")
        ),
        "broken.png": b"\x89PNG\r\n\x1a\n",
    }
    assert remarks(tmp_path, contents) == ()
    assert remarks(tmp_path, {"dim.png": contents["dim.png"]}, white=4095) == ()
    assert remarks(tmp_path, {"declared.tif": contents["declared.tif"]}) == ()
    assert remarks_on_decoding([tmp_path / "gone.png"], Decoding()) == ()


def test_a_white_level_without_16_bit_images_is_said(tmp_path):
    said = remarks(tmp_path, {"eight.png": encode(EIGHT, "PNG")}, white=4095)
    assert said == ("none of the images is in 16-bit grey: --white changes nothing",)


def test_dark_16_bit_colour_is_said(tmp_path):
    rgb = picture(SIDE, SIDE).astype(np.uint16) * 16
    tags = {256: SIDE, 257: SIDE, 258: 16, 259: 1, 262: 2, 277: 3}
    data = tiff(tags, rgb.tobytes() + struct.pack("<3H", 16, 16, 16))
    said = remarks(tmp_path, {"a.tif": data})[0]
    assert "the one image in 16-bit colour stays below 4096, and is seen dark" in said


def test_more_than_one_page_is_said(tmp_path):
    contents = {"a.tif": stack(EIGHT, EIGHT), "b.tif": encode(EIGHT, "TIFF")}
    assert remarks(tmp_path, contents) == (
        "1 image has more than one page: page 1 is used; --page names another",
    )
    contents = {"a.tif": stack(EIGHT, deep(12)), "b.tif": stack(EIGHT, deep(12))}
    said = remarks(tmp_path, contents, page=2)
    assert "all 2 images in 16-bit grey" in said[0]
    assert "page 2 is used" in said[1]


_DIM, _PLAIN = encode(deep(12), "PNG"), encode(EIGHT, "PNG")
_STACK = stack(EIGHT, EIGHT)
_DARK = "stay below 4096, and are seen dark: --white 4095 makes that value white"
_ONE_DARK = "stays below 4096, and is seen dark: --white 4095 makes that value white"


@pytest.mark.parametrize(
    ("contents", "most", "chosen", "expected"),
    [
        ([_DIM], 500, {}, f"the one image in 16-bit grey {_ONE_DARK}"),
        ([_DIM, _PLAIN], 500, {}, f"the one image in 16-bit grey {_ONE_DARK}"),
        ([_DIM] * 40, 500, {}, f"all 32 images in 16-bit grey that were looked at {_DARK}"),
        ([_DIM] * 9, 8, {}, f"all 8 images in 16-bit grey that were looked at {_DARK}"),
        ([_DIM] * 9, 1, {}, f"the one image in 16-bit grey that was looked at {_ONE_DARK}"),
        (
            [_PLAIN] * 9,
            9,
            {"white": 9},
            "none of the images is in 16-bit grey: --white changes nothing",
        ),
        (
            [_PLAIN] * 9,
            8,
            {"white": 9},
            (
                "of 8 images that were looked at, none is in 16-bit grey, which alone "
                "--white changes; others may be"
            ),
        ),
        (
            [_STACK] * 2,
            9,
            {},
            "2 images have more than one page: page 1 is used; --page names another",
        ),
        (
            [_STACK] * 9,
            8,
            {},
            (
                "8 of 8 images that were looked at have more than one page: page 1 is used; --page "
                "names another"
            ),
        ),
    ],
)
def test_what_was_not_looked_at_is_not_spoken_of(
    tmp_path, monkeypatch, contents, most, chosen, expected
):
    monkeypatch.setattr(depth, "_MOST_OPENED", most)
    named = {f"{number}.tif": data for number, data in enumerate(contents)}
    assert remarks(tmp_path, named, **chosen) == (expected,)


@pytest.mark.parametrize("number", [1, 39, 40, 400])
@pytest.mark.parametrize("chosen", [{}, {"white": 4095}])
def test_the_one_deep_image_is_found_whether_broken_files_are_listed_or_not(
    tmp_path, number, chosen
):
    paths = files(tmp_path, {f"{place:03}.png": _PLAIN for place in range(number)})
    [deep_one] = files(tmp_path, {"deep.tif": encode(deep(12), "TIFF")})
    [broken] = files(tmp_path, {"000-broken.png": b"\x89PNG"})
    expected = () if chosen else (f"the one image in 16-bit grey {_ONE_DARK}",)
    for listed in ([*paths, deep_one], [broken, *paths, deep_one]):
        assert remarks_on_decoding(listed, Decoding(**chosen)) == expected


@pytest.mark.parametrize("elsewhere", ["s3://photos/a.tif", "a-file-without-a-suffix"])
def test_of_files_that_are_not_opened_nothing_is_said(tmp_path, elsewhere):
    there = Url(elsewhere) if ":" in elsewhere else files(tmp_path, {elsewhere: _DIM})[0]
    paths = [*files(tmp_path, {"a.png": _PLAIN}), there]
    [*said] = remarks_on_decoding(paths, Decoding(white=4095))
    assert said == (
        []
        if isinstance(there, Path)
        else [
            (
                "of 1 image that was looked at, none is in 16-bit grey, which alone "
                "--white changes; others may be"
            )
        ]
    )


@pytest.mark.parametrize(
    ("contents", "chosen", "whole"),
    [
        ({"a.png": encode(deep(16), "PNG"), "b.png": encode(deep(16), "PNG")}, {}, 1),
        ({"a.png": encode(deep(12), "PNG"), "b.png": encode(deep(12), "PNG")}, {}, 2),
        (
            {
                "a.png": encode(deep(12), "PNG"),
                **{f"{number:02}.png": encode(deep(16), "PNG") for number in range(20)},
            },
            {},
            2,
        ),
        ({"a.png": encode(deep(12), "PNG"), "b.png": encode(deep(12), "PNG")}, {"white": 4095}, 0),
        ({"a.png": encode(EIGHT, "PNG")}, {}, 0),
    ],
)
def test_images_are_read_whole_until_one_is_bright(tmp_path, monkeypatch, contents, chosen, whole):
    read = []
    monkeypatch.setattr(depth, "extremes", lambda image: read.append(1) or extremes(image))
    remarks(tmp_path, contents, **chosen)
    assert len(read) == whole
