"""`pipeline app`: what it says before the page is open, and how it ends."""

import re
import socket
import sys

import pytest
from served import Served
from typer.testing import CliRunner

from pipeline.app.server import PageServer
from pipeline.cli.main import app
from pipeline.features import computing


@pytest.fixture
def served(tmp_path, monkeypatch):
    place = Served(tmp_path)
    monkeypatch.setattr(computing, "load_backbone", lambda *_, **__: place.network)
    return place


@pytest.fixture
def started(monkeypatch):
    """Stop each server as soon as it would begin, as by Ctrl-C."""

    def run(self, sockets):
        self._opened()
        for each in sockets:
            each.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "run", run)


def command(*arguments, **environment):
    return CliRunner().invoke(
        app, ["app", *map(str, arguments), "--no-browser", "--port", "0"], env=environment
    )


def test_it_shows_an_address_and_ends_well(served, started):
    cache = served.home / "cache"
    done = command(served.photos, "--run", served.run.folder, "--cache", cache)
    assert done.exit_code == 0, done.output
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{16}/\?token=[\w-]{43}\n", done.stdout)
    assert "Authorization: Bearer" in done.stderr
    assert "Stopped." in done.stderr
    own = command("--run", served.run.folder, PIPELINE_APP_TOKEN="0123456789abcdef")
    assert own.exit_code == 0
    assert "Bearer" not in own.output
    assert "0123456789abcdef" not in own.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to show"),
        (["--label"], "there is nothing to show"),
        (["nowhere"], "there is no folder or file nowhere"),
        (["--run", "nowhere"], "there is no folder nowhere"),
        (["--run", "runs/x", "--backbone", "vgg19"], "--backbone vgg19 is given with --run"),
        (["--run", "runs/x", "--backbone", "vgg16"], "--backbone vgg16 is given with --run"),
        (["--host", "192.0.2.1"], "cannot listen at 192.0.2.1"),
    ],
    ids=str,
)
def test_what_it_cannot_show_is_one_error(arguments, message, started):
    done = command(*arguments)
    assert done.exit_code == 1
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.output


def test_a_token_that_can_be_guessed_is_refused(served, started):
    done = command("--run", served.run.folder, PIPELINE_APP_TOKEN="short")
    assert done.exit_code == 1
    assert "the token for programs has 5 characters" in done.stderr


def test_a_port_that_is_taken_is_told_before_any_work():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = CliRunner().invoke(app, ["app", "nowhere", "--port", port])
    assert done.exit_code == 1
    assert f"port {port}" in done.stderr


def test_a_package_that_is_not_installed_is_one_error(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pipeline.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.exceptions", None)
    done = command()
    assert done.exit_code == 1
    assert "the package starlette.exceptions is not installed, which the page needs" in done.stderr
    assert "pip install" in done.stderr
