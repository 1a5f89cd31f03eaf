"""Searches on a cluster: the same scores as here, whatever happens to the workers."""

import os
import signal

import distributed
import numpy as np
import pytest
from clusters import make, scheduler_of_its_own, worker
from conftest import Hears, paint_classes
from folds import folds_of, out_of_fold, quick
from rows import rows_like_features
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from torture_worker import SETTINGS
from typer.testing import CliRunner

from pipeline.classification.search import PreparedRows
from pipeline.cli.main import app
from pipeline.data.loading import load_dataset
from pipeline.features import cluster as cluster_module
from pipeline.features.cluster import Cluster
from pipeline.heads.registry import Head, get_head

os.environ.setdefault("NOT_TO_BE_KILLED", str(os.getpid()))  # set where the workers start


class Deadly(LogisticRegression):
    """Kills the worker that it is fitted on."""

    def fit(self, *data):
        if os.environ["NOT_TO_BE_KILLED"] != str(os.getpid()):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(*data)


class DeadlyOnce(Deadly):
    """Kills one worker."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def fit(self, *data):
        try:
            self.file.touch(exist_ok=False)
        except FileExistsError:
            return LogisticRegression.fit(self, *data)
        return super().fit(*data)


class Unpicklable(LogisticRegression):
    def __reduce__(self):
        return open, ("/nonexistent/file",)


@pytest.fixture(scope="module")
def workers():
    with Cluster(workers=2) as cluster:
        yield cluster


@pytest.mark.parametrize(
    "name", ["ridge", "lda", "rbf-svm", "knn", "logistic", "linear-svm", "random-forest", "mlp"]
)
def test_workers_give_the_scores_that_threads_give(workers, name):
    rows, labels = rows_like_features(90, 3)
    folds, head = folds_of(labels), quick(name)
    here = out_of_fold(head, rows, labels, folds, jobs=2)
    there = out_of_fold(head, rows, labels, folds, spread=workers.spread)
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-9)
    assert np.ptp(there[:, :, 0], axis=1).min() > 0.05


def test_what_fits_share_is_brought_to_the_workers_once(workers, monkeypatch):
    rows, labels = rows_like_features(90, 2)
    prepared, brought = PreparedRows(rows), []
    scatter = distributed.Client.scatter

    def remember(client, data, **options):
        brought.append((data, options.get("broadcast")))
        return scatter(client, data, **options)

    monkeypatch.setattr(distributed.Client, "scatter", remember)
    for name in ("ridge", "rbf-svm", "linear-svm", "logistic", "ridge"):
        out_of_fold(get_head(name), prepared, labels, folds_of(labels), spread=workers.spread)
    kinds = [(type(one).__name__, one.shape) for [one], everywhere in brought if everywhere]
    assert kinds == [("ndarray", (90, 90)), ("csr_array", (90, 128))]
    assert len(brought) == 2


@pytest.mark.parametrize("settings", [{"search": True}, {"cv": 3, "balanced": True}])
def test_a_run_is_the_same_on_workers_as_here(workers, place, settings):
    data = place.data()
    heads = ["knn", "logistic"]
    here = place.classify(data, heads, **settings)
    there = place.classify(data, heads, workers=workers, **settings)
    for one, other in zip(here.results, there.results, strict=True):
        assert one.parameters == other.parameters
        losses = [[loss for _, loss in result.candidates] for result in (one, other)]
        np.testing.assert_allclose(*losses, rtol=0, atol=1e-9)
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=0, atol=1e-9)


# --- what may happen to it ----------------------------------------------------------------


def test_the_death_of_a_worker_costs_its_fits_only(workers, tmp_path):
    rows, labels = rows_like_features(60, 2)
    head = Head(
        "deadly",
        lambda seed: make_pipeline(Normalizer(), DeadlyOnce(tmp_path / "dead")),
        grid=({},) * 5,
    )
    there = out_of_fold(head, rows, labels, folds_of(labels), spread=workers.spread)
    assert (tmp_path / "dead").exists()
    here = out_of_fold(head, rows, labels, folds_of(labels))
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-9)


def test_heads_that_are_done_are_kept_when_the_workers_die(place, monkeypatch):
    monkeypatch.setattr(cluster_module, "_DEATHS", 1)
    heads = ["logistic", "test_spread:Deadly", "ridge"]
    with Cluster(workers=2) as cluster:
        run = place.classify(place.data(), heads, search=True, workers=cluster)
    assert [result.head for result in run.results] == ["logistic"]
    assert run.failed.keys() == {"test_spread:Deadly"}
    assert "the workers died" in run.failed["test_spread:Deadly"]
    assert run.unfinished == ("ridge",)


def test_a_head_that_workers_cannot_read_costs_no_other(workers, place):
    heads = ["test_spread:Unpicklable", "logistic"]
    run = place.classify(place.data(), heads, search=True, workers=workers)
    assert [result.head for result in run.results] == ["logistic"]
    assert run.failed.keys() == {"test_spread:Unpicklable"}
    assert "deserialization" in run.failed["test_spread:Unpicklable"]


def test_heads_that_are_done_are_kept_when_the_scheduler_dies(place, tmp_path):
    with (
        scheduler_of_its_own(tmp_path) as (process, address),
        worker(address, tmp_path),
        Cluster(address) as cluster,
    ):
        run = place.classify(
            place.data(),
            ["logistic", "knn", "ridge"],
            search=True,
            workers=cluster,
            listener=Hears(judged=lambda result: process.kill()),
        )
    assert [result.head for result in run.results] == ["logistic"]
    assert run.failed == {"knn": "the connection to the Dask scheduler was lost."}
    assert run.unfinished == ("ridge",)


def test_a_cluster_that_is_not_there_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "_CONNECT_SECONDS", 1)
    photos = paint_classes(tmp_path / "photos", 40)
    make(load_dataset(photos), tmp_path / "cache", None)
    folders = ["--cache", str(tmp_path / "cache"), "--runs", str(tmp_path / "runs")]
    options = ["--search", "--scheduler", "tcp://127.0.0.1:9", "--head", "knn", "--head", "ridge"]
    done = CliRunner().invoke(app, ["classify", str(photos), *SETTINGS, *folders, *options])
    assert done.exit_code == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in done.stderr
    assert done.stderr.count("Error") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
