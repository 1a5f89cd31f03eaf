"""A server on this computer: a port, a browser if there is one, and an end by Ctrl-C."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from pipeline.app import server
from pipeline.app.server import address_of, is_local, listen, open_browser
from pipeline.errors import PipelineError

SCRIPT = """
import time
from pipeline.app.guard import Guard, Secrets
from pipeline.app.server import PageServer, address_of, listen
from starlette.responses import PlainTextResponse
import anyio

async def answer(scope, receive, send):
    if scope["path"] == "/slow":
        await anyio.to_thread.run_sync(time.sleep, 30)
    if scope["path"] == "/fails":
        raise OSError("no more room")
    await PlainTextResponse("the page")(scope, receive, send)

listening = listen(port=0)
host, port = address_of(listening)
guard = Guard(answer, secrets := Secrets(), port)
address = f"http://{host}:{port}{secrets.opening}"
server = PageServer(guard, lambda: print(address, flush=True))
try:
    server.run(sockets=[listening])
except KeyboardInterrupt:
    print("stopped")
server.leave()
"""


@pytest.fixture
def running():
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def get(address, cookie=""):
    request = urllib.request.Request(address, headers={"Cookie": cookie})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read(), answer.headers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_it_cleanly_also_while_a_thread_works_for_somebody(running, number):
    process, address = running
    page, headers = get(address)
    assert page == b"the page"
    base, cookie = address.partition("/?")[0], headers["Set-Cookie"].partition(";")[0]
    at = urlsplit(base)
    waiting = socket.create_connection((at.hostname, at.port))
    asked = f"GET {at.path}/slow HTTP/1.1\r\nHost: {at.netloc}\r\nCookie: {cookie}\r\n\r\n"
    waiting.send(asked.encode())
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 8
    assert err == ""
    if number == signal.SIGINT:
        assert (out, process.returncode) == ("stopped\n", 0)
    waiting.close()


def test_an_answer_tells_nothing_of_the_server_and_an_error_prints_nothing(running):
    process, address = running
    _, headers = get(address)
    assert "Server" not in headers
    cookie = headers["Set-Cookie"].partition(";")[0]
    for _ in range(2):
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(address.partition("/?")[0] + "/fails", cookie)
        with refused.value as answer:
            assert answer.code == 500
            assert json.loads(answer.read()) == {"error": "OSError: no more room"}
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("stopped\n", "")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        b"A" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"",
    ],
    ids=["tls", "version", "length", "both", "long", "headers", "nothing"],
)
def test_what_is_not_http_does_no_harm(running, sent):
    process, address = running
    at = urlsplit(address)
    with socket.create_connection((at.hostname, at.port)) as stranger:
        try:
            stranger.sendall(sent)
            stranger.shutdown(socket.SHUT_WR)
            stranger.settimeout(5)
            assert b"the page" not in stranger.recv(10_000)
        except ConnectionError:
            pass  # it was hung up on
    assert get(address)[0] == b"the page"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == ""


def test_it_listens_to_this_computer_only_unless_told_otherwise():
    with listen("0.0.0.0", 0) as everywhere:
        assert not is_local(everywhere)
    with listen() as listening:
        assert is_local(listening)
        host, port = address_of(listening)
        assert host == listening.getsockname()[0] == "127.0.0.1"
        assert port > 0


def test_a_port_that_is_taken_is_an_error_where_it_was_asked_for_and_else_another_is_taken():
    with listen(port=0) as first:
        taken = address_of(first)[1]
        with pytest.raises(PipelineError, match=f"cannot listen at 127.0.0.1, port {taken}"):
            listen(port=taken)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server, "_PORT", taken)
            with listen() as second:
                assert address_of(second)[1] != taken


@pytest.mark.parametrize("host", ["256.1.1.1", "no.such.host.invalid", "192.0.2.1"])
def test_an_address_of_another_computer_is_an_error(host):
    with pytest.raises(PipelineError, match="cannot listen"):
        listen(host, 0)


def test_no_browser_is_opened_in_a_terminal_without_a_screen(monkeypatch):
    opened = []
    monkeypatch.setattr(server.sys, "platform", "linux")
    monkeypatch.setattr(server.webbrowser, "open", lambda address: opened.append(address) or True)
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not open_browser("http://127.0.0.1")
    monkeypatch.setenv("DISPLAY", ":0")
    assert open_browser("http://127.0.0.1")
    assert opened == ["http://127.0.0.1"]
