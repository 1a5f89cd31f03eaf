"""`classify` on rows that are read shard by shard: runs like any other, in bounded memory."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import Hears, relabelled, run_json
from pages import Page

from pipeline import Views, get_augmentation
from pipeline.analysis.classes import find_class_problems
from pipeline.analysis.sentences import not_looked_for
from pipeline.backbones.registry import make_recipe
from pipeline.errors import PipelineError
from pipeline.features.exchange import export_features
from pipeline.features.extractor import Extraction
from pipeline.features.keys import keys
from pipeline.features.store import FeatureStore
from pipeline.heads.registry import get_head
from pipeline.models.model import Model
from pipeline.report.page import write_report
from pipeline.runs.run import Interrupted


@pytest.fixture(params=["vgg16", "efficientnet-lite0"])
def recipe(request):
    return make_recipe(request.param, size=64, precision="float32")


def rows_in_shards(place, data, per_shard=16):
    """Write the rows again as many small shards, in the place of one; return them."""
    folder = place.folder / "cache" / place.recipe.name
    store = FeatureStore(place.folder / "cache", place.recipe)
    names = keys(data)
    rows = store.read(names)
    for name in list(store.shards):
        (folder / name).unlink()
    again = FeatureStore(place.folder / "cache", place.recipe)
    for start in range(0, len(names), per_shard):
        part = slice(start, start + per_shard)
        again.write(names[part], rows[part])
    assert len(again.shards) == -(-len(names) // per_shard)
    return rows


@pytest.fixture
def never_whole(monkeypatch):
    """Fail where the rows of all images are read into memory."""

    def fail(*args):
        raise AssertionError("all rows were read")

    monkeypatch.setattr(Extraction, "rows", fail)


@pytest.mark.usefixtures("never_whole")
def test_streamed_heads_are_judged_and_kept_as_any_head_is(place, monkeypatch):
    data = place.data((300, 90, 90))
    rows = rows_in_shards(place, data)
    epochs = []
    run = place.classify(
        data,
        ["logistic", "knn", "linear-svm"],
        stream=True,
        threshold="f1",
        listener=Hears(head_epoch=lambda *epoch: epochs.append(epoch)),
    )
    assert [result.head for result in run.results] == ["logistic", "linear-svm"]
    assert run.failed == {
        "knn": "it needs all rows in memory, and they are read shard by shard: as asked for"
    }
    monkeypatch.setattr("pipeline.models.model.require_same_features", lambda *args: None)
    for result in run.results:
        model = Model.load(run.folder / "models" / result.head)
        assert model.probabilities(rows) == pytest.approx(result.probabilities, abs=1e-6)
        assert model.threshold == result.model.threshold is not None
        losses = {json.dumps(tried): loss for tried, loss in result.candidates}
        assert losses[json.dumps(result.parameters)] == min(losses.values())
        assert result.validation.n == result.test.n == 90
        assert result.validation.log_loss == pytest.approx(min(losses.values()))
        assert result.test.accuracy > 0.6
    assert {name for name, *_ in epochs} == {"logistic", "linear-svm"}
    assert epochs[0] == ("logistic", 1, 40)


def test_rows_that_do_not_fit_are_judged_by_splits_where_nobody_asked_for_folds(place, monkeypatch):
    data = dataclasses.replace(place.data((60, 15, 15)), drawn=("train", "validation", "test"))
    assert place.classify(data).protocol.cv == 5  # 15 test images are too few
    monkeypatch.setattr("pipeline.classification.size.free_memory", lambda: 0)
    run = place.classify(data, threshold="f1")
    assert run.protocol.cv is None
    assert run.best.test.n == 15
    remarks = "".join(run.remarks)
    assert "Cross-validated" not in remarks
    assert "So thresholds were chosen on the validation images alone." in remarks
    with pytest.raises(PipelineError, match="cannot be done with --cv"):
        place.classify(data, cv=5)


def test_figures_are_resampled_by_groups_where_there_are_any(place):
    alone = place.data((60, 60, 60))
    groups = tuple(str(number // 6) for number in range(len(alone)))
    grouped = dataclasses.replace(alone, groups=groups)
    figures = [place.classify(one, stream=True).best.test for one in (alone, grouped)]
    assert figures[0].accuracy == figures[1].accuracy
    assert figures[0].intervals != figures[1].intervals


def test_the_page_says_that_rows_were_streamed_and_what_was_not_looked_for(place_with_pictures):
    place = place_with_pictures
    data = place.data()
    rows = rows_in_shards(place, data)
    run = place.classify(data, stream=True)
    streamed, skipped, *small = run_json(run)["remarks"]
    assert streamed == "Classifiers were trained on rows read shard by shard: as asked for."
    assert "did not look for" in skipped
    assert any("test images" in note for note in small)  # classes can be counted all the same
    assert run.problems is None
    page = Page(write_report(run.folder)).section("heads").text
    for remark in (streamed, skipped, *small):
        assert remark in str(run)
        assert remark.replace("`", "").replace(" ", "") in page.replace(" ", "")
    flat = rows.reshape(len(rows), -1)
    unit = flat / np.linalg.norm(flat, axis=1)[:, None]
    for at, near in zip(run.examples.places, run.examples.neighbours, strict=True):
        nearest = np.argsort(-unit[:90] @ unit[at])[:3]
        assert [one.place for one in near] == nearest.tolist()


def test_many_small_classes_are_counted(place):
    data = place.data()
    many = relabelled(
        data, np.arange(len(data)) % 30, tuple(f"class {number:02}" for number in range(30))
    )
    _, *named = not_looked_for(many)
    assert len(named) <= 3
    assert named[0].startswith("30 classes have fewer than 20 training images (the fewest: class ")
    assert tuple(named) == find_class_problems(many.targets.labels, many.splits, many.classes).notes


def test_test_labels_have_no_say(place):
    data = place.data(noise=0.6)
    rows_in_shards(place, data)
    turned = data.targets.labels.copy()
    turned[90:] = 1 - turned[90:]
    honest, changed = (
        place.classify(labelled, stream=True, threshold="f1").best
        for labelled in (data, relabelled(data, turned))
    )
    assert changed.parameters == honest.parameters
    assert changed.candidates == honest.candidates
    assert changed.model.threshold == honest.model.threshold
    assert np.array_equal(changed.predicted, honest.predicted)
    assert changed.test != honest.test


@pytest.mark.parametrize("head", ["logistic", "linear-svm"])
def test_balanced_classes_count_the_same(place, head):
    data = place.data((600, 200, 200), noise=2.0)
    few = np.arange(len(data)) % 10 == 0  # one in ten is of the second class
    kept = np.flatnonzero(
        (data.targets.labels == 0) | few | np.isin(np.arange(len(data)) % 10, [1])
    )
    data = data.take(kept)
    plain, balanced = (
        place.classify(data, head, stream=True, balanced=one).best for one in (False, True)
    )
    recall = [one.test.confusion[1][1] / sum(one.test.confusion[1]) for one in (plain, balanced)]
    assert recall[1] > recall[0] + 0.2


def test_of_several_poolings_each_head_has_the_one_that_is_best(place):
    data = place.data()
    rows_in_shards(place, data)
    run = place.classify(data, stream=True, pools=["flatten", "max"])
    assert {tried["pool"] for tried, _ in run.best.candidates} == {"flatten", "max"}
    assert len(run.best.candidates) == 2 * len(get_head(run.best.head).grid)


def test_rows_that_do_not_fit_into_memory_are_streamed(place, monkeypatch):
    data = place.data()
    rows_in_shards(place, data)
    needed = 4 * 120 * 12 * 4
    for free, streams in ((needed, False), (needed - 1, True)):
        found = SimpleNamespace(available=free)
        monkeypatch.setattr("psutil.virtual_memory", lambda found=found: found)
        run = place.classify(data, ["logistic", "lda"] if streams else "logistic")
        assert any("read shard by shard" in one for one in run.remarks) is streams
    assert "120 rows need about 0.0 GB of memory, 0.0 GB are free" in run.remarks[0]
    assert "120 rows need" in run.failed["lda"]
    assert "shard" not in str(place.classify(data, stream=False).remarks)


@pytest.mark.usefixtures("never_whole")
@pytest.mark.parametrize(
    ("heads", "settings", "named"),
    [
        (["logistic"], {"search": True}, "--search"),
        (["logistic"], {"cv": 5}, "--cv"),
        (["logistic"], {"views": Views(count=2, augmentation=get_augmentation("mild"))}, "--views"),
        (["knn", "mlp"], {}, "the head knn"),
    ],
)
def test_what_cannot_be_done_shard_by_shard_is_said_before_the_work(
    place, monkeypatch, heads, settings, named
):
    data = place.data()
    monkeypatch.setattr("pipeline.features.extractor.extract", None)
    with pytest.raises(PipelineError, match=f"as asked for.* cannot be done with {named}"):
        place.classify(data, heads, stream=True, **settings)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10))
    with pytest.raises(
        PipelineError, match=r"(?s)GB are free.* cannot be done with .* --no-stream"
    ):
        place.classify(data, heads, **settings)
    assert not place.runs.exists()


def test_a_file_of_features_cannot_be_streamed(place, tmp_path):
    data = place.data()
    export_features(data, place.recipe, rows_in_shards(place, data), tmp_path / "features.h5")
    with pytest.raises(PipelineError, match="is read into memory whole"):
        place.classify(tmp_path / "features.h5", stream=True)


def test_ctrl_c_in_an_epoch_keeps_the_heads_that_are_done(place):
    data = place.data()
    rows_in_shards(place, data)

    def stop(head, done, most):
        if head == "linear-svm":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stopped:
        place.classify(
            data, ["logistic", "linear-svm"], stream=True, listener=Hears(head_epoch=stop)
        )
    run = stopped.value.run
    assert [result.head for result in run.results] == ["logistic"]
    assert run.unfinished == ("linear-svm",)


def test_rows_that_are_all_the_same_are_refused(place):
    data = place.data(noise=0.0)
    folder = place.folder / "cache" / place.recipe.name
    for shard in folder.glob("*.h5"):
        shard.unlink()
    store = FeatureStore(place.folder / "cache", place.recipe)
    names = keys(data)
    for start in range(0, 120, 20):
        store.write(names[start : start + 20], np.ones((20, 1, 1, 12), np.float32))
    with pytest.raises(PipelineError, match="features of all 120 images are the same"):
        place.classify(data, stream=True)


def test_where_there_are_too_many_images_to_compare_the_run_says_so(place, monkeypatch):
    monkeypatch.setattr("pipeline.analysis.problems.QUICK", 119)
    assert "did not look for" in place.classify(place.data()).remarks[0]
