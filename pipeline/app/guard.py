"""Who may ask the page's server for what: every request passes here before anything else.

A server on this computer is reached by every page that is open in its browser, and, through a
name that somebody points at 127.0.0.1, read by it, too (DNS rebinding). So a request needs a
secret, and has to come from the page itself, under a name that nobody else can give.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.errors import PipelineError, in_one_line, printable

MOST_BYTES = 100_000_000
"""Of a request: larger pictures than this are not sent."""

_MOST_UPLOADS = 8  # at once, so that they take less than 2 GB
_SECONDS_FOR_A_PART = 20.0  # of a request, which else would keep its place for ever
_LEAST_TOKEN = 16  # characters of a token that the user chooses

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

PAGE_POLICY = {"Content-Security-Policy": "frame-ancestors 'none'"}
"""Header of the answer that is the page, which has a policy in itself."""

_ASK_AGAIN = (
    "This address was used already, or belongs to a program that has been stopped.\n"
    "Open the newest address that `pipeline app` shows in the terminal.\n"
)

_NO_SUCH_PROGRAM = (
    "The token of this request is wrong, or not one for this path.\n"
    "A program sends a picture to /predict with the header `Authorization: Bearer TOKEN`; the "
    "token is that\nin PIPELINE_APP_TOKEN, or the one that `pipeline app` shows in the terminal.\n"
)


def _secret() -> str:
    return secrets.token_urlsafe(32)


@dataclass
class Secrets:
    """The secrets of one server.

    Parameters
    ----------
    program : str
        What a program sends as ``Authorization: Bearer ...`` to have pictures classified; such a
        program can do nothing else.
    announce : callable
        Called with the next `opening` each time one was used.
    """

    program: str = field(default_factory=_secret)
    announce: Callable[[str], None] = lambda opening: None
    session: str = field(default_factory=_secret)
    token: str = field(default_factory=_secret)
    home: str = field(default_factory=lambda: f"/{secrets.token_urlsafe(12)}/")
    """Path that the page and all that it asks for lie below: no other server's, no earlier one's.
    Browsers keep pictures, and send cookies, by name and path, whatever has come to listen there.
    """

    def __post_init__(self) -> None:
        if len(self.program) < _LEAST_TOKEN or not self.program.isascii():
            raise PipelineError(
                f"the token for programs has {len(self.program)} characters.",
                expected=f"at least {_LEAST_TOKEN}, all of them ASCII",
            )

    @property
    def opening(self) -> str:
        """Path and query of the address that opens the page once."""
        return f"{self.home}?token={self.token}"

    def spend(self, token: str) -> bool:
        """Tell whether this is the token of the address, which is then replaced by another."""
        if not _same(token, self.token):
            return False
        self.token = _secret()
        self.announce(self.opening)
        return True


def _same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode(errors="replace"), secret.encode())


class Guard:
    """Lets through to `app` what the page or a program with its token asks for.

    Parameters
    ----------
    app : ASGI application
        Answers what is let through. Its errors become answers here.
    keys : Secrets
        The secrets.
    port : int
        Where the server listens.
    names : sequence of str
        Names that this computer may be called by, beside localhost. Addresses in numbers need no
        name, so nobody can point a name of theirs at them.
    """

    def __init__(self, app: ASGIApp, keys: Secrets, port: int, names: tuple[str, ...] = ()) -> None:
        self._app, self._secrets, self._port = app, keys, port
        self._names = {"localhost", *(name.lower() for name in names)}
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            raise RuntimeError("this server answers HTTP only")
        home = self._secrets.home
        if inside := scope["path"].startswith(home):
            scope = {**scope, "path": scope["path"][len(home) - 1 :]}
        request = Request(scope, receive)
        started = opens = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                names = {name.lower() for name, _ in message["headers"]}
                message["headers"] += [
                    (name.lower().encode(), value.encode())
                    for name, value in _HEADERS.items()
                    if name.lower().encode() not in names
                ]
                if opens:
                    message["headers"].append((b"set-cookie", self._new_cookie))
            await send(message)

        answer = self._refusal(request)
        if answer is None:
            opens = inside and self._opens(request)
            has_secret = self._has_session if inside else self._is_program
            answer = None if opens or has_secret(request) else _without_secret(request)
        if answer is None:
            self._uploads += request.method == "POST"
            try:
                await self._app(scope, _bounded(receive), send_with_headers)
            except Exception as error:  # noqa: BLE001 -- the server stays alive
                answer = _as_answer(error)
            finally:
                self._uploads -= request.method == "POST"
        if answer is not None and not started:
            await answer(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """Return why a request is refused, whoever it is from."""
        host = request.headers.getlist("host")
        if len(host) != 1 or not self._is_ours(host[0]):
            return _plain(421, "This server does not go by that name.")
        if not _from_page(request, f"http://{host[0]}"):
            return _plain(403, "This request comes from another page.")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            return _plain(413, _TOO_LARGE)
        if request.method == "POST" and self._uploads >= _MOST_UPLOADS:
            return _plain(503, "Too many pictures at once. Send fewer at a time.")
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port or 80
        except ValueError:
            return False
        if port != self._port or parts.netloc.lower() != host.lower() or parts.username is not None:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    def _has_session(self, request: Request) -> bool:
        return _same(request.cookies.get(self.cookie, ""), self._secrets.session)

    def _is_program(self, request: Request) -> bool:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        asks_to_predict = request.url.path == "/predict"
        return asks_to_predict and kind.lower() == "bearer" and _same(token, self._secrets.program)

    def _opens(self, request: Request) -> bool:
        """Tell whether this opens the page by the printed address; the answer sets the cookie."""
        token = request.query_params.get("token", "")
        return request.method == "GET" and request.url.path == "/" and self._secrets.spend(token)

    @property
    def _new_cookie(self) -> bytes:
        own = f"HttpOnly; Path={self._secrets.home}; SameSite=strict"
        return f"{self.cookie}={self._secrets.session}; {own}".encode()

    @property
    def cookie(self) -> str:
        """Name of the cookie."""
        return f"pipeline-{self._port}"


def _from_page(request: Request, own: str) -> bool:
    """Tell whether a browser says that its request comes from the page, or from nobody.

    Another server on this computer is the same site to a browser, and would get the cookie sent.
    Following a link to the page is fine. As the page keeps its address to itself, a browser may
    give its origin as null.
    """
    header = request.headers.get
    site = header("sec-fetch-site", "none")
    if header("origin", own) not in (own, "null" if site == "same-origin" else own):
        return False
    if site in ("same-origin", "none"):
        return True
    follows_link = header("sec-fetch-mode") == "navigate" and header("sec-fetch-dest") == "document"
    return request.method == "GET" and request.url.path == "/" and follows_link


def _bounded(receive: Receive) -> Receive:
    """Refuse to take in a request that is too large, or that does not come to its end."""
    size, complete = 0, False

    async def receive_bounded() -> Message:
        nonlocal size, complete
        if complete:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), _SECONDS_FOR_A_PART)
        except TimeoutError:
            raise HTTPException(408, "The request did not come to its end.") from None
        size += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if size > MOST_BYTES:
            raise HTTPException(413, _TOO_LARGE)
        return message

    return receive_bounded


_TOO_LARGE = f"more than {MOST_BYTES // 1_000_000} MB, which is the most that is taken"


def _plain(status: int, text: str) -> Response:
    return PlainTextResponse(text, status)


def _without_secret(request: Request) -> Response:
    """Refuse a program, or whoever opens the page; a token that is nearly right tells nothing."""
    is_program = "authorization" in request.headers
    return _plain(403, _NO_SUCH_PROGRAM if is_program else _ASK_AGAIN)


def _as_answer(error: Exception) -> Response:
    """Turn an error into an answer that the page shows."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": printable(error.detail)}, error.status_code)
    if isinstance(error, PipelineError):
        found = {"error": printable(error.found), "fix": printable(error.fix)}
        return JSONResponse(found, 422)
    return JSONResponse({"error": in_one_line(error)}, 500)
