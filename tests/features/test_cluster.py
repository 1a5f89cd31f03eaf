"""Stage one on a cluster: the same rows as on one machine, whatever happens to the workers."""

import contextlib
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import psutil
import pytest
import yaml
from clusters import PYTHONPATH, make, scheduler_of_its_own, worker
from conftest import Hears, paint_classes
from distributed import LocalCluster
from distributed.security import Security
from torture_worker import RECIPE, ROWS_PER_SHARD, SETTINGS, Doomed, stand_in
from typer.testing import CliRunner

from pipeline.backbones.registry import make_recipe
from pipeline.cli.main import app
from pipeline.data.augmentation import get_augmentation
from pipeline.data.loading import load_dataset
from pipeline.errors import DataError, PipelineError, StoreError
from pipeline.features import cluster as cluster_module
from pipeline.features.cluster import Cluster
from pipeline.features.computing import ImageViews
from pipeline.features.joint import JointStore
from pipeline.features.store import FeatureStore
from pipeline.features.views import Views

FULL = os.environ.get("TORTURE", "") not in ("", "0")
ROOT = Path(__file__).parent.parent.parent


SILENT = {
    "host": "127.0.0.1",
    "dashboard_address": None,
    "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"},
}


@pytest.fixture(scope="module")
def workers():
    with Cluster(workers=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """24 shards' worth."""
    return paint_classes(tmp_path_factory.mktemp("photos"), 12 * ROWS_PER_SHARD)


@pytest.fixture(scope="module")
def dataset(photos):
    return load_dataset(photos)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr("pipeline.features.shard.ROWS_PER_SHARD", ROWS_PER_SHARD)


def assert_same(extraction, other, *, killed=False):
    """All rows are stored, bit for bit, and none twice.

    What a killed writer had begun lies there until a later one, sure that it is dead, removes it.
    """
    begun = {".tmp"} if killed else set()
    for ours, theirs in zip(extraction.plan.every_store, other.plan.every_store, strict=True):
        found, expected = FeatureStore.at(ours.folder), FeatureStore.at(theirs.folder)
        wanted = sorted(expected)
        assert sorted(found) == wanted
        assert found.read(wanted).tobytes() == expected.read(wanted).tobytes()
        assert sum(ours.shards.values()) == len(wanted)
        assert {path.suffix for path in ours.folder.iterdir()} - begun == {".h5", ".json"}


@contextlib.contextmanager
def scheduler(**settings):
    """A scheduler without workers."""
    with LocalCluster(n_workers=0, **SILENT, **settings) as started:
        yield started.scheduler_address


# --- the same rows ------------------------------------------------------------------------


@pytest.mark.parametrize("views", [Views(), Views(count=3, augmentation=get_augmentation("mild"))])
def test_workers_make_the_rows_that_one_process_makes(workers, dataset, tmp_path, views):
    here = make(dataset, tmp_path / "here", None, views=views)
    there = make(dataset, tmp_path / "there", workers, views=views)
    assert there.made == here.made > 0
    assert_same(there, here)
    assert len(workers.rates) == 2
    assert make(dataset, tmp_path / "there", workers, views=views).made == 0


@pytest.mark.parametrize(
    ("network", "precision"),
    [("vgg16", "float32"), ("vgg16", "int8"), ("efficientnet-lite0", "bfloat16")],
)
def test_a_real_network_gives_the_same_bits_on_workers(
    workers, dataset, tmp_path, network, precision
):
    settings = {
        "recipe": make_recipe(network, size=32, precision=precision),
        "forward": None,
        "views": Views(count=2, augmentation=get_augmentation("mild")),
    }
    here = make(dataset, tmp_path / "here", None, **settings)
    there = make(dataset, tmp_path / "there", workers, **settings)
    assert_same(there, here)


def test_files_that_cannot_be_read_are_listed_as_on_one_machine(workers, tmp_path):
    photos = paint_classes(tmp_path / "photos")
    broken = photos / "red" / "003.png"
    broken.write_bytes(broken.read_bytes()[:500])
    dataset = load_dataset(photos)
    here = make(dataset, tmp_path / "here", None)
    there = make(dataset, tmp_path / "there", workers)
    assert [bad.path for bad in there.dataset.quarantined] == [broken]
    assert there.dataset.quarantined == here.dataset.quarantined
    with pytest.raises(DataError, match=r"003\.png"):
        make(dataset, tmp_path / "strict", workers, strict=True)


def test_the_list_of_images_is_never_held_whole(workers, dataset, tmp_path):
    asked, done, furthest = 0, 0, 0
    store = FeatureStore(tmp_path, RECIPE)
    store.prepare()

    def tasks():
        nonlocal asked
        for path, digest in zip(dataset.paths, dataset.digests):
            asked += 1
            yield ImageViews(path, digest)

    for batch in workers.commit_rows(JointStore([store]), tasks(), stand_in):
        furthest = max(furthest, asked - done)
        done += len(batch)
    assert done == len(dataset) == len(store)
    # Two tasks for each of the workers, and the image that begins the next.
    threads = 2 * max(1, dask.system.CPU_COUNT // 2)
    assert furthest <= 2 * threads * ROWS_PER_SHARD + 1 < len(dataset)


def test_nothing_listens_beyond_the_loopback(workers, dataset, tmp_path):
    make(dataset, tmp_path, workers)
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [
        connection.laddr.ip
        for process in family
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3  # the scheduler, and two workers
    assert set(listening) == {"127.0.0.1"}


# --- killed -------------------------------------------------------------------------------


def test_workers_killed_at_random_cost_nothing(workers, dataset, tmp_path):
    kills, wanted = 0, 20 if FULL else 3
    rng = random.Random(1)
    log = tmp_path / "log"
    log.touch()
    undisturbed = make(dataset, tmp_path / "undisturbed", None)
    while kills < wanted:
        over = threading.Event()

        def kill(over=over):
            nonlocal kills
            while not over.wait(rng.uniform(0.3, 1.5)) and kills < wanted:
                recent = {int(pid) for pid in log.read_text().split()[-4:]}
                alive = [pid for pid in recent if psutil.pid_exists(pid)]
                if alive:
                    os.kill(rng.choice(alive), signal.SIGKILL)
                    kills += 1

        killer = threading.Thread(target=kill)
        killer.start()
        cache = tmp_path / f"cache{kills}"
        try:
            made = make(dataset, cache, workers, forward=Doomed(str(log), seconds=0.15))
        finally:
            over.set()
            killer.join()
        assert made.made == len(dataset)
        assert_same(made, undisturbed, killed=True)


def test_images_that_kill_every_worker_are_one_clear_error(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "_DEATHS", 1)
    with Cluster(workers=1) as cluster, pytest.raises(PipelineError, match=r"workers died.*\.png"):
        make(dataset, tmp_path, cluster, forward=die)


def die(pixels):
    os.kill(os.getpid(), signal.SIGKILL)


# --- errors -------------------------------------------------------------------------------


def features(photos, cache, *options):
    return CliRunner().invoke(app, ["features", str(photos), "--cache", str(cache), *options])


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("tcp://127.0.0.1:9", "Timed out"),
        ("somewhere", "missing port"),
        ("pigeon://home:1", "unknown address scheme"),
        ("tls://127.0.0.1:9", "TLS"),
    ],
)
def test_a_scheduler_that_does_not_answer_is_one_clear_error(
    photos, tmp_path, monkeypatch, address, reason
):
    monkeypatch.setattr(cluster_module, "_CONNECT_SECONDS", 1)
    done = features(photos, tmp_path, *SETTINGS, "--scheduler", address)
    assert done.exit_code == 1
    assert f"no Dask scheduler answers at {address}" in done.stderr
    assert reason in done.stderr
    assert done.stderr.count("Error") == 1
    assert "Traceback" not in done.stderr


def test_a_scheduler_and_workers_of_its_own_exclude_each_other(photos, tmp_path):
    done = features(photos, tmp_path, "--scheduler", "tcp://127.0.0.1:9", "--workers", "2")
    assert done.exit_code == 1
    assert "one of --scheduler and --workers" in done.stderr


def test_nobody_is_asked_when_there_is_nothing_to_do(photos, dataset, tmp_path):
    make(dataset, tmp_path, None)
    done = features(photos, tmp_path, *SETTINGS, "--scheduler", "tcp://127.0.0.1:9")
    assert done.exit_code == 0, done.stderr


WITHOUT_THE_PROJECT = """
import sys
from pathlib import Path
sys.path[:] = [path for path in sys.path if not Path(path, "pipeline").is_dir()]
"""
HIDDEN = """
import sys
def refuse(event, arguments):
    if event == "open" and str(arguments[0]).startswith({hidden!r}):
        raise PermissionError(13, "Permission denied")
sys.addaudithook(refuse)
"""


def test_a_worker_that_lacks_something_is_told_before_any_work(photos, dataset, tmp_path):
    (tmp_path / "other" / "pipeline").mkdir(parents=True)
    (tmp_path / "other" / "pipeline" / "__init__.py").touch()
    cases = {
        WITHOUT_THE_PROJECT: (PipelineError, "lacks this project"),
        f"import sys; sys.path.insert(0, {str(tmp_path / 'other')!r})": (
            PipelineError,
            "has version .* of cached-feature-pipeline",
        ),
        HIDDEN.format(hidden=str(photos)): (PipelineError, "cannot open .*png"),
        HIDDEN.format(hidden=str(tmp_path / "cache")): (StoreError, "cannot .*Permission denied"),
    }
    with scheduler() as address:
        for setup, (kind, message) in cases.items():
            with (
                worker(address, tmp_path, setup),
                Cluster(address) as cluster,
                pytest.raises(kind, match=f"the worker tcp://.*{message}"),
            ):
                make(dataset, tmp_path / "cache", cluster)
            assert list(tmp_path.glob("cache/*/*.h5")) == []


def test_workers_that_come_later_are_looked_at_too(photos, dataset, tmp_path):
    log = tmp_path / "log"
    with (
        scheduler() as address,
        worker(address, tmp_path),
        Cluster(address) as cluster,
        contextlib.ExitStack() as later,
    ):
        first = True

        def rows_made(done, total):
            nonlocal first
            if done and first:
                first = False
                later.enter_context(worker(address, tmp_path, HIDDEN.format(hidden=str(photos))))

        with pytest.raises(PipelineError, match=r"the worker tcp://.*cannot open .*png"):
            make(
                dataset,
                tmp_path / "cache",
                cluster,
                forward=Doomed(str(log), seconds=0.4),
                listener=Hears(rows_made=rows_made),
            )
    assert 0 < len(FeatureStore(tmp_path / "cache", RECIPE)) < len(dataset)


def test_a_worker_that_writes_elsewhere_is_found_out(dataset, tmp_path, monkeypatch):
    elsewhere = (
        "import pipeline.features.store as s; from pathlib import Path; w = s.write_file; "
        f"s.write_file = lambda path, *a, **o: w(Path({str(tmp_path)!r}) / path.name, *a, **o)"
    )
    with (
        scheduler() as address,
        worker(address, tmp_path, elsewhere),
        Cluster(address) as cluster,
        pytest.raises(StoreError, match=r"wrote .*h5, which is not in"),
    ):
        make(dataset, tmp_path / "cache", cluster)


def test_a_cluster_without_workers_is_one_clear_error(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "_NO_WORKERS_SECONDS", 1)
    with (
        scheduler() as address,
        Cluster(address) as cluster,
        pytest.raises(PipelineError, match="no workers for 1 s"),
    ):
        make(dataset, tmp_path, cluster)


@pytest.mark.parametrize("dying", ["scheduler", "workers"])
def test_a_cluster_that_dies_in_mid_run_is_one_clear_error_and_rows_are_kept(
    dataset, tmp_path, monkeypatch, dying
):
    if dying == "workers":  # a slow machine takes longer than that to lose a scheduler
        monkeypatch.setattr(cluster_module, "_NO_WORKERS_SECONDS", 4)
    log = tmp_path / "log"
    with contextlib.ExitStack() as leaving:
        process, address = leaving.enter_context(scheduler_of_its_own(tmp_path))
        hand = leaving.enter_context(worker(address, tmp_path))

        def rows_made(done, total):
            if done:
                (process if dying == "scheduler" else hand).kill()

        message = "connection .* was lost" if dying == "scheduler" else "no workers for 4 s"
        with Cluster(address) as cluster, pytest.raises(PipelineError, match=message):
            make(
                dataset,
                tmp_path / "cache",
                cluster,
                forward=Doomed(str(log), seconds=0.2),
                listener=Hears(rows_made=rows_made),
            )
    there = FeatureStore(tmp_path / "cache", RECIPE)
    assert 0 < len(there) < len(dataset)
    again = make(dataset, tmp_path / "cache", None)
    assert again.made == len(dataset) - len(there)
    assert_same(again, make(dataset, tmp_path / "undisturbed", None))


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path):
    photos = paint_classes(tmp_path / "photos", 600)  # five tasks
    cache = tmp_path / "cache"
    command = [sys.executable, "-m", "pipeline", "features", photos, "--cache", cache, *SETTINGS]
    with subprocess.Popen(
        [*command, "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    ) as process:
        while not list(cache.glob("*/*.h5")):
            time.sleep(0.01)
            assert process.poll() is None
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "the same command goes on from there" in stderr
    assert "Traceback" not in stderr
    psutil.wait_procs(family, timeout=10)
    assert not [child for child in family if child.is_running()]
    kept = len(FeatureStore(cache, RECIPE))
    assert 0 < kept < 1200
    assert make(load_dataset(photos), cache, None).made == 1200 - kept


def test_a_scheduler_with_tls_takes_certificates_from_dasks_configuration(dataset, tmp_path):
    security = Security.temporary()
    files = {
        "ca-file": security.tls_ca_file,
        "client.key": security.tls_client_key,
        "client.cert": security.tls_client_cert,
    }
    with LocalCluster(n_workers=1, security=security, **SILENT) as there:
        assert there.scheduler_address.startswith("tls://")
        settings = {f"distributed.comm.tls.{name}": text for name, text in files.items()}
        with dask.config.set(settings), Cluster(there.scheduler_address) as cluster:
            assert make(dataset, tmp_path, cluster).made == len(dataset)


# --- what is written about it -------------------------------------------------------------


def test_the_commands_of_the_compose_file_make_a_cluster(dataset, tmp_path):
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    with contextlib.ExitStack() as leaving:
        for service in ("scheduler", "worker"):
            command = services[service]["command"].replace("${THREADS:-1}", "1")
            command = command.replace("scheduler:8786", "127.0.0.1:18786")
            command = command.replace(
                "--host scheduler --port 8786", "--host 127.0.0.1 --port 18786"
            )
            words = [*shlex.split(command), *(["--host=127.0.0.1"] * (service == "worker"))]
            process = subprocess.Popen(
                [sys.executable, "-m", *words],
                env={**os.environ, "PYTHONPATH": PYTHONPATH},
                cwd=tmp_path,
                stderr=subprocess.DEVNULL,
            )
            leaving.enter_context(process)
            leaving.callback(process.terminate)
        with Cluster("tcp://127.0.0.1:18786") as cluster:
            assert make(dataset, tmp_path / "cache", cluster).made == len(dataset)


def test_the_cost_of_a_million_images_follows_from_the_results():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    for precision in ("float32", "bfloat16", "int8"):
        row = re.search(rf"--precision {precision}`.*", results)[0]
        measured = float(row.split(" | ")[-2])
        said = re.search(rf"^\| {precision} \| (.*) \| (.*) \| (.*) \$ \|$", page, re.MULTILINE)
        rate, hours, dollars = map(float, said.groups())
        assert rate == measured
        assert hours == pytest.approx(1e6 / rate / 3600, abs=0.06)
        assert dollars == pytest.approx(0.05 * hours, abs=0.006)
