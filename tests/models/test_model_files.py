"""Finding a model: by its own folder, or by its run's."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from damaged import damage, make_other

from pipeline.errors import ModelError, PipelineError
from pipeline.models.files import find_model
from pipeline.runs.reading import read_run_document


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "runs" / "photos"
    for name in ("logistic", "knn"):
        (folder / "models" / name).mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"best": "knn"}))
    return folder


@pytest.mark.parametrize("there_is_a_folder", [False, True])
def test_a_run_named_without_its_folder_is_hinted_at(run_folder, there_is_a_folder):
    """`pipeline predict cats-and-dogs`, where the run is runs/cats-and-dogs."""
    Path("runs").mkdir()
    shutil.copytree(run_folder, "runs/pets")
    if there_is_a_folder:  # the images, say
        Path("pets").mkdir()
    with pytest.raises(ModelError) as caught:
        find_model(Path("pets"))
    assert caught.value.fix == "name the run: runs/pets"
    with pytest.raises(PipelineError) as caught:
        read_run_document(Path("pets"))
    assert caught.value.fix == "name the run: runs/pets"
    with pytest.raises(ModelError) as caught:
        find_model(Path("cars"))
    assert caught.value.fix == ""


def test_a_runs_model_is_the_head_asked_for_or_else_its_best(run_folder):
    assert find_model(run_folder) == run_folder / "models" / "knn"
    assert find_model(run_folder, "logistic") == run_folder / "models" / "logistic"


def test_a_head_from_elsewhere_has_a_folder_whose_name_all_systems_allow(run_folder):
    folder = run_folder / "models" / "some.module--factory"
    folder.mkdir()
    assert find_model(run_folder, "some.module:factory") == folder


def test_a_damaged_run_json_is_one_error_or_names_a_head(run_folder):
    file = run_folder / "run.json"
    whole = file.read_bytes()
    for seed in range(200):
        file.write_bytes(damage(whole, seed))
        with contextlib.suppress(ModelError):
            assert find_model(run_folder).parent == run_folder / "models"


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "link", "socket"])
def test_a_run_json_that_is_not_a_regular_file_is_not_read(run_folder, kind):
    (run_folder / "run.json").unlink()
    make_other(run_folder / "run.json", kind)
    with pytest.raises(ModelError, match=r"run\.json cannot be read"):
        find_model(run_folder)


def test_a_models_own_folder_is_itself(run_folder):
    folder = run_folder / "models" / "knn"
    assert find_model(folder) == folder


def test_choosing_a_head_where_there_is_no_run_is_an_error(run_folder):
    with pytest.raises(ModelError, match=r"(?s)is not a run.*leave --head away"):
        find_model(run_folder / "models" / "knn", "logistic")


@pytest.mark.parametrize("head", ["dense", "..", "../..", "knn/../logistic"])
def test_a_head_that_a_run_has_not_is_answered_with_those_it_has(run_folder, head):
    with pytest.raises(ModelError, match=r"(?s)has no head.*one of knn, logistic"):
        find_model(run_folder, head)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null"])
def test_a_damaged_run_file_is_an_error_that_names_the_way_round(run_folder, content):
    (run_folder / "run.json").write_text(content)
    with pytest.raises(ModelError, match=r"(?s)run\.json cannot be read.*models/"):
        find_model(run_folder)
