"""Problems with the data, neighbours and maps on the page."""

import json
import shutil

import pytest
from conftest import paint
from imitated import imitate
from pages import nothing_leaves, report, rows_of, speaks

from pipeline.report.page import write_report


@pytest.fixture(scope="module")
def looked_into(tmp_path_factory):
    """A run that was looked into, with its pictures."""
    home = tmp_path_factory.mktemp("runs")
    files = (home / "photos" / f"{number}.png" for number in range(120))
    paths = tuple(paint(file, (90, 90, 200), seed) for seed, file in enumerate(files))
    imitate(home / "mine", heads=("logistic",), paths=paths, skill=0.4, looked_into=True)
    return home / "mine"


@pytest.fixture
def folder(looked_into, tmp_path):
    """A copy of it, to be spoilt."""
    return shutil.copytree(looked_into, tmp_path / "mine")


def document(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def rewrite(folder, name, **fields):
    (folder / f"{name}.json").write_text(json.dumps({**document(folder, name), **fields}))


def test_the_page_shows_what_problems_json_holds_with_pictures(folder):
    found, page = document(folder, "problems"), report(folder)
    section = page.section("problems")
    nothing_leaves(page)
    speaks(page)
    assert [one.text for one in next(section.all("ul")).all("li")] == found["summary"]
    assert {pair["splits"][1] for pair in found["duplicates"]["pairs"]} == {"test"}
    copies, suspects, *_ = section.all("table")
    assert [row[:2] for row in rows_of(copies)] == [["0.png", "118.png"], ["1.png", "119.png"]]
    likely = [one for one in found["labels"]["suspects"] if one["likely"]]
    assert [row[0] for row in rows_of(suspects)] == [
        one["path"].rpartition("/")[2] for one in likely
    ]
    pair = next(section.all("figure"))
    assert len(list(pair.all("img"))) == 2
    assert pair.one("figcaption").text.startswith("train and test , near, similarity 1.000")
    spoken = next(section.all("svg")).attributes["aria-label"].replace("\N{NO-BREAK SPACE}", " ")
    assert found["learning_curve"]["answer"] in spoken


@pytest.mark.parametrize(
    ("points", "low", "told"), [(0.4, -0.2, False), (0.4, 0.1, True), (2.5, -0.2, True)]
)
def test_copies_across_splits_are_told_at_the_top_where_they_matter(folder, points, low, told):
    found = document(folder, "problems")
    leakage = found["summary"][0]
    assert leakage.startswith("2 of 60 test images have a duplicate")
    found["leakage"] |= {"points": points, "low": low, "high": 3.0}
    (folder / "problems.json").write_text(json.dumps(found))
    assert (leakage in report(folder).verdict) == told
    assert leakage in report(folder).section("problems").text


def test_a_page_is_the_same_when_made_again(folder):
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_without_the_two_files_their_parts_are_left_out(folder):
    (folder / "problems.json").unlink()
    (folder / "examples.json").unlink()
    page = report(folder)
    assert not list(page.root.all("section", id="problems"))
    assert not list(page.root.all("img", class_="map"))
    assert "Most like it" not in page.section("mistakes").text
    assert list(page.section("mistakes").all("img"))


def test_each_mistake_has_its_neighbours_and_its_map(folder):
    looked = document(folder, "examples")["images"]
    section = report(folder).section("mistakes")
    *galleries, right = (list(found.children) for found in section.all("ul", class_="gallery"))
    mistakes = [item for gallery in galleries for item in gallery]
    wrong = [one for one in looked if one["label"] != one["predicted"]]
    assert len(mistakes) == len(wrong) > 10
    assert len(right) == len(looked) - len(wrong) == 4
    for item, one in zip([*mistakes, *right], looked):
        near = list(item.one("ul", class_="near").all("li"))
        assert [each.text for each in near] == [
            f"{other['label']} {other['similarity']:.2f}" for other in one["neighbours"]
        ]
        assert [each.one("img").attributes["alt"] for each in near] == [
            f"{other['label']}: {other['path']}" for other in one["neighbours"]
        ]
        spoken = item.one("img", class_="map").attributes["alt"]
        assert spoken.startswith(f"Most of the evidence for {one['predicted']} is at the ")


def test_examples_of_another_head_are_not_shown_as_the_bests(folder):
    rewrite(folder, "examples", head="knn")
    assert not list(report(folder).root.all("img", class_="map"))
