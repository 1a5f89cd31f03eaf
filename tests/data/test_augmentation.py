"""Views are drawn alike everywhere, and applied as Keras applies them."""

import dataclasses
import hashlib
import math
import sys
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, kstest

from pipeline.data import augmentation as augment
from pipeline.data.augmentation import PRESETS, Augmentation, get_augmentation
from pipeline.data.demo import demo_images
from pipeline.data.images import decode
from pipeline.data.views import DRAWING, View, apply, draw, views_of
from pipeline.errors import PipelineError
from pipeline.system import tensorflow

ALL = Augmentation(
    rotation=180,
    width_shift=1,
    height_shift=0.5,
    shear=60,
    zoom=0.9,
    horizontal_flip=True,
    vertical_flip=True,
    brightness=0.5,
    contrast=0.8,
)
FLAGS = ("horizontal_flip", "vertical_flip")

GOLDEN = View(
    theta=61.71799295682081,
    tx=0.834380353593132,
    ty=0.19740604248683302,
    shear=-1.2069268097452301,
    zx=1.290851410090448,
    zy=1.0870527017094915,
    flip_horizontal=True,
    flip_vertical=False,
    brightness=0.32311166002828007,
    contrast=0.2712611000829983,
)

# What each parameter of an augmentation draws of a view.
DRAWN = {
    "rotation": ("theta",),
    "width_shift": ("tx",),
    "height_shift": ("ty",),
    "shear": ("shear",),
    "zoom": ("zx", "zy"),
    "horizontal_flip": ("flip_horizontal",),
    "vertical_flip": ("flip_vertical",),
    "brightness": ("brightness",),
    "contrast": ("contrast",),
}


def digest(number):
    return hashlib.sha256(str(number).encode()).digest()


def many(augmentation, count=2000):
    """Draw a view of each of many images, one array for each parameter."""
    views = [draw(augmentation, digest(number), 1) for number in range(count)]
    return {name: np.array([getattr(view, name) for view in views]) for name in asdict(View())}


def only(name):
    return Augmentation(**{name: getattr(ALL, name)})


@pytest.fixture(scope="module")
def photographs():
    paths = [path for path, _ in demo_images()[::656]]
    return [decode(path.read_bytes(), 150) for path in paths]


@pytest.fixture(scope="module")
def colours():
    """A picture of noise: every pixel and every channel is another, so nothing can hide."""
    return np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def generator():
    tensorflow.load()
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator


@pytest.fixture
def in_the_centre(generator, monkeypatch):
    """Put right where Keras has the centre of a picture that is not square."""
    module = sys.modules[generator.__module__]
    original = module.transform_matrix_offset_center
    monkeypatch.setattr(
        module, "transform_matrix_offset_center", lambda matrix, x, y: original(matrix, y, x)
    )


def by_keras(generator, pixels, view):
    """Move the pixels as Keras does; unrounded levels."""
    height, width, _ = pixels.shape
    moves = asdict(view) | {"tx": view.tx * width, "ty": view.ty * height}
    del moves["brightness"], moves["contrast"]
    return generator().apply_transform(pixels.astype(np.float32), moves)


def assert_rounded(pixels, levels):
    """Check that the difference is what rounding to whole levels makes, and no more."""
    assert pixels.dtype == np.uint8
    assert pixels.shape == levels.shape
    assert np.abs(pixels - levels).max() < 0.5 + 1e-3


# Against Keras


@pytest.mark.parametrize("name", ["textbook", "mild"])
def test_a_presets_views_are_those_of_keras_up_to_rounding(generator, photographs, name):
    for pixels in photographs:
        for number in range(1, 9):
            view = draw(PRESETS[name], hashlib.sha256(pixels).digest(), number)
            assert_rounded(apply(pixels, view), by_keras(generator, pixels, view))


def test_extreme_views_are_those_of_keras_up_to_rounding(generator, photographs, colours):
    wild = replace(ALL, brightness=0, contrast=0)
    for pixels in [*photographs, colours]:
        for number in range(1, 25):
            view = draw(wild, hashlib.sha256(pixels).digest(), number)
            assert_rounded(apply(pixels, view), by_keras(generator, pixels, view))


@pytest.mark.parametrize(
    "view",
    [
        *({"theta": theta} for theta in (-180, -90, -40, 7, 45, 90, 180)),
        *({name: shift} for name in ("tx", "ty") for shift in (-1, -0.5, -0.013, 0.2, 1)),
        *({"shear": shear} for shear in (-89, -20, 0.2, 45)),
        *({name: zoom} for name in ("zx", "zy") for zoom in (0.01, 0.8, 1.2, 1.99)),
        {"flip_horizontal": True},
        {"flip_vertical": True},
    ],
    ids=str,
)
def test_each_parameter_alone_does_what_it_does_in_keras(generator, colours, view):
    view = View(**view)
    assert not np.array_equal(apply(colours, view), colours)
    assert_rounded(apply(colours, view), by_keras(generator, colours, view))


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (1, 20), (20, 1), (31, 30)])
def test_pictures_that_are_not_square_turn_about_their_centre(generator, in_the_centre, shape):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    for number in range(1, 25):
        view = draw(replace(ALL, brightness=0, contrast=0), digest("shape"), number)
        assert_rounded(apply(pixels, view), by_keras(generator, pixels, view))
    half = apply(pixels, View(theta=180))
    assert np.array_equal(half, pixels[::-1, ::-1])


def test_the_recipes_parameters_are_distributed_as_in_keras(generator):
    keras = generator(
        rotation_range=40,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=0.2,
        zoom_range=0.2,
        horizontal_flip=True,
    )
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    theirs = [keras.get_random_transform((1, 1, 3)) for _ in range(2000)]
    np.random.set_state(state)  # noqa: NPY002
    ours = many(PRESETS["textbook"])
    for name in ("theta", "tx", "ty", "shear", "zx", "zy"):
        assert ks_2samp(ours[name], [float(view[name]) for view in theirs]).pvalue > 0.01, name
    flips = np.mean([view["flip_horizontal"] for view in theirs])
    assert flips == pytest.approx(ours["flip_horizontal"].mean(), abs=0.05)


@pytest.mark.parametrize("amount", [-1, -0.3, 0.013, 0.25, 1])
def test_brightness_is_that_of_keras_layer(photographs, amount):
    _, keras = tensorflow.load()
    layer = keras.layers.RandomBrightness(1)
    for pixels in photographs:
        levels = layer.transform_images(
            keras.ops.convert_to_tensor(pixels, "float32"), {"rgb_delta": 255 * amount}
        )
        assert_rounded(apply(pixels, View(brightness=amount)), np.asarray(levels))


@pytest.mark.parametrize("factor", [0, 0.4, 0.97, 1.3, 2])
def test_contrast_is_that_of_keras_layer(photographs, colours, factor):
    _, keras = tensorflow.load()
    layer = keras.layers.RandomContrast(1)
    tinted = (photographs[0] * [1, 0.6, 0.3]).astype(np.uint8)
    for pixels in [*photographs, colours, tinted]:
        levels = layer.transform_images(
            keras.ops.convert_to_tensor(pixels, "float32"), {"contrast_factor": factor}
        )
        assert_rounded(apply(pixels, View(contrast=factor)), np.asarray(levels))


def test_all_at_once_is_keras_moves_then_its_brightness_then_its_contrast(generator, photographs):
    _, keras = tensorflow.load()
    bright, contrast = keras.layers.RandomBrightness(1), keras.layers.RandomContrast(1)
    for pixels in photographs:
        for number in range(1, 9):
            view = draw(ALL, hashlib.sha256(pixels).digest(), number)
            levels = keras.ops.convert_to_tensor(by_keras(generator, pixels, view))
            levels = bright.transform_images(levels, {"rgb_delta": 255 * view.brightness})
            levels = contrast.transform_images(levels, {"contrast_factor": view.contrast})
            assert_rounded(apply(pixels, view), np.asarray(levels))


# What a view shows, without Keras


def test_the_directions_are_those_that_are_documented():
    pixels = np.zeros((9, 9, 3), np.uint8)
    pixels[4, 6] = 200  # two to the right of the centre

    def where(**moves):
        [spot] = np.argwhere(apply(pixels, View(**moves))[..., 0] == 200)
        return tuple(int(index) for index in spot)

    assert where() == (4, 6)
    assert where(theta=90) == (2, 4)
    assert where(tx=1 / 9) == (4, 5)
    assert where(ty=1 / 9) == (3, 6)
    assert where(theta=90, tx=1 / 9) == (2, 3)
    assert where(tx=1 / 9, zx=0.5) == (4, 6)
    assert where(zx=2) == (4, 5)
    assert where(flip_horizontal=True) == (4, 2)
    assert where(theta=90, flip_vertical=True) == (6, 4)
    assert where(tx=1 / 9, flip_horizontal=True) == (4, 3)
    # A shear of 45 degrees moves sideways by as much as the view lies below the centre.
    low = np.argwhere(apply(pixels.transpose(1, 0, 2), View(shear=45))[..., 0] > 90)
    assert (low[:, 0] > 4).all()
    assert (low[:, 1] > 4).all()


def test_levels_are_interpolated_rounded_and_taken_from_the_nearest_pixel_outside():
    row = np.array([10, 21, 250], np.uint8)
    pixels = np.stack([row] * 3, axis=-1)[None]
    assert apply(pixels, View(tx=0.25 / 3))[0, :, 0].tolist() == [13, 78, 250]
    assert apply(pixels, View(tx=-2 / 3))[0, :, 0].tolist() == [10, 10, 10]
    assert apply(pixels, View(tx=1))[0, :, 0].tolist() == [250, 250, 250]


def test_levels_beyond_black_and_white_are_cut():
    pixels = np.array([[[0, 100, 200], [250, 255, 10]]], np.uint8)
    assert apply(pixels, View(brightness=0.2)).tolist() == [[[51, 151, 251], [255, 255, 61]]]
    assert apply(pixels, View(brightness=-0.2)).tolist() == [[[0, 49, 149], [199, 204, 0]]]
    # The means are 125, 177.5 and 105.
    assert apply(pixels, View(contrast=2)).tolist() == [[[0, 22, 255], [255, 255, 0]]]


def test_a_view_that_changes_nothing_shows_the_same_pixels(photographs, colours):
    for pixels in [*photographs, colours, colours[:7], colours[:, :1]]:
        same = apply(pixels, View())
        assert np.array_equal(same, pixels)
        assert same.dtype == np.uint8
        assert not np.shares_memory(same, pixels)


def test_flips_alone_move_pixels_and_do_not_blend_them(colours):
    pixels = colours[:33]
    assert np.array_equal(apply(pixels, View(flip_horizontal=True)), pixels[:, ::-1])
    assert np.array_equal(apply(pixels, View(flip_vertical=True)), pixels[::-1])


def test_the_picture_is_left_as_it_is_and_may_lie_in_memory_in_any_way(colours):
    view = draw(ALL, digest(0), 1)
    expected = apply(colours, view)
    frozen = colours.copy()
    frozen.flags.writeable = False
    assert np.array_equal(apply(frozen, view), expected)
    assert np.array_equal(frozen, colours)
    assert np.array_equal(apply(np.asfortranarray(colours), view), expected)
    backwards = colours[::-1].copy()[::-1]
    assert np.array_equal(apply(backwards, view), expected)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
    ids=lambda pixels: f"{pixels.dtype} {pixels.shape}",
)
def test_pixels_of_another_kind_are_refused(pixels):
    with pytest.raises(ValueError, match="they must be uint8"):
        apply(pixels, View())
    with pytest.raises(ValueError, match="they must be uint8"):
        views_of(pixels, ALL, digest(0), 1)


def test_the_views_of_an_image_start_with_the_image(colours):
    views = views_of(colours, ALL, digest(0), 4)
    assert views.shape == (4, *colours.shape)
    assert views.dtype == np.uint8
    assert np.array_equal(views[0], colours)
    for number in (1, 2, 3):
        assert np.array_equal(views[number], apply(colours, draw(ALL, digest(0), number)))
    assert len(np.unique(views, axis=0)) == 4
    assert np.array_equal(views_of(colours, ALL, digest(0), 1), [colours])
    with pytest.raises(ValueError, match="at least 1"):
        views_of(colours, ALL, digest(0), 0)


# Drawing


def test_a_view_is_drawn_alike_on_every_machine():
    """Rows in somebody's cache were made with these numbers: raise DRAWING if they change."""
    assert DRAWING == "1"
    assert draw(ALL, bytes(range(32)), 1) == GOLDEN
    assert draw(ALL, bytes(range(32)), 2) != GOLDEN
    assert draw(ALL, bytes(range(1, 33)), 1) != GOLDEN


def test_a_view_is_drawn_as_documented_from_a_hash():
    seed = b"pipeline.augment 1 " + digest(5) + (258).to_bytes(8, "big")
    number = int(hashlib.shake_256(seed).hexdigest(8), 16) / 2**64
    assert draw(PRESETS["textbook"], digest(5), 258).theta == 40 * (2 * number - 1)


def test_view_0_is_not_drawn():
    for view in (0, -1):
        with pytest.raises(ValueError, match="view 0 is the image itself"):
            draw(ALL, digest(0), view)


def test_every_image_and_every_view_is_drawn_anew():
    views = {draw(ALL, digest(number), view) for number in range(50) for view in range(1, 51)}
    assert len(views) == 2500


@pytest.mark.parametrize("name", ["theta", "tx", "ty", "shear", "zx", "zy", "brightness"])
def test_a_number_is_drawn_evenly_from_all_of_its_range(name):
    [source] = [parameter for parameter, drawn in DRAWN.items() if name in drawn]
    reach = getattr(ALL, source)
    middle = 1 if name in ("zx", "zy") else 0
    places = (many(ALL)[name] - middle + reach) / (2 * reach)
    assert places.min() >= 0
    assert places.max() <= 1
    assert kstest(places, "uniform").pvalue > 0.01


def test_contrast_is_drawn_evenly_about_1():
    places = (many(ALL)["contrast"] - 1 + ALL.contrast) / (2 * ALL.contrast)
    assert kstest(places, "uniform").pvalue > 0.01


def test_every_other_picture_is_flipped():
    drawn = many(ALL)
    for name in ("flip_horizontal", "flip_vertical"):
        assert drawn[name].dtype == bool
        assert drawn[name].mean() == pytest.approx(0.5, abs=0.04)


def test_the_parameters_do_not_depend_on_each_other_nor_on_the_views_number():
    first = many(ALL)
    second = [draw(ALL, digest(number), 2) for number in range(2000)]
    columns = [*first.values(), *([getattr(view, name) for view in second] for name in first)]
    related = np.corrcoef(np.array(columns, float)) - np.eye(len(columns))
    assert np.abs(related).max() < 0.1


@pytest.mark.parametrize("name", DRAWN)
def test_a_parameter_that_is_off_has_no_effect_and_changes_no_other(name):
    nothing = View()
    with_all = many(ALL, 50)
    without = many(replace(ALL, **{name: False if name in FLAGS else 0}), 50)
    alone = many(only(name), 50)
    for drawn in with_all:
        if drawn in DRAWN[name]:
            assert np.all(without[drawn] == getattr(nothing, drawn))
            assert np.array_equal(alone[drawn], with_all[drawn])
            assert len(set(alone[drawn].tolist())) > 1
        else:
            assert np.array_equal(without[drawn], with_all[drawn])
            assert np.all(alone[drawn] == getattr(nothing, drawn))


def test_nothing_set_draws_views_that_change_nothing():
    assert {draw(PRESETS["none"], digest(number), 1) for number in range(50)} == {View()}


def test_a_wider_range_draws_the_same_views_further_out():
    narrow, wide = many(Augmentation(rotation=10), 50), many(Augmentation(rotation=20), 50)
    assert np.allclose(2 * narrow["theta"], wide["theta"])


# Names


def ranges(most):
    return st.one_of(st.just(0.0), st.floats(0, most), st.integers(0, math.floor(most)))


augmentations = st.builds(
    Augmentation,
    rotation=ranges(180),
    width_shift=ranges(1),
    height_shift=ranges(1),
    shear=ranges(89.5),
    zoom=ranges(0.99),
    horizontal_flip=st.booleans(),
    vertical_flip=st.booleans(),
    brightness=ranges(1),
    contrast=ranges(1),
)


@given(augmentations, augmentations)
@settings(deadline=None, database=None, derandomize=True)
def test_equal_augmentations_have_equal_names_and_others_have_others(one, other):
    assert Augmentation.from_name(one.name) == one
    assert Augmentation.from_name(one.name).name == one.name
    assert (one == other) == (one.name == other.name)


@given(augmentations)
@settings(deadline=None, database=None, derandomize=True)
def test_what_a_name_says_can_be_typed(augmentation):
    parts = augmentation.name.removeprefix("1 ").split(" ")
    typed = ",".join(f"{part}=yes" if part in FLAGS else part for part in parts)
    assert get_augmentation(typed) == augmentation


@pytest.mark.parametrize(
    ("augmentation", "name"),
    [
        (Augmentation(), "none"),
        (
            PRESETS["textbook"],
            "1 rotation=40 width_shift=0.2 height_shift=0.2 shear=0.2 zoom=0.2 horizontal_flip",
        ),
        (
            replace(PRESETS["mild"], height_shift=0),
            "1 rotation=3 width_shift=0.02 zoom=0.02 horizontal_flip vertical_flip",
        ),
        (Augmentation(contrast=0.1, brightness=1e-7), "1 brightness=1e-07 contrast=0.1"),
        (Augmentation(zoom=0.1 + 0.2), "1 zoom=0.30000000000000004"),
        (Augmentation(rotation=-0.0), "none"),
        (Augmentation(rotation=np.float64(2.5)), "1 rotation=2.5"),
    ],
)
def test_a_name_is_canonical(augmentation, name):
    """Rows in somebody's cache lie under these names: raise DRAWING rather than change them."""
    assert augmentation.name == name
    assert Augmentation.from_name(name) == augmentation


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1 ",
        "recipe",
        "rotation=40",
        "1 rotation=40.0",
        "1 rotation=0",
        "1 rotation=040",
        "1  rotation=40",
        "1 rotation=40 ",
        "1 zoom=0.2 rotation=40",
        "1 rotation=40 rotation=40",
        "1 rotation",
        "1 rotation=",
        "1 rotation=nan",
        "1 rotation=400",
        "1 horizontal_flip=yes",
        "1 horizontal_flip=no",
        "1 speed=3",
        "1 none",
        "flip",
    ],
)
def test_a_text_that_is_no_name_is_refused(text):
    with pytest.raises(PipelineError, match="not the name of an augmentation") as caught:
        Augmentation.from_name(text)
    assert repr(text) in caught.value.found


def test_a_name_of_another_version_is_refused_as_such():
    for text in ("2 rotation=40", "0 rotation=40", "2 tilt=3"):
        with pytest.raises(PipelineError, match=f"version {text[0]}") as caught:
            Augmentation.from_name(text)
        assert "version 1" in caught.value.expected


# What somebody types


@pytest.mark.parametrize(
    ("text", "augmentation"),
    [
        ("none", Augmentation()),
        ("mild", PRESETS["mild"]),
        (" textbook ", PRESETS["textbook"]),
        ("rotation=10", Augmentation(rotation=10)),
        ("none,rotation=10", Augmentation(rotation=10)),
        (
            "textbook,rotation=10,vertical_flip=yes",
            replace(PRESETS["textbook"], rotation=10, vertical_flip=True),
        ),
        ("recipe, shear = 0, horizontal_flip = No", replace(
            PRESETS["textbook"], shear=0, horizontal_flip=False)),
        ("vertical_flip=true,zoom=1e-1", Augmentation(vertical_flip=True, zoom=0.1)),
        ("mild,vertical_flip=False", replace(PRESETS["mild"], vertical_flip=False)),
    ],
)  # fmt: skip
def test_presets_and_settings_can_be_typed(text, augmentation):
    assert get_augmentation(text) == augmentation


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [
        ("", "unknown augmentation ''", "textbook, mild, none"),
        ("wild", "unknown augmentation 'wild'", "textbook, mild, none"),
        ("rotation", "unknown augmentation 'rotation'", "rotation=10"),
        ("wild,rotation=3", "unknown augmentation 'wild'", "textbook, mild, none"),
        ("mild,recipe", "'recipe' in the augmentation", "one preset"),
        ("mild,", "'' in the augmentation", "settings"),
        ("mild,vertical_flip", "'vertical_flip' in the augmentation", "settings"),
        ("mild,tilt=3", "no parameter 'tilt'", "rotation, width_shift, height_shift, shear"),
        ("=3", "no parameter ''", "rotation"),
        ("rotation=3,rotation=3", "rotation is set twice", ""),
        ("rotation=", "rotation is ''", "a number from 0 to 180"),
        ("rotation=yes", "rotation is 'yes'", "a number from 0 to 180"),
        ("rotation=10%", "rotation is '10%'", "a number from 0 to 180"),
        ("rotation=181", "rotation is 181.0", "a number from 0 to 180"),
        ("rotation=-1", "rotation is -1.0", "a number from 0 to 180"),
        ("rotation=nan", "rotation is nan", "a number from 0 to 180"),
        ("rotation=inf", "rotation is inf", "a number from 0 to 180"),
        ("width_shift=20", "width_shift is 20.0", "a number from 0 to 1"),
        ("height_shift=1.1", "height_shift is 1.1", "a number from 0 to 1"),
        ("shear=90", "shear is 90.0", "below 90"),
        ("zoom=1", "zoom is 1.0", "below 1"),
        ("brightness=2", "brightness is 2.0", "a number from 0 to 1"),
        ("contrast=1.5", "contrast is 1.5", "a number from 0 to 1"),
        ("horizontal_flip=1", "horizontal_flip is '1'", "yes or no"),
        ("vertical_flip=", "vertical_flip is ''", "yes or no"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(text, found, expected):
    with pytest.raises(PipelineError) as caught:
        get_augmentation(text)
    assert found in caught.value.found
    assert expected in caught.value.expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rotation", True),
        ("rotation", "40"),
        ("rotation", None),
        ("rotation", float("nan")),
        ("rotation", 10**400),
        ("zoom", (0.8, 1.2)),
        ("horizontal_flip", 1),
        ("vertical_flip", "yes"),
        ("vertical_flip", 0.0),
    ],
)
def test_values_of_another_kind_are_refused_in_python_too(name, value):
    with pytest.raises(PipelineError) as caught:
        Augmentation(**{name: value})
    assert name in caught.value.found


def test_augmentations_views_and_presets_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["mild"].rotation = 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        View().theta = 4
    with pytest.raises(TypeError):
        PRESETS["wild"] = ALL


def test_the_tables_name_every_parameter():
    assert set(DRAWN) == {field.name for field in fields(Augmentation)}
    assert {name for drawn in DRAWN.values() for name in drawn} == set(asdict(View()))
    assert set(augment._LIMITS) | set(FLAGS) == set(DRAWN)
    for name in DRAWN:
        assert getattr(ALL, name) != getattr(Augmentation(), name)
