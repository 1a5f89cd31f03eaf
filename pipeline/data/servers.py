"""The servers behind URLs, and what their errors mean: the only file that knows fsspec.

Credentials, endpoints and all other settings are those of fsspec and of the library that it takes
for a scheme: their environment variables and configuration files. Nothing here has any of its own.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from typing import Any

from pipeline.errors import DataError, ImageError, PipelineError
from pipeline.system.packages import install_hint

REQUESTS_AT_ONCE = 32
"""Requests to one bucket at the same time: a request waits far longer than it works."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
# By default, s3fs and botocore each try five times, which is six minutes where nobody answers, and
# all threads share ten connections. With this it is one minute.
_S3_CONFIG = {
    "max_pool_connections": REQUESTS_AT_ONCE,
    "read_timeout": 10,
    "retries": {"mode": "standard", "max_attempts": 2},
}
_S3_ATTEMPTS = 2
_LOGIN_ERRORS = frozenset(
    {
        "AccountProblem",
        "AllAccessDisabled",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidSecurity",
        "NotSignedUp",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
# aiohttp's, of answers that no repetition will mend.
_ANSWERS_OF_NO_USE = {
    "TooManyRedirects": "the server redirects without end",
    "RedirectClientError": "the server redirects to what is no web address",
    "InvalidURL": "its URL is not valid",
    "ClientPayloadError": "the server sent only a part of it, or packed it wrongly",
}
_SILENCE_SECONDS = 30  # of a web server, within an answer
_UNREACHABLE_SECONDS = 10.0  # for so long, a server that did not answer is not asked again

_lock = threading.Lock()
unreachable: dict[str, tuple[float, PipelineError]] = {}
"""Servers that did not answer lately: when, and the error."""


def open_url(url: str) -> tuple[Any, str]:
    """Return the file system that a URL is on, and the path there."""
    server = _server(url)
    with _lock:
        when, reason = unreachable.get(server, (-_UNREACHABLE_SECONDS, None))
        if reason and time.monotonic() - when < _UNREACHABLE_SECONDS:
            raise reason.bare()
        system = file_system(server)
    return system, system._strip_protocol(url)


@functools.cache
def file_system(server: str) -> Any:
    """Make fsspec's file system for a server or bucket, as in ``s3://bucket``."""
    scheme = server.partition("://")[0]
    try:
        import fsspec

        options: dict[str, Any] = {}
        if _EXTRAS.get(scheme) == "s3":
            users = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            options = {"config_kwargs": {**_S3_CONFIG, **users}}
        if scheme in ("http", "https"):
            from aiohttp import ClientTimeout

            patience = ClientTimeout(sock_connect=10, sock_read=_SILENCE_SECONDS)
            users = fsspec.config.conf.get(scheme, {}).get("client_kwargs", {})
            options = {"client_kwargs": {"timeout": patience, **users}}
        # One for all threads: fsspec would make one for each, with connections of its own.
        system, _ = fsspec.url_to_fs(server, skip_instance_cache=True, **options)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        raise PipelineError(
            f"{scheme}:// needs a package that is not installed: {error}",
            fix=install_hint(extra or error.name or "fsspec"),
        ) from error
    except ValueError as error:
        if "not known" not in str(error):
            raise
        raise DataError(
            f"{server} has an unknown scheme, {scheme}://.",
            expected="a path, or a URL that fsspec knows, as in s3://bucket/photos",
        ) from error
    if _EXTRAS.get(scheme) == "s3":
        system.retries = _S3_ATTEMPTS
    return system


def check_server(url: str) -> None:
    """Refuse a URL of an unknown scheme, or of one whose package is missing; asks no server."""
    file_system(_server(url))


def _server(url: str) -> str:
    """Return the part of a URL that names the server or bucket."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


@contextlib.contextmanager
def url_errors(url: str) -> Iterator[None]:
    """Turn what libraries raise into an `ImageError` of this file, or a `PipelineError`."""
    try:
        yield
    except PipelineError:
        raise
    # Each scheme's library raises errors of its own; many are no OSError.
    except Exception as error:
        raise _explanation(url, error) from error


def _explanation(url: str, error: Exception) -> PipelineError:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    for kind, told in _ANSWERS_OF_NO_USE.items():
        if kind in kinds:
            return ImageError(f"cannot be read: {told}")
    message = getattr(error, "strerror", None) or str(error)
    text = " ".join(message.split())[:300] or type(error).__name__
    response = getattr(error.__cause__ or error, "response", None)  # botocore's
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    status = getattr(error, "status", None) or getattr(error, "code", None)  # of HTTP
    if code in ("InvalidRange", "416") or str(status) == "416":
        return ImageError("0 bytes")
    if isinstance(error, FileNotFoundError):
        return ImageError("cannot be read: it does not exist")
    if str(status) == "400" and url.startswith("http"):  # as headers that are no HTTP
        return ImageError(f"cannot be read: {text}")
    forbidden = (
        isinstance(error, PermissionError)
        or str(status) in ("401", "403", "410")
        or text.startswith("Forbidden:")  # gcsfs, of 403
    )
    if forbidden and code not in _LOGIN_ERRORS:
        return ImageError(f"cannot be read: {text}")
    failure = PipelineError(
        f"cannot read {url}: {text}.",
        expected="a server that answers, and credentials where fsspec's libraries look for them",
        fix="see docs/buckets.md, and run the same command again: what was made so far is kept",
    )
    answered = response is not None or status is not None
    with _lock:
        file_system.cache_clear()  # next time, credentials are looked for again
        if not answered:
            unreachable[_server(url)] = time.monotonic(), failure
    return failure
