"""The demo data: what it holds, how it is labelled, and what is said where it is missing."""

import importlib.util
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from pipeline.data import demo
from pipeline.data.demo import demo_images
from pipeline.data.loading import load_dataset
from pipeline.data.splits import Shares
from pipeline.errors import DataError

needs_demo = pytest.mark.skipif(
    importlib.util.find_spec("elpv_dataset") is None, reason="the extra demo is not installed"
)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package of the demo's layout, with these lines as its listing."""

    def install(*lines: str) -> Path:
        data = tmp_path / "elpv_dataset" / "data"
        data.mkdir(parents=True)
        (data / "labels.csv").write_text("\n".join(lines) + "\n")
        spec = SimpleNamespace(origin=str(data.parent / "__init__.py"))
        monkeypatch.setattr(demo, "find_spec", lambda name: spec)
        return data

    return install


@needs_demo
def test_the_demo_is_2624_photographs_of_which_687_in_1000_are_functional():
    labels = Counter(label for _, label in demo_images())
    assert labels.total() == 2624
    assert labels.keys() == {"functional", "defective"}
    assert round(labels["functional"] / labels.total(), 3) == 0.687


@needs_demo
def test_each_photograph_of_the_demo_is_there_once():
    paths = [path for path, _ in demo_images()]
    assert len(set(paths)) == 2624
    assert all(path.is_file() for path in paths)
    with Image.open(paths[0]) as image:
        assert image.size == (300, 300)


@needs_demo
def test_the_demo_is_labelled_by_what_its_listing_says():
    images = demo_images()
    listing = images[0][0].parents[1] / "labels.csv"
    with listing.open() as file:
        published = {path: float(probability) for path, probability, _ in map(str.split, file)}
    assert set(published.values()) > {0.0, 1.0}
    for path, label in images:
        probability = published[f"{path.parent.name}/{path.name}"]
        assert label == ("defective" if probability >= 0.5 else "functional")


@needs_demo
def test_the_demo_is_a_data_set_with_the_shares_that_were_asked_for():
    dataset = load_dataset("demo")
    assert (dataset.name, dataset.classes) == ("demo", ("defective", "functional"))
    assert len(dataset) + len(dataset.quarantined) == 2624
    # Each within five standard deviations.
    assert len(dataset.where("test")) / len(dataset) == pytest.approx(0.25, abs=0.042)
    assert len(dataset.where("validation")) / len(dataset) == pytest.approx(0.15, abs=0.035)


def test_a_cell_is_defective_from_a_probability_of_one_half(installed):
    data = installed(
        "images/a.png  0.0                mono",
        "images/b.png  0.3333333333333333 poly",
        "images/c.png  0.5                mono",
        "images/d.png  0.6666666666666666 poly",
        "images/e.png  1.0                mono",
    )
    assert demo_images() == [
        (data / "images" / "a.png", "functional"),
        (data / "images" / "b.png", "functional"),
        (data / "images" / "c.png", "defective"),
        (data / "images" / "d.png", "defective"),
        (data / "images" / "e.png", "defective"),
    ]


@pytest.mark.parametrize("spec", [None, SimpleNamespace(origin=None)])
def test_without_the_package_the_error_names_what_to_install(monkeypatch, spec):
    monkeypatch.setattr(demo, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match="the demo data is not installed") as caught:
        load_dataset("demo")
    assert "pip install 'elpv-dataset" in caught.value.fix


def test_a_demo_package_without_its_listing_is_refused(installed):
    (installed("") / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"cannot read .*labels\.csv: No such file"):
        load_dataset("demo")


def test_a_folder_called_demo_is_a_folder_where_it_is_written_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    for name in ("cats/a.png", "cats/b.png", "dogs/c.png", "dogs/d.png"):
        file = tmp_path / "demo" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    for written in ("./demo", "demo/", Path("demo")):
        dataset = load_dataset(written, shares=Shares(validation=0, test=0))
        assert dataset.classes == ("cats", "dogs")


def test_where_a_folder_is_called_demo_the_demo_is_not_taken_for_what_was_meant(installed):
    installed("images/a.png 0.0 mono", "images/b.png 1.0 mono")
    Path("demo").mkdir()
    with pytest.raises(DataError, match="demo may be the demo data, or the folder demo/") as caught:
        load_dataset("demo")
    assert "./demo" in caught.value.fix


def test_the_demo_names_its_licence_and_its_paper():
    assert "CC BY-NC-SA 4.0" in demo.SOURCE
    assert "Deitsch et al." in demo.SOURCE
