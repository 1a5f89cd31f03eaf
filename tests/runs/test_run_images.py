"""How a run's images become rows: read from its document."""

import json

import pytest
from imitated import change, imitate

from pipeline.backbones.registry import make_recipe
from pipeline.errors import PipelineError
from pipeline.runs.images import recipe_of
from pipeline.runs.reading import read_run_document


def changed(folder, **more):
    recipe = json.loads((folder / "run.json").read_text())["recipe"]
    change(folder, recipe={**recipe, **more})
    return read_run_document(folder)


@pytest.mark.parametrize("tuned", [False, True])
def test_images_of_a_fine_tuned_run_are_compared_by_the_last_layer(tmp_path, tuned):
    cut = make_recipe(size=64, layer="block4_pool", precision="float32")
    imitate(tmp_path, history={"loss": [1.0]} if tuned else None)
    if tuned:
        heads = json.loads((tmp_path / "run.json").read_text())["heads"]
        change(tmp_path, heads=[{**head, "candidates": []} for head in heads])
    recipe = recipe_of(changed(tmp_path, layer=cut.layer, shape=cut.shape))
    assert recipe == (make_recipe(size=64, precision="float32") if tuned else cut)


def test_settings_that_cannot_be_read_are_an_error(tmp_path):
    imitate(tmp_path)
    document = changed(tmp_path, unheard_of=1)
    with pytest.raises(PipelineError, match="settings of features cannot be read"):
        recipe_of(document)
