"""What the page is given: answers for pictures, images by number, and errors in plain words."""

import base64
import csv
import html
import io
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from asking import ask
from conftest import classify, paint_classes
from hostile import hostile_images, samples
from served import PORT, Served, paint, picture

from pipeline import heat_map
from pipeline.analysis import image_table
from pipeline.app import trying
from pipeline.app.guard import Secrets
from pipeline.app.opening import open_site
from pipeline.app.trying import Trial
from pipeline.data.dataset import SPLITS
from pipeline.data.loading import list_dataset
from pipeline.data.table import list_csv
from pipeline.errors import PipelineError
from pipeline.features.extractor import Extractor
from pipeline.models.model import Model
from pipeline.models.portable import Portable

FULL = os.environ.get("TORTURE", "") not in ("", "0")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return Served(tmp_path_factory.mktemp("served"))


def test_a_picture_gets_the_answer_that_predict_gives(served, tmp_path):
    file = tmp_path / "new.png"
    file.write_bytes(picture())
    [expected] = served.run.best.model.predict([file], extractor=served.extractor)
    answer = served.post("/predict", file.read_bytes()).json
    assert answer["label"] == expected.label == "red"
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-12)
    assert answer["error"] is None


def test_an_answer_tells_the_threshold_and_follows_it(tmp_path):
    aim = Served(tmp_path, threshold="recall=0.95", positive="red")
    answer = aim.post("/predict", picture((70, 70, 180))).json
    assert answer["threshold"]["aim"] == "recall=0.95"
    called = "red" if answer["probabilities"]["red"] >= answer["threshold"]["value"] else "blue"
    assert answer["label"] == called
    assert "recall 0.95" in aim.ask("/").text


def test_an_answer_names_the_most_similar_images_that_were_learned_from(served):
    similar = served.post("/predict?similar=6", picture()).json["similar"]
    assert len(similar) == 6
    assert {other["label"] for other in similar} == {"red"}
    assert {other["split"] for other in similar} <= {"train", "validation"}
    distances = [other["distance"] for other in similar]
    assert distances == sorted(distances)


@pytest.mark.parametrize("path", ["/predict", "/predict?similar=6", "/map?class=red"])
def test_the_network_stays_loaded_and_sees_a_picture_once(served, path):
    before = served.network.images
    for _ in range(3):
        served.post(path, picture(seed=9))
    assert served.network.images == before + 3


def test_a_map_shows_what_counts_for_a_class(served):
    drawn = served.post("/map?class=red", picture()).json
    found = heat_map(served.run.best.model, picture(), "red", extractor=served.extractor)
    assert drawn["map"] == f"data:image/png;base64,{base64.b64encode(found.overlay()).decode()}"
    assert drawn["where"] == found.where != ""
    assert "no class 'green'" in served.post("/map?class=green", picture()).json["error"]


def test_a_map_against_a_class_only_is_shown_and_nothing_is_said_to_speak_for_it(
    served, monkeypatch
):
    model, extractor = served.run.best.model, served.extractor
    found = heat_map(model, picture(), "red", extractor=extractor)
    found = replace(found, values=-1 - np.abs(found.values))
    monkeypatch.setattr(trying, "heat_map", lambda *_, **__: found)
    drawn = served.post("/map?class=red", picture()).json
    assert drawn["map"].startswith("data:image/png")
    assert drawn["where"] == ""


def test_one_network_is_loaded_for_answers_and_maps(served, networks):
    trial = Trial(served.run.best.model, Extractor(cache=served.home / "cache"))
    for _ in range(2):
        assert trial.answer(picture())["label"] == "red"
        assert trial.heat_map(picture(), "red")["where"]
    assert len(networks) == 1


def test_an_exported_file_has_maps_where_its_run_lies_beside_it(served):
    model, content = served.run.best.model, picture()
    kept = replace(model, estimator=None, original=lambda: model, portable=Portable)
    expected = Trial(model, served.extractor).heat_map(content, "red")
    assert Trial(kept, served.extractor).heat_map(content, "red") == expected


def test_an_exported_file_alone_has_maps_of_hidden_parts(served):
    model, content = served.run.best.model, picture()

    class Exported:
        def probabilities(self, pixels):
            return model.probabilities(served.network(pixels))

    alone = replace(model, estimator=None, portable=Exported())
    extractor = replace(served.extractor, forward=None)
    drawn = Trial(alone, extractor).heat_map(content, "red")
    expected = heat_map(alone, content, "red", extractor=extractor)
    assert drawn["where"] == expected.where != ""


@pytest.mark.parametrize("kind", ["/predict?similar=6", "/map?class=red", "/preview"])
def test_hostile_pictures_are_answered_and_do_no_harm(served, kind):
    for name, content in hostile_images(seed=20, count=500 if FULL else 60):
        answer = served.post(kind, content)
        assert answer.status in (200, 422), name
        if answer.status == 422:
            assert answer.json["error"], name
    assert served.post("/predict", picture()).json["label"] == "red"


@pytest.mark.parametrize("name", samples())
def test_every_format_is_answered_and_can_be_shown(served, name):
    content = samples()[name]
    answer = served.post("/predict", content).json
    shown = served.post("/preview", content)
    assert (answer["error"] is None) == (shown.status == 200)
    if shown.status == 200:
        assert shown.body.startswith(b"\xff\xd8")


def test_nothing_that_was_sent_is_kept(served, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(served.home.rglob("*"))
    served.post("/predict", picture(seed=77))
    served.post("/predict", b"no picture")
    assert list(tmp_path.iterdir()) == []
    assert sorted(served.home.rglob("*")) == before


def test_all_images_have_a_name_a_place_and_colours(served):
    images = served.ask("/images").json
    points = served.ask("/points").json
    assert len(images["names"]) == len(points) == 40
    assert all(0 <= value <= 1 for point in points for value in point)
    columns = images["colours"]
    for kind in images["more"]:
        columns[kind] = served.ask(f"/column?kind={kind.replace(' ', '%20')}").json
    assert set(columns) == {"class", "split", "predicted class", "suspicious label", "copy"}
    for column in columns.values():
        assert len(column["of"]) == 40
        assert set(column["of"]) == set(range(len(column["names"])))
    assert columns["class"]["names"] == ["blue", "red"]
    assert {"no copy", "label not checked"} <= set(images["plain"])
    assert set(columns["split"]["names"]) == set(SPLITS)
    assert columns["predicted class"] == columns["class"]


def test_images_are_listed_while_their_map_is_made(served, monkeypatch):
    begun, made = threading.Event(), threading.Event()
    monkeypatch.setattr(image_table, "map_images", lambda _: begun.set() or made.wait(20) or 1 / 0)
    with ThreadPoolExecutor() as pool:
        try:
            pool.submit(served.ask, "/points")
            assert begun.wait(10)
            listed = pool.submit(served.ask, "/images").result(timeout=5)
            assert not made.is_set()
        finally:
            made.set()
    assert len(listed.json["names"]) == 40


def test_copies_and_labels_likely_wrong_are_coloured_also_beside_images_without_a_label(
    tmp_path, monkeypatch
):
    place = Served(tmp_path)
    (place.photos / "blue" / "000.png").rename(place.photos / "a.png")

    def found(dataset, rows, **_):
        assert dataset.classes == ("blue", "red")
        assert len(dataset) == len(rows) == 39
        ends = [(3, 4, True), (1, 2, False), (3, 7, False)]  # those across splits come first
        pairs = [SimpleNamespace(first=a, second=b, across=across) for a, b, across in ends]
        suspects = [SimpleNamespace(place=5, likely=True), SimpleNamespace(place=6, likely=False)]
        return SimpleNamespace(
            labels=SimpleNamespace(suspects=suspects, judged=39),
            duplicates=SimpleNamespace(pairs=pairs),
        )

    monkeypatch.setattr(image_table, "find_problems", found)
    site = open_site(place.photos, run=place.run.folder, extractor=place.extractor)
    names = site.collection.columns()["names"]
    labelled = [name for name in names if name != "a.png"]

    def those(kind, name):
        column = site.collection.column(kind)
        number = column["names"].index(name)
        return [names[at] for at, value in enumerate(column["of"]) if value == number]

    assert those("suspicious label", "label likely wrong") == [labelled[5]]
    assert those("suspicious label", "label not checked") == ["a.png"]
    assert those("copy", "copies not looked for") == ["a.png"]
    assert those("copy", "copy") == [*labelled[1:3], labelled[7]]
    assert those("copy", "copy in another split") == labelled[3:5]
    assert any("other images, labels or splits" in note for note in site.notes)


def test_labels_that_cannot_be_checked_are_not_called_right(served):
    assert served.site.collection.column("suspicious label")["names"] == ["label not checked"]


def test_images_without_a_label_are_shown_as_such(tmp_path):
    place = Served(tmp_path)
    for number in range(5):
        (place.photos / "blue" / f"00{number}.png").rename(place.photos / f"{number}.png")
    site = open_site(place.photos, run=place.run.folder, extractor=place.extractor)
    column = site.collection.columns()["colours"]["class"]
    assert column["names"] == ["blue", "no label", "red"]
    assert column["of"].count(1) == 5
    assert len(site.collection.column("suspicious label")["of"]) == 40
    assert site.collection.column("predicted class")["names"] == ["blue", "red"]
    similar = site.trial.answer(picture((70, 70, 180)), similar=20)["similar"]
    assert {other["label"] for other in similar} == {"blue", "red"}  # nobody learned from others


def test_pictures_are_given_by_number_and_only_while_they_are_what_they_were(tmp_path):
    place = Served(tmp_path)
    names = place.ask("/images").json["names"]
    small = place.ask("/images/0/thumbnail")
    assert small.headers["content-type"] == "image/jpeg"
    assert small.body.startswith(b"\xff\xd8")
    (place.photos / names[0]).write_bytes(picture())
    refused = place.ask("/images/0/thumbnail")
    assert refused.status == 422
    assert "changed" in refused.json["error"]


@pytest.mark.parametrize(
    "path",
    [
        *("/images/40/thumbnail", "/images/999999999999999999999/picture", "/images/-1/thumbnail"),
        *("/images/0/other", "/images/../../etc/passwd", "/images/0/thumbnail/../../x"),
        *("/images/%2e%2e%2fetc/thumbnail", "/images//etc/passwd/thumbnail", "/etc/passwd", "//"),
        *("/images/0/similar?count=x", "/images/0/similar?count=-1", "/images/40/similar"),
        *(
            "/column?kind=",
            "/column?kind=__class__",
            "/predict",
            "/templates/app.js",
            "/favicon.ico",
        ),
    ],
)
def test_what_is_not_there_is_not_given(served, path):
    answer = served.ask(path)
    assert answer.status in (400, 404, 405, 422), answer.text
    assert "passwd" not in answer.text


def test_a_selection_is_a_csv_that_classify_takes(served):
    answer = served.post("/selection", json.dumps(list(range(40))).encode())
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert {row["label"] for row in rows} == {"blue", "red"}
    file = served.home / "selection.csv"
    file.write_bytes(answer.body)
    run = classify(
        file,
        ["logistic"],
        recipe=served.extractor.recipe,
        cache=served.home / "cache",
        forward=served.network,
        runs=served.home / "again",
    )
    assert run.dataset.digest == served.run.dataset.digest


def test_a_selection_has_the_labels_of_now_and_none_without(served, tmp_path):
    for number in range(6):
        paint(tmp_path / "loose" / f"{number}.png", (180, 70, 70), number)
    labels, extractor = tmp_path / "labels.csv", served.extractor
    site = open_site(tmp_path / "loose", label=True, labels=labels, extractor=extractor)
    app = site.guarded(secrets := Secrets(), PORT)
    cookie = f"{app.cookie}={secrets.session}"

    def saved(numbers=(0, 1, 2, 3, 4, 5)):
        body = json.dumps(numbers).encode()
        return ask(app, f"{secrets.home}selection", "POST", body, cookie=cookie)

    assert "none of these images has a label" in saved().json["error"]
    for number, label in [(2, "red"), (4, "=blue"), (2, "green"), (5, "red")]:
        site.labelling.answer(number, label)
    site.labelling.undo()
    answer = saved()
    assert answer.headers["left-out"] == "4"
    file = tmp_path / "selection.csv"
    file.write_bytes(answer.body)
    listed = list_csv(file)
    assert [(entry.path.name, entry.label) for entry in listed.entries] == [
        *(("2.png", "green"), ("4.png", "=blue"))
    ]


def test_a_selection_without_images_to_train_on_leaves_the_splits_to_classify(served, tmp_path):
    dataset = served.site.collection.dataset
    tested = dataset.where("test").tolist()
    answer = served.post("/selection", json.dumps(tested).encode())
    assert answer.text.startswith("path,label\n")
    assert answer.headers["left-out"] == "0"
    file = tmp_path / "selection.csv"
    file.write_bytes(answer.body)
    list_dataset(file, cache=tmp_path / "cache").check_learnable()


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"{}", b"[40]", b"[-1]", b'["0"]', b"[0.5]", b"[true]", b"[[0]]", b"[" * 10000],
)
def test_a_selection_of_other_things_is_refused(served, body):
    assert served.post("/selection", body).status in (400, 422)


def test_images_most_like_another_leave_it_out(served):
    similar = served.ask("/images/3/similar?count=8").json
    assert len(similar) == 8
    assert 3 not in {other["number"] for other in similar}


def test_the_page_has_the_parts_that_there_is_something_for(served):
    def parts(**given):
        site = open_site(extractor=served.extractor, **given)
        return [key for key in ("try", "look") if f'<section id="{key}"' in site.html()]

    assert parts(data=served.photos) == ["look"]
    assert parts(run=served.run.folder) == ["try"]
    assert parts(data=served.photos, run=served.run.folder) == ["try", "look"]
    with pytest.raises(PipelineError, match="nothing to show"):
        open_site()


def test_the_page_may_load_nothing_from_elsewhere(served):
    page = html.unescape(served.ask("/").text)
    policy = page.partition('Content-Security-Policy" content="')[2].partition('"')[0]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "http" not in page.replace("http-equiv", "")


def test_what_is_to_be_known_of_the_model_stands_on_the_page(served, monkeypatch):
    monkeypatch.setattr(Model, "remark", property(lambda self: "answers differ a little"))
    page = open_site(run=served.run.folder, extractor=served.extractor).html()
    assert '<p class="notice">Answers differ a little.</p>' in page


def test_names_cannot_break_the_page(tmp_path):
    name = "<script>alert(1)</script>"
    place = Served(tmp_path)
    paint_classes(tmp_path / name / "a", count=4)
    site = open_site(tmp_path / name / "a", run=place.run.folder, extractor=place.extractor)
    trial = Trial(place.run.best.model, place.extractor)
    site.trial = trial
    site.name = name
    assert name not in site.html()
    assert "&lt;script&gt;alert(1)" in site.html()


def test_a_cross_validated_run_is_looked_at_without_splits(tmp_path):
    place = Served(tmp_path, splits=False, cv=5)
    assert place.site.notes == place.run.dataset.remarks
    assert place.ask("/images").json["colours"]["split"]["names"] == ["test"]
    assert len(place.post("/predict?similar=6", picture()).json["similar"]) == 6
