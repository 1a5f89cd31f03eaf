"""A head judged by the splits, by a search, by nested cross-validation: who has a say in what."""

import dataclasses
import html
import signal
import threading
import time
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from conftest import classify, relabelled, run_json
from sklearn.metrics import average_precision_score, log_loss

from pipeline.analysis import problems
from pipeline.analysis.leakage import measure_leakage
from pipeline.classification import fitting
from pipeline.classification import task as task_module
from pipeline.classification.in_memory import RowsInMemory
from pipeline.classification.task import Task
from pipeline.classification.variants import ViewedRows
from pipeline.errors import PipelineError
from pipeline.evaluation.folds import search_folds
from pipeline.evaluation.metrics import evaluate
from pipeline.evaluation.protocol import Protocol
from pipeline.evaluation.threshold import Aim, choose_threshold
from pipeline.features.extractor import Extractor
from pipeline.features.keys import keys
from pipeline.features.store import FeatureStore
from pipeline.features.views import Views
from pipeline.heads.estimators import CalibrationFolds
from pipeline.heads.registry import Head, get_head
from pipeline.models.files import find_model
from pipeline.models.model import Model
from pipeline.report.first_screen import first_screen
from pipeline.report.sections import SECTIONS
from pipeline.report.verdict import how_chosen
from pipeline.runs.reading import read_run


def judge(task, head):
    return RowsInMemory(task).judge(head)


def rows_of(place, data):
    return FeatureStore(place.folder / "cache", place.recipe).read(keys(data))


def task_on(place, data, *, seed=0, **settings):
    protocol = Protocol(**settings)
    if protocol.cv is not None:
        data = data.all_in("test")
    rows = ViewedRows.plain(place.recipe, rows_of(place, data))
    return Task(data, (place.recipe,), protocol, seed, variants=[rows])


class Means:
    """Says how near a row is to the mean of each class; remembers what it was given."""

    def __init__(self, log, seed, *, sharpness=1.0, epochs=None, **options):
        self.log, self.seed, self.sharpness, self.epochs = log, seed, sharpness, epochs
        self.options = options

    def fit(self, rows, labels, validation_data=None, on_epoch=None):
        self.classes_ = np.unique(labels)
        self.means = np.stack([rows[labels == one].mean(axis=0) for one in self.classes_])
        self.best_epoch_, self.history_ = 4, {"loss": [1.0]}
        if validation_data is not None:  # how long it goes on depends on what it watches
            watched, truth = validation_data
            hits = (self.predict_proba(watched).argmax(axis=1) == truth).mean()
            self.sharpness, self.best_epoch_ = 1 + hits, round(10 * hits)
            self.validation_p_ = self.predict_proba(watched)
        self.log.append((self, rows.copy(), labels.copy(), validation_data))
        return self

    def predict_proba(self, rows):
        distances = np.linalg.norm(rows[:, None] - self.means, axis=2)
        scores = np.exp(-self.sharpness * distances)
        return scores / scores.sum(axis=1, keepdims=True)


def means_head(log, *, early_stopping=False, calibrated=False):
    grid = tuple({"sharpness": sharpness} for sharpness in (3.0, 1.0, 0.3))
    return Head(
        "means",
        lambda seed, **parameters: Means(log, seed, **parameters),
        ({},) if early_stopping else grid,
        early_stopping=early_stopping,
        calibrated=calibrated,
    )


def the_folds(data, count=5):
    return [np.arange(fold, len(data), count) for fold in range(count)]


# --- search -------------------------------------------------------------------------------


def test_a_search_judges_candidates_on_folds_of_training_and_validation_images(place):
    data = place.data(noise=0.6)
    task, head = task_on(place, data, search=True), get_head("logistic")
    [folds] = task.folds
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(90))
    flat = rows_of(place, data).reshape(120, -1)
    result = judge(task, head)
    for parameters, loss in result.candidates:
        p = np.empty((90, 2))
        for fold in folds:
            others = np.setdiff1d(np.arange(90), fold)
            fitted = head.build(0, **parameters).fit(flat[others], data.targets.labels[others])
            p[fold] = fitted.predict_proba(flat[fold])
        p /= p.sum(axis=1, keepdims=True)  # float32 to float64
        assert loss == pytest.approx(log_loss(data.targets.labels[:90], p), abs=1e-6)
    best = min(result.candidates, key=lambda one: one[1])
    assert result.parameters == best[0]
    assert result.validation.log_loss == pytest.approx(best[1])
    assert result.validation.n == 90
    final = head.build(0, **best[0]).fit(flat[:90], data.targets.labels[:90])
    assert result.probabilities == pytest.approx(final.predict_proba(flat), abs=1e-6)
    assert result.test.n == 30


@pytest.mark.parametrize("name", ["logistic", "rbf-svm", "dense"])
def test_some_folds_tell_the_best_kind_of_rows_and_all_what_is_chosen_on_it(
    place, monkeypatch, name
):
    monkeypatch.setattr(fitting, "_ENOUGH_TO_TELL_KINDS", 30)  # of 90, in folds of 18
    tried, losses = [], []

    def noted(task, trials, rounds, seed):
        [pairs] = rounds
        grid = [each for _, head in trials for each in head.grid]
        tried.append(({each["pool"] for each in grid}, len(grid), len(pairs)))
        [candidates] = try_candidates(task, trials, rounds, seed)
        losses.extend(each.log_loss(data.targets.labels) for each in candidates)
        return [candidates]

    try_candidates = fitting.try_candidates
    data, head = place.data(noise=0.6), get_head(name)
    recipe = replace(place.recipe, shape=(2, 2, 3))

    def judged(*pools):
        rows = ViewedRows.plain(recipe, rows_of(place, data).reshape(-1, *recipe.shape), pools)
        return judge(Task(data, (recipe,), Protocol(search=True), 0, variants=[rows]), head)

    alone = {pool: judged(pool) for pool in ("flatten", "average")}
    monkeypatch.setattr(fitting, "try_candidates", noted)
    both = judged("flatten", "average")
    best, others = both.parameters["pool"], len(head.grid) - 1
    assert best == ("flatten" if losses[0] < losses[1] else "average")
    assert tried == [
        ({"flatten"}, 1, 2),
        ({"average"}, 1, 2),
        ({best}, 1, 3),
        ({best} if others else set(), others, 5),
    ]
    assert sorted(loss for _, loss in both.candidates) == pytest.approx(
        sorted(loss for _, loss in alone[best].candidates)
    )
    assert both.probabilities == pytest.approx(alone[best].probabilities)
    assert both.best_epoch == alone[best].best_epoch


def test_test_labels_have_no_say_in_a_search(place):
    data = place.data(noise=0.6)
    turned = data.targets.labels.copy()
    turned[90:] = 1 - turned[90:]
    honest, other = (
        judge(task_on(place, one, search=True, threshold="f1"), get_head("rbf-svm"))
        for one in (data, relabelled(data, turned))
    )
    assert other.parameters == honest.parameters
    assert other.candidates == honest.candidates
    assert other.model.threshold == honest.model.threshold
    assert np.array_equal(other.predicted, honest.predicted)
    assert other.test != honest.test


def test_after_a_search_a_head_that_stops_by_validation_learns_from_all_for_as_long(place):
    log = []
    task = task_on(place, place.data(), search=True)
    judge(task, means_head(log, early_stopping=True))
    *searched, (last, rows, _, watched) = log
    assert len(searched) == 5
    for (estimator, _, _, seen), fold in zip(searched, task.folds[0], strict=True):
        assert len(seen[0]) == len(fold)
        assert estimator.epochs is None
    assert watched is None
    assert len(rows) == 90
    assert last.epochs == round(np.mean([one.best_epoch_ for one, *_ in searched]))


def test_a_head_that_stops_by_validation_is_not_judged_by_the_epoch_that_suits_it(place):
    """Else it would be chosen over heads that are as good."""
    data, head = place.data(noise=0.6), get_head("dense")
    result = judge(task_on(place, data), head)
    network, validation = result.model.estimator, data.where("validation")
    truth = data.targets.labels[validation]
    judged, own = (
        evaluate(truth, p, p.argmax(axis=1)).log_loss
        for p in (network.validation_p_, result.probabilities[validation])
    )
    assert result.validation.log_loss == pytest.approx(judged, rel=1e-5)
    assert judged > own + 1e-4


@pytest.mark.parametrize("protocol", [{"search": True}, {"cv": 5}])
def test_networks_fitted_side_by_side_are_those_fitted_one_after_the_other(
    place, monkeypatch, protocol
):
    data, head = place.data(noise=0.6), get_head("dense")
    quick = replace(head, build=lambda seed, **options: head.build(seed, **{"epochs": 3} | options))
    at_once, found = [], []
    pool = fitting.ThreadPoolExecutor

    def counted(count):
        at_once.append(count)
        return pool(count)

    monkeypatch.setattr(fitting, "ThreadPoolExecutor", counted)
    for cores in (1, 8):
        monkeypatch.setattr(fitting.joblib, "cpu_count", lambda cores=cores: cores)
        found.append(judge(task_on(place, data, **protocol), quick))
    one, other = found
    assert at_once == [1, 5]
    assert np.array_equal(one.probabilities, other.probabilities)
    assert one.candidates == other.candidates
    rows = rows_of(place, data)
    monkeypatch.setattr(fitting, "free_memory", lambda: 7 * rows.nbytes)
    judge(task_on(place, data, **protocol), quick)
    assert at_once == [1, 5, 2]  # each takes three times what 120 rows do


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, ValueError])
def test_when_a_fit_fails_or_is_interrupted_all_networks_end_with_their_epoch(
    place, monkeypatch, stopped
):
    begun, went_on = threading.Barrier(5, timeout=30), []
    before = set(threading.enumerate())

    class Endless(Means):
        def fit(self, rows, labels, validation_data=None, on_epoch=None):
            if begun.wait() == 4:  # the last to come
                if stopped is ValueError:
                    raise stopped
                time.sleep(0.2)  # until the main thread waits for all five
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            for _ in range(2_000):
                on_epoch(1, 2, {})
                time.sleep(0.01)
            went_on.append(self)

    monkeypatch.setattr(fitting.joblib, "cpu_count", lambda: 5)
    head = replace(means_head([], early_stopping=True), build=lambda seed: Endless([], seed))
    with pytest.raises(stopped):
        judge(task_on(place, place.data(), search=True), head)
    assert not went_on
    left = set(threading.enumerate()) - before
    assert not [one for one in left if one.name.startswith("ThreadPoolExecutor")]


def test_the_page_says_what_a_search_chose_by(place):
    run = place.classify(place.data(noise=0.6), ["logistic", "knn"], search=True)
    assert "lowest log loss in cross-validation" in " ".join(how_chosen(read_run(run.folder)))


# --- cross-validation ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["logistic", "rbf-svm", "means", "early"])
def test_labels_of_a_fold_have_no_say_in_what_is_said_of_it(place, monkeypatch, kind):
    """Neither by fitting, nor by choosing parameters, nor by choosing the threshold."""
    data = place.data(noise=0.6)
    folds = the_folds(data)
    monkeypatch.setattr(task_module, "deal_folds", lambda *args, **options: folds)
    head = (
        get_head(kind)
        if "-" in kind or kind == "logistic"
        else means_head([], early_stopping=kind == "early")
    )

    def judged(labels):
        of_them = relabelled(data, labels)
        return judge(task_on(place, of_them, cv=5, threshold="youden"), head)

    honest = judged(data.targets.labels)
    for fold in folds[:2]:
        turned = data.targets.labels.copy()
        turned[fold] = 1 - turned[fold]
        other = judged(turned)
        assert np.array_equal(other.probabilities[fold], honest.probabilities[fold])
        assert np.array_equal(other.predicted[fold], honest.predicted[fold])
        rest = np.setdiff1d(np.arange(120), fold)
        assert not np.allclose(other.probabilities[rest], honest.probabilities[rest])


def test_parameters_are_chosen_by_fits_that_saw_neither_the_fold_tested_on_nor_that_judged(place):
    data = place.data(noise=0.6)
    task, head = task_on(place, data, cv=4), get_head("logistic")
    [folds] = task.folds
    flat = rows_of(place, data).reshape(120, -1)
    result = judge(task, head)
    for tested in folds:
        losses = []
        for parameters in head.grid:
            surprise = []
            for judged in folds:
                if judged is not tested:
                    learned = np.setdiff1d(np.arange(120), np.concatenate([tested, judged]))
                    fitted = head.build(0, **parameters).fit(
                        flat[learned], data.targets.labels[learned]
                    )
                    p = fitted.predict_proba(flat[judged])
                    surprise += [-np.log(p[np.arange(len(judged)), data.targets.labels[judged]])]
            losses.append(np.mean(np.concatenate(surprise)))
        learned = np.setdiff1d(np.arange(120), tested)
        best = head.grid[int(np.argmin(losses))]
        fitted = head.build(0, **best).fit(flat[learned], data.targets.labels[learned])
        expected = fitted.predict_proba(flat[tested])
        assert result.probabilities[tested] == pytest.approx(expected, abs=1e-6)


def test_a_fit_serves_both_of_the_folds_that_it_leaves_out(place):
    log = []
    judge(task_on(place, place.data(), cv=5), means_head(log))
    to_choose = [rows for _, rows, *_ in log if len(rows) == 72]
    to_test = [rows for _, rows, *_ in log if len(rows) == 96]
    assert (len(to_choose), len(to_test), len(log)) == (3 * 10, 3 * 5, 3 * 15 + 1)


def test_the_model_that_is_kept_is_fitted_on_all_images(place):
    log = []
    result = judge(task_on(place, place.data(), cv=4), means_head(log))
    _, rows, labels, _ = log[-1]
    assert len(rows) == len(labels) == 120
    assert result.model.estimator is log[-1][0]
    assert result.model.estimator.sharpness == result.parameters["sharpness"]
    losses = {one["sharpness"]: loss for one, loss in result.candidates}
    assert losses[result.parameters["sharpness"]] == min(losses.values())


def test_repeats_have_other_folds_and_seeds_and_figures_are_their_means(place):
    data, log = place.data(noise=0.6), []
    task = task_on(place, data, cv=4, repeats=3, seed=5)
    result = judge(task, means_head(log))
    assert {one.seed for one, *_ in log} == {5, 6, 7}
    ones = [judge(task_on(place, data, cv=4, seed=seed), means_head([])) for seed in (5, 6, 7)]
    assert len({one.test.log_loss for one in ones}) == 3
    for name in ("accuracy", "roc_auc", "log_loss", "brier"):
        figures = [getattr(one.test, name) for one in ones]
        assert getattr(result.test, name) == pytest.approx(np.mean(figures)), name
    assert result.fold_accuracies == sum((one.fold_accuracies for one in ones), ())
    assert np.array_equal(result.probabilities, ones[0].probabilities)
    assert result.validation.log_loss == pytest.approx(
        np.mean([one.validation.log_loss for one in ones])
    )


def test_groups_and_copies_are_in_one_fold_and_figures_are_resampled_by_group(place):
    data = place.data()
    groups = tuple(f"patient {number // 6}" for number in range(120))
    data = dataclasses.replace(data, groups=groups)
    log = []
    task = task_on(place, data, cv=4)
    result = judge(task, means_head(log, calibrated=True))
    patient = np.array(groups)
    for fold in task.folds[0]:
        others = np.setdiff1d(np.arange(120), fold)
        assert not set(patient[fold]) & set(patient[others])
    assert "groups of images" in result.test.interval_method
    for estimator, rows, *_ in log:
        assert len(estimator.options["groups"]) == len(rows)  # for what a head does within


@pytest.mark.parametrize("protocol", [Protocol(cv=4), Protocol(search=True)])
def test_images_that_are_nearly_the_same_are_in_one_fold(place, protocol):
    data = place.data()
    rows = np.random.default_rng(0).exponential(size=(120, 64)).astype(np.float32)
    rows[60:70] = rows[:10]
    task = Task(data, (place.recipe,), protocol, 0, variants=[ViewedRows.plain(place.recipe, rows)])
    for fold in task.folds[0]:
        others = np.setdiff1d(np.arange(120), fold)
        assert not np.isin(fold[fold < 10] + 60, others).any()


def test_neighbours_are_found_once_for_folds_and_problems(place_with_pictures, monkeypatch):
    found = []
    real = problems.find_neighbours
    monkeypatch.setattr(
        problems,
        "find_neighbours",
        lambda rows, k, **options: found.append(k) or real(rows, k, **options),
    )
    run = place_with_pictures.classify(place_with_pictures.data(), ["knn"], search=True)
    assert run.problems is not None
    assert len(found) == 1


def test_groups_of_several_classes_are_parted_neither_between_folds_nor_within_a_fit(place):
    data = place.data()
    group = np.arange(120) // 6  # three of each class
    data = dataclasses.replace(data, groups=tuple(map(str, group)))
    for sides in CalibrationFolds(0, group).split(np.empty((120, 1)), data.targets.labels):
        assert not np.intersect1d(*(group[side] for side in sides)).size
        assert all(np.bincount(data.targets.labels[side]).min() > 0 for side in sides)
    for name in ("rbf-svm", "linear-svm"):
        result = judge(task_on(place, data, cv=4), get_head(name))
        assert result.test.accuracy > 0.7


def test_all_views_of_other_folds_are_learned_from_and_none_of_the_fold(place):
    data = place.data(counts=(40, 20, 20)).all_in("test")
    first = rows_of(place, data)
    rng = np.random.default_rng(0)
    more = rng.exponential(size=(2, *first.shape)).astype(np.float32)
    flat = np.concatenate([first, *more]).reshape(240, -1)
    rows = ViewedRows(place.recipe, Views(), first, flat, np.tile(np.arange(80), 3))
    log = []
    task = Task(data, (place.recipe,), Protocol(cv=4), 0, variants=[rows])
    judge(task, means_head(log))
    image_of = {row.tobytes(): number % 80 for number, row in enumerate(flat)}
    left_out = []
    for _, learned, *_ in log:
        images = np.array([image_of[row.tobytes()] for row in learned])
        assert np.array_equal(np.bincount(images, minlength=80) % 3, np.zeros(80))
        left_out.append(80 - len(set(images)))
    assert set(left_out) == {0, 20, 40}


def test_a_run_of_a_cross_validation_says_so_and_its_page_can_be_made(place):
    data = place.data(noise=0.6)
    run = place.classify(data, ["logistic", "knn"], cv=4, repeats=2)
    assert [result.test.n for result in run.results] == [120, 120]
    assert "4-fold cross-validation of 120 images, repeated 2 times" in str(run)
    assert "The saved models are fitted on all images" in str(run)
    document = run_json(run)
    assert document["protocol"] == dataclasses.asdict(Protocol(cv=4, repeats=2))
    assert document["dataset"]["images"]["test"] == {"blue": 60, "red": 60}
    assert all(len(head["fold_accuracies"]) == 8 for head in document["heads"])
    assert document["comparison"]["test"] == "corrected resampled t test"
    assert document["comparison"]["sentence"] in str(run)
    record = read_run(run.folder)
    assert not record.problem
    assert len(record.predictions["logistic"].paths) == 120
    copies = measure_leakage([], run.dataset.splits, np.ones(120, bool))
    assert copies.total == 0  # so nothing is said of copies among what was learned from
    assert first_screen(record)["share"][1] == (
        "correct in 4-fold cross-validation, repeated 2 times (120 images)"
    )
    chosen = how_chosen(record)
    assert "The saved models are fitted on all images." in chosen
    assert document["comparison"]["sentence"] in chosen


# --- thresholds and weights ---------------------------------------------------------------


def test_a_threshold_is_chosen_on_all_that_may_be_learned_from_and_kept_with_the_model(place):
    data = place.data(noise=0.6)
    run = place.classify(data, ["logistic"], threshold="recall=0.9", positive="blue")
    result = run.best
    flat = rows_of(place, data).reshape(120, -1)
    labels, p = data.targets.labels, np.zeros((90, 2))
    for fold in search_folds(labels[:90], np.arange(90), data.classes, seed=0):
        others = np.setdiff1d(np.arange(90), fold)
        fitted = get_head("logistic").build(0, **result.parameters)
        p[fold] = fitted.fit(flat[others], labels[others]).predict_proba(flat[fold])
    expected = choose_threshold(labels[:90], p, Aim("recall", 0.9), 0)
    found = result.model.threshold
    assert (found.positive, found.aim, found.reached) == (0, "recall=0.9", True)
    assert (found.images, found.positives) == (90, 45)
    assert run.protocol.search
    assert found.value == pytest.approx(expected.value, abs=1e-6)
    said = np.where(result.probabilities[:, 0] >= found.value, 0, 1)
    assert np.array_equal(result.predicted, said)
    assert not np.array_equal(said, result.probabilities.argmax(axis=1))
    assert result.test == evaluate(labels[90:], result.probabilities[90:], said[90:], positive=0)
    assert run_json(run)["heads"][0]["threshold"] == dataclasses.asdict(found)
    predictions = read_run(run.folder).predictions["logistic"]
    assert np.array_equal(predictions.predicted, said[90:])
    rule = f"called blue when P(blue) ≥ {found.value:.3f}, chosen for recall 0.9 on "
    of_how_many = f"of {sum(result.test.confusion[0])} blue found (recall "
    assert of_how_many in str(run)
    assert f"logistic: {rule}" in str(run)
    record = read_run(run.folder)
    page = html.unescape((run.folder / "report.html").read_text())
    for text in (str(run), page):
        assert rule in text
    assert f"of blue found ({result.test.confusion[0][0]} of " in page
    # With a threshold chosen for recall, the accuracy is not compared with guessing.
    poor = replace(record.best.test, accuracy_low=0.0)
    for threshold, is_compared in ((found, False), (None, True)):
        head = msgspec.structs.replace(record.best, test=poor, threshold=threshold)
        assert bool(first_screen(replace(record, heads=(head,)))["by_chance"]) == is_compared


def test_the_page_says_by_what_protocol_heads_were_judged(place):
    run = place.classify(place.data(), ["logistic"], cv=3, threshold="f1", balanced=True)
    [settings] = [section for section in SECTIONS if section.key == "settings"]
    groups = dict(settings.show(read_run(run.folder))["groups"])
    assert groups["Protocol"] == [
        ("search", "no"),
        ("cv", "3"),
        ("repeats", "1"),
        ("threshold", "f1"),
        ("positive", "none"),
        ("balanced", "yes"),
        ("splits", "no"),
    ]
    assert "For each fold, the threshold was chosen without it" in " ".join(
        how_chosen(read_run(run.folder))
    )


@pytest.mark.parametrize("settings", [{}, {"search": True}, {"cv": 3}])
@pytest.mark.parametrize("stops", [False, True])
def test_probabilities_that_are_no_numbers_are_a_heads_failure(place, settings, stops):
    class Unsure(Means):
        def predict_proba(self, rows):
            found = super().predict_proba(rows)
            found[len(rows) // 2] = np.nan
            return found

    head = dataclasses.replace(
        means_head([], early_stopping=stops),
        build=lambda seed, **parameters: Unsure([], seed, **parameters),
    )
    with pytest.raises(PipelineError, match="probabilities are not finite for 1 of"):
        judge(task_on(place, place.data(), **settings), head)


def test_a_threshold_is_used_in_prediction(photos, recipe, backbone, tmp_path):
    run = classify(
        photos,
        "logistic",
        recipe=recipe,
        threshold="f1",
        cache=tmp_path / "cache",
        runs=tmp_path / "runs",
        forward=backbone,
    )
    model = Model.load(find_model(run.folder))
    assert model.threshold == run.best.model.threshold
    strict = dataclasses.replace(model.threshold, value=1.0)
    paths = run.dataset.paths
    extractor = Extractor(cache=tmp_path / "cache", forward=backbone)
    assert {one.label for one in model.predict(paths, extractor=extractor)} == {"blue", "red"}
    said = list(dataclasses.replace(model, threshold=strict).predict(paths, extractor=extractor))
    assert {one.label for one in said} == {"blue"}


@pytest.mark.parametrize("settings", [{}, {"search": True}, {"cv": 4}])
def test_with_a_threshold_heads_are_compared_by_its_aim_and_not_by_the_log_loss(place, settings):
    run = place.classify(place.data(noise=0.8), threshold="recall=0.9", **settings)
    [result] = run.results
    if "cv" not in settings:  # else it is the mean over the inner folds
        alarms = result.validation.confusion[0][1]
        assert result.aim_cost == pytest.approx(alarms / 45)
    assert 0 < result.aim_cost < 1
    surer = replace(result, validation=replace(result.validation, log_loss=0.0))
    cheaper = replace(result, aim_cost=result.aim_cost / 2)
    assert replace(run, results=(surer, cheaper)).best is cheaper
    assert run_json(run)["heads"][0]["aim_cost"] == pytest.approx(result.aim_cost)


def test_without_a_threshold_figures_are_of_the_rarer_class_and_it_may_be_named(place):
    data = place.data(noise=0.6)
    labels = np.where(np.arange(120) % 4 == 0, 0, 1)
    data = relabelled(data, labels)
    rarer, named = place.classify(data), place.classify(data, positive="red")
    for run, positive in ((rarer, 0), (named, 1)):
        [result] = run.results
        score, truth = result.probabilities[90:, positive], labels[90:] == positive
        expected = average_precision_score(truth, score)
        assert result.test.positive == result.validation.positive == positive
        assert result.test.average_precision == pytest.approx(expected)
        record = read_run(run.folder)
        assert record.positive == positive
        assert record.predictions["logistic"].positive == positive
        page = html.unescape((run.folder / "report.html").read_text())
        assert f"Positive is the class {data.classes[positive]}." in page
    assert "recall of blue  recall of red" in str(rarer)
    assert "recall of red  log loss" in str(named)
    assert "recall of blue  " not in str(named)


def test_of_a_cross_validation_examples_are_mistakes_of_the_folds_thresholds(place_with_pictures):
    place = place_with_pictures
    run = place.classify(place.data(noise=0.8), ["logistic"], cv=4, threshold="recall=0.95")
    best, examples = run.best, run.examples
    assert np.any(best.predicted != best.model.call(best.probabilities))
    np.testing.assert_array_equal(examples.predicted, best.predicted[examples.places])
    assert "For each fold, the threshold was chosen without it" in str(run)


def test_an_aim_that_cannot_be_reached_is_said(place):
    data = place.data(noise=5.0)
    run = place.classify(data, ["logistic"], threshold="precision=1")
    assert not run.best.model.threshold.reached
    assert "precision 1 cannot be reached on 45 of red among 90 images" in str(run)
    assert np.array_equal(run.best.predicted, run.best.probabilities.argmax(axis=1))


@pytest.mark.parametrize("settings", [{}, {"search": True}, {"cv": 4}])
def test_balanced_reaches_every_fit_and_is_off_unless_asked_for(place, settings):
    for balanced in (False, True):
        log = []
        judge(task_on(place, place.data(), balanced=balanced, **settings), means_head(log))
        assert {one.options.get("balanced", False) for one, *_ in log} == {balanced}
