"""A map of all images as a chart: a mark for each, in a colour and shape of its name."""

import xml.etree.ElementTree as ET
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.report.image_map_file import check_map_file, draw_map, write_map

SVG = "{http://www.w3.org/2000/svg}"


def drawn(names, title="photos by class"):
    points = np.random.default_rng(0).random((len(names), 2)).tolist()
    return ET.fromstring(draw_map(points, names, title))


def outline(d):
    """Reduce an outline to the letters of its commands, and the sense of its first line."""
    letters = "".join(letter for letter in d if letter.isalpha())
    return letters, letters == "Mlhz" and float(d.split("l")[1].split()[1].split("h")[0]) > 0


def looks(chart):
    """Tell how the marks of each name in the legend look, and how many are drawn like that."""
    count = Counter()
    for group in chart.iter(f"{SVG}g"):
        first, *others = group.get("class").split()
        if first == "marks":
            count.update((others[0], outline(path.get("d"))) for path in group)
    legend = {}
    for key in chart.iter(f"{SVG}g"):
        first, *others = key.get("class").split()
        if first == "key":
            [path, text] = key
            look = (others[0], outline(path.get("d")))
            legend[text.text] = (look, count[look])
    assert count.total() == sum(number for _, number in legend.values())
    return legend


def test_each_image_is_a_mark_in_the_colour_of_its_name():
    names = ["red"] * 70 + ["blue"] * 30 + ["green"]
    legend = looks(drawn(names))
    assert [*legend] == ["blue (30)", "green (1)", "red (70)"]
    assert [number for _, number in legend.values()] == [30, 1, 70]
    assert [look[0] for look, _ in legend.values()] == ["c0", "c1", "c2"]


def test_a_mark_is_where_the_image_is():
    chart = ET.fromstring(draw_map([(0, 0), (1, 1), (0.5, 0.25)], ["a", "a", "a"], "x"))
    [_, right] = [float(chart.get(side)) for side in ("height", "width")]
    paths = [
        path for group in chart.iter(f"{SVG}g") if "marks" in group.get("class") for path in group
    ]
    starts = [path.get("d")[1:].partition("a")[0].split() for path in paths]
    x, y = np.array(starts, float).T
    assert x + 5 == pytest.approx([12, right - 12, right / 2])
    assert y == pytest.approx([44, 32 + right - 12, 44 + (right - 24) / 4])


@pytest.mark.parametrize("count", [1, 8, 9, 32])
def test_as_many_names_as_colours_and_shapes_can_be_told_apart(count):
    legend = looks(drawn([f"{number:02}" for number in range(count)] * 2))
    assert len(legend) == len({look for look, _ in legend.values()}) == count


def test_of_more_names_the_rarer_share_a_mark_of_their_own():
    names = [f"{number:03}" for number in range(100)] + [
        f"{number:03}" for number in range(0, 64, 2)
    ]
    legend = looks(drawn(names))
    assert len(legend) == len({look for look, _ in legend.values()}) == 33
    assert legend.popitem() == ("68 others (68)", (("plain", ("Mlhz", False)), 68))
    assert [*legend] == [f"{number:03} (2)" for number in range(0, 64, 2)]


def test_what_is_nothing_to_look_for_is_grey_and_below_the_rest():
    names = ["label not suspicious"] * 5 + ["label likely wrong"] + ["label not checked"] * 2
    chart = drawn(names)
    legend = looks(chart)
    assert [look[0] for look, _ in legend.values()] == ["c0", "plain", "plain"]
    assert len({look for look, _ in legend.values()}) == 3
    groups = [
        group.get("class") for group in chart.iter(f"{SVG}g") if "marks" in group.get("class")
    ]
    assert groups == ["marks plain", "marks plain", "marks c0"]


def test_it_is_described_for_those_who_do_not_see_it():
    chart = drawn(["red", "blue", "red"])
    assert chart.get("role") == "img"
    assert chart.find(f"{SVG}title").text == "photos by class: 3 images"
    assert "blue: 1, red: 2." in chart.find(f"{SVG}desc").text
    assert drawn(["red"]).find(f"{SVG}title").text == "photos by class: 1 image"


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        'a "b" & c',
        "a,b",
        "=1+1",
        "größe 猫",
        "\x1b[31m",
        "\udcff",
        "\uffff",
        "x" * 300,
    ],
)
def test_names_from_outside_cannot_break_it(name):
    content = draw_map([(0, 0), (1, 1)], [name, "other"], name)
    chart = ET.fromstring(content.encode())
    assert not [*chart.iter(f"{SVG}script")]
    assert len(looks(chart)) == 2
    assert max(map(len, looks(chart))) <= 27
    assert "<script" not in content
    if name.isprintable() and len(name) < 10:
        assert f"{name} (1)" in looks(chart)


def test_its_colours_are_written_out_and_on_paper():
    content = draw_map([(0, 0)], ["red"], "x")
    assert "var(" not in content
    assert 'class="paper"' in content


def test_ten_thousand_images_are_a_file_of_less_than_a_megabyte():
    points = np.random.default_rng(0).random((10_000, 2)).tolist()
    assert len(draw_map(points, ["red", "blue"] * 5000, "x")) < 800_000


@pytest.mark.parametrize(
    ("name", "coloured", "message"),
    [
        ("map.png", False, r"map\.png is not the name of a map.*\n.*ends in \.csv or \.svg"),
        ("map", False, r"ends in \.csv or \.svg"),
        ("there.svg", False, "exists already; nothing is ever overwritten"),
        ("link.csv", False, "exists already; nothing is ever overwritten"),
        ("map.csv", True, "is a table, which has no colours"),
        ("nowhere/map.svg", False, "there is no folder .*nowhere"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(tmp_path, name, coloured, message):
    (tmp_path / "there.svg").write_text("mine")
    (tmp_path / "link.csv").symlink_to(tmp_path / "gone")
    with pytest.raises(PipelineError, match=message):
        check_map_file(tmp_path / name, coloured=coloured)
    assert (tmp_path / "there.svg").read_text() == "mine"
    check_map_file(tmp_path / "new.SVG", coloured=True)
    check_map_file(tmp_path / "new.csv")


@pytest.mark.parametrize("ending", ["csv", "svg"])
def test_it_is_written_whole_or_not_at_all(tmp_path, ending, monkeypatch):
    file = tmp_path / f"map.{ending}"
    table = SimpleNamespace(
        dataset=SimpleNamespace(name="photos"),
        column=lambda kind: ["red", "blue"],
        points=lambda: [(0, 0), (1, 1)],
        map_csv=lambda: b"path,label\n",
    )

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(PipelineError, match=r"cannot write .*No space left.*\n.*--out"):
            write_map(table, file)
    assert [*tmp_path.iterdir()] == []

    def also(*_, **__):  # another process, after the check
        file.write_text("theirs")
        return ["red", "blue"]

    table.column, table.map_csv = also, lambda: str(also()).encode()
    with pytest.raises(PipelineError, match=r"cannot write .*File exists"):
        write_map(table, file)
    assert file.read_text() == "theirs"
