"""A server for one page, on this computer only unless told otherwise, until Ctrl-C."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from pipeline.errors import PipelineError

HOST = "127.0.0.1"
"""Reached from this computer only."""

_PORT = 8321  # the same each time, as browsers remember for it that the camera may be used
_SECONDS_TO_END = 2


def listen(host: str = HOST, port: int | None = None) -> socket.socket:
    """Open a socket, before anything else is done: at a port, or else at ours or any free one."""
    for number in (_PORT, 0) if port is None else (port,):
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            opened = socket.socket(family, kind, protocol)
            try:
                if os.name == "posix":  # the port of a program that has just ended is free
                    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                opened.bind(address)
                opened.listen(64)
            except OSError:
                opened.close()
                raise
        except OSError as error:
            reason = error
        else:
            return opened
    raise PipelineError(
        f"cannot listen at {host}, port {port}: {reason.strerror or reason}.",
        expected="an address of this computer, and a port that no other program uses",
        fix="name another with --port, or leave it out",
    ) from reason


def address_of(listening: socket.socket) -> tuple[str, int]:
    """Return the host, as it stands in an address, and the port of a socket."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 -- told so
        host = socket.gethostname()
    return (f"[{host}]" if ":" in host else host), port


def is_local(listening: socket.socket) -> bool:
    """Tell whether only this computer can reach a socket."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


class PageServer(uvicorn.Server):
    """Answers requests, by `run(sockets=[...])`, until Ctrl-C or SIGTERM, or `should_exit`.

    Parameters
    ----------
    app : ASGI application
        What answers them.
    opened : callable
        Called when that begins.
    """

    def __init__(self, app: ASGIApp, opened: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            access_log=False,
            http="h11",
            lifespan="off",
            log_config=None,
            log_level="critical",
            loop="asyncio",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_SECONDS_TO_END,
            ws="none",
        )
        super().__init__(config)
        self._opened = opened
        self._others = threading.enumerate()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin."""
        await super().startup(sockets)
        self._opened()

    def leave(self) -> None:
        """End the process at once, after `run`, if threads still work for pages that are gone.

        Python would wait for them, for a map some seconds. Files are written whole or not at all.
        """
        started = [thread for thread in threading.enumerate() if thread not in self._others]
        if any(not thread.daemon for thread in started):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


def open_browser(address: str) -> bool:
    """Open the browser of this computer, if there is one; tell whether there is."""
    has_screen = not sys.platform.startswith("linux") or {
        "BROWSER",
        "DISPLAY",
        "WAYLAND_DISPLAY",
    } & set(os.environ)  # without one, it would be a browser of text in this terminal
    with suppress(webbrowser.Error, OSError):
        return bool(has_screen) and webbrowser.open(address)
    return False
