"""Several stores filled by one pass: each holds its own part, and what one lacks is made again."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import paint_classes

from pipeline.backbones.registry import layers_recipe, make_recipe
from pipeline.data.loading import load_dataset
from pipeline.features.extractor import Extractor, extract
from pipeline.features.joint import JointStore
from pipeline.features.keys import Keys
from pipeline.features.store import FeatureStore


@pytest.fixture(params=["vgg16", "efficientnet-lite0"])
def recipe(request):
    return make_recipe(request.param, size=32, precision="float32")


@pytest.fixture
def layers(recipe):
    return layers_recipe(recipe)


def key(number):
    return bytes([number]) * 32, 0


@pytest.fixture
def joint(tmp_path, recipe, layers):
    return JointStore([FeatureStore(tmp_path, each) for each in (recipe, layers)])


@pytest.fixture
def rows(recipe, layers):
    width = recipe.shape[2] + layers.shape[2]  # at 32 pixels there is one place
    return lambda count, seed=0: np.random.default_rng(seed).random((count, width), np.float32)


def test_each_store_gets_its_part_of_a_row(joint, rows, recipe):
    width = recipe.shape[2]
    written = rows(3)
    joint.write([key(1), key(2), key(3)], written)
    last, every = joint.stores
    assert np.array_equal(last.read([key(2)]).ravel(), written[1, :width])
    assert np.array_equal(every.read([key(2)]).ravel(), written[1, width:])
    assert joint.missing([key(1), key(4)]) == [key(4)]
    assert list(joint.shards) == [*last.shards, *every.shards]


def test_a_row_that_one_store_lacks_is_missing_and_the_other_is_not_written_again(
    joint, recipe, rows
):
    width = recipe.shape[2]
    first, second = rows(1), rows(1, seed=1)
    joint.stores[0].write([key(1)], first[:, :width].reshape(1, *recipe.shape))
    assert joint.missing([key(1)]) == [key(1)]
    assert joint.count(Keys.of([key(1)])) == 0
    joint.write([key(1)], second)
    assert joint.missing([key(1)]) == []
    assert joint.count(Keys.of([key(1)])) == 1
    assert np.array_equal(joint.stores[0].read([key(1)]).ravel(), first[0, :width])
    assert len(joint.stores[0].shards) == len(joint.stores[1].shards) == 1


def test_shards_of_others_are_taken_in_by_the_store_that_has_them(
    joint, tmp_path, recipe, layers, rows
):
    other = JointStore([FeatureStore(tmp_path, each) for each in (recipe, layers)])
    other.write([key(1)], rows(1))
    assert joint.take_in([*other.shards, "absent.h5"]) == ["absent.h5"]
    assert joint.missing([key(1)]) == []


@pytest.fixture
def photos(tmp_path):
    return paint_classes(tmp_path / "photos", 6)


def test_one_pass_fills_both_stores_and_a_second_run_makes_nothing(
    photos, tmp_path, recipe, layers
):
    cache = tmp_path / "cache"
    both = extract(photos, extractor=Extractor(recipe, cache=cache, layers=True))
    assert both.made == 12
    assert both.recipes == (recipe, layers)
    alone = extract(photos, extractor=Extractor(layers, cache=tmp_path / "alone"))
    assert np.array_equal(both.rows(recipe=layers), alone.rows())
    assert extract(photos, extractor=Extractor(recipe, cache=cache, layers=True)).made == 0
    assert extract(photos, extractor=Extractor(recipe, cache=cache)).made == 0


def test_unasked_they_are_made_only_where_they_cost_no_further_pass(photos, tmp_path, recipe):
    cache = tmp_path / "cache"
    extract(photos, extractor=Extractor(recipe, cache=cache, layers=False))
    dataset = load_dataset(photos)
    plan = Extractor(recipe, cache=cache).plan(dataset)
    assert (plan.missing, plan.left_out) == (0, 12)
    wanted = Extractor(recipe, cache=cache, layers=True).plan(dataset)
    assert (wanted.missing, wanted.left_out) == (12, 0)
    fresh = Extractor(recipe, cache=tmp_path / "fresh").plan(dataset)
    assert (fresh.missing, fresh.left_out, len(fresh.every_store)) == (12, 0, 2)


def test_a_damaged_shard_of_either_is_made_again_alone(photos, tmp_path, recipe, layers):
    cache = tmp_path / "cache"
    extractor = Extractor(recipe, cache=cache, layers=True)
    before = extract(photos, extractor=extractor)
    [shard] = (cache / layers.name).glob("*.h5")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    again = extract(photos, extractor=extractor)
    assert again.made == 12
    assert np.array_equal(again.rows(recipe=layers), before.rows(recipe=layers))
    assert len(list((cache / recipe.name).glob("*.h5"))) == 1


def test_recipes_of_one_pass_differ_in_their_layer_only(recipe, layers):
    fields = {"layer": recipe.layer, "shape": recipe.shape}
    assert replace(layers, **fields) == recipe
