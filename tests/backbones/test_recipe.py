import json
from dataclasses import fields, replace

import pytest

from pipeline.backbones.recipe import SCHEMA, Recipe
from pipeline.errors import StoreError

OTHER = {"shape": (1, 1, 1), "size": 99}


@pytest.mark.parametrize("field", [field.name for field in fields(Recipe)])
def test_a_change_of_any_field_is_another_fingerprint_and_another_folder(recipe, field):
    changed = replace(recipe, **{field: OTHER.get(field, "something else")})
    assert changed.fingerprint != recipe.fingerprint
    assert changed.name != recipe.name


def test_the_fingerprint_is_the_same_in_every_process_and_release():
    known = Recipe(
        backbone="vgg16",
        weights="0" * 64,
        layer="block5_pool",
        shape=(4, 4, 512),
        size=150,
        decoding="1",
        resize="bilinear",
        scaling="caffe",
        precision="float32",
        engine="tensorflow",
    )
    assert known.name == "vgg16-block5_pool-150-8570244bf7b4"


def test_what_was_written_is_read_back(recipe):
    assert Recipe.from_json(recipe.to_json(), source="here") == recipe


def test_a_newer_schema_is_refused_with_what_to_do(recipe):
    document = json.loads(recipe.to_json()) | {"schema": SCHEMA + 1}
    with pytest.raises(StoreError, match=r"(?s)there is of schema version 2.*update"):
        Recipe.from_json(json.dumps(document), source="there")


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document["recipe"].update(size=151),
        lambda document: document["recipe"].pop("size"),
        lambda document: document["recipe"].update(colour="blue"),
        lambda document: document["recipe"].update(shape=4),
        lambda document: document.pop("recipe"),
        lambda document: document.pop("schema"),
    ],
)
def test_a_recipe_file_that_was_changed_is_refused(recipe, damage):
    document = json.loads(recipe.to_json())
    damage(document)
    with pytest.raises(StoreError, match="damaged"):
        Recipe.from_json(json.dumps(document), source="there")


def test_a_recipe_file_cut_short_is_refused(recipe):
    with pytest.raises(StoreError, match="damaged"):
        Recipe.from_json(recipe.to_json()[:40], source="there")
