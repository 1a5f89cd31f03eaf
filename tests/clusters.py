"""Schedulers and workers for tests, in processes of their own."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml
from torture_worker import RECIPE, stand_in

from pipeline.features.extractor import Extractor, extract

TESTS = Path(__file__).parent
PYTHONPATH = f"{TESTS.parent}:{TESTS}"


def make(dataset, cache, cluster, *, views=(), listener=None, **settings):
    """Compute the rows of a data set, on a cluster or here."""
    settings = {"recipe": RECIPE, "forward": stand_in, **settings}
    extractor = Extractor(cache=cache, workers=cluster, **settings)
    return extract(dataset, views=views, extractor=extractor, listener=listener)


@contextlib.contextmanager
def scheduler_of_its_own(tmp_path):
    """A scheduler in a process of its own."""
    file = tmp_path / "address.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host=127.0.0.1"]
    with subprocess.Popen(
        [*command, "--port=0", "--no-dashboard", f"--scheduler-file={file}"],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            while not (file.exists() and file.stat().st_size):
                time.sleep(0.05)
            yield process, yaml.safe_load(file.read_text())["address"]
        finally:
            process.kill()


@contextlib.contextmanager
def worker(address, tmp_path, setup=""):
    """A worker in a process of its own, that runs some Python when it starts."""
    (tmp_path / "sitecustomize.py").write_text(setup)
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads=1"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{PYTHONPATH}"}
    with subprocess.Popen(
        [*command, "--no-nanny", "--no-dashboard"],
        env=environment,
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
