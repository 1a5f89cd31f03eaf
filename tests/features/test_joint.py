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

RECIPE = make_recipe(size=32, precision="float32")
LAYERS = layers_recipe(RECIPE)


def key(number):
    return bytes([number]) * 32, 0


@pytest.fixture
def joint(tmp_path):
    return JointStore([FeatureStore(tmp_path, recipe) for recipe in (RECIPE, LAYERS)])


def rows(count, seed=0):
    return np.random.default_rng(seed).random((count, 512 + LAYERS.shape[2]), np.float32)


def test_each_store_gets_its_part_of_a_row(joint):
    written = rows(3)
    joint.write([key(1), key(2), key(3)], written)
    last, every = joint.stores
    assert np.array_equal(last.read([key(2)]).ravel(), written[1, :512])
    assert np.array_equal(every.read([key(2)]).ravel(), written[1, 512:])
    assert joint.missing([key(1), key(4)]) == [key(4)]
    assert list(joint.shards) == [*last.shards, *every.shards]


def test_a_row_that_one_store_lacks_is_missing_and_the_other_is_not_written_again(joint):
    first, second = rows(1), rows(1, seed=1)
    joint.stores[0].write([key(1)], first[:, :512].reshape(1, *RECIPE.shape))
    assert joint.missing([key(1)]) == [key(1)]
    assert joint.count(Keys.of([key(1)])) == 0
    joint.write([key(1)], second)
    assert joint.missing([key(1)]) == []
    assert joint.count(Keys.of([key(1)])) == 1
    assert np.array_equal(joint.stores[0].read([key(1)]).ravel(), first[0, :512])
    assert len(joint.stores[0].shards) == len(joint.stores[1].shards) == 1


def test_shards_of_others_are_taken_in_by_the_store_that_has_them(joint, tmp_path):
    other = JointStore([FeatureStore(tmp_path, recipe) for recipe in (RECIPE, LAYERS)])
    other.write([key(1)], rows(1))
    assert joint.take_in([*other.shards, "absent.h5"]) == ["absent.h5"]
    assert joint.missing([key(1)]) == []


@pytest.fixture
def photos(tmp_path):
    return paint_classes(tmp_path / "photos", 6)


def test_one_pass_fills_both_stores_and_a_second_run_makes_nothing(photos, tmp_path):
    cache = tmp_path / "cache"
    both = extract(photos, extractor=Extractor(RECIPE, cache=cache, layers=True))
    assert both.made == 12
    assert both.recipes == (RECIPE, LAYERS)
    alone = extract(photos, extractor=Extractor(LAYERS, cache=tmp_path / "alone"))
    assert np.array_equal(both.rows(recipe=LAYERS), alone.rows())
    assert extract(photos, extractor=Extractor(RECIPE, cache=cache, layers=True)).made == 0
    assert extract(photos, extractor=Extractor(RECIPE, cache=cache)).made == 0


def test_unasked_they_are_made_only_where_they_cost_no_further_pass(photos, tmp_path):
    cache = tmp_path / "cache"
    extract(photos, extractor=Extractor(RECIPE, cache=cache))
    dataset = load_dataset(photos)
    plan = Extractor(RECIPE, cache=cache, layers=None).plan(dataset)
    assert (plan.missing, plan.left_out) == (0, 12)
    wanted = Extractor(RECIPE, cache=cache, layers=True).plan(dataset)
    assert (wanted.missing, wanted.left_out) == (12, 0)
    fresh = Extractor(RECIPE, cache=tmp_path / "fresh", layers=None).plan(dataset)
    assert (fresh.missing, fresh.left_out, len(fresh.every_store)) == (12, 0, 2)


def test_a_damaged_shard_of_either_is_made_again_alone(photos, tmp_path):
    cache = tmp_path / "cache"
    extractor = Extractor(RECIPE, cache=cache, layers=True)
    before = extract(photos, extractor=extractor)
    [shard] = (cache / LAYERS.name).glob("*.h5")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    again = extract(photos, extractor=extractor)
    assert again.made == 12
    assert np.array_equal(again.rows(recipe=LAYERS), before.rows(recipe=LAYERS))
    assert len(list((cache / RECIPE.name).glob("*.h5"))) == 1


def test_recipes_of_one_pass_differ_in_their_layer_only():
    fields = {"layer": RECIPE.layer, "shape": RECIPE.shape}
    assert replace(LAYERS, **fields) == RECIPE
