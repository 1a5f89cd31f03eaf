"""Images behind URLs, as in ``s3://bucket/photos``: the only file that knows fsspec.

Credentials, endpoints and all other settings are those of fsspec and of the library that it takes
for a scheme: their environment variables and configuration files. Nothing here has any of its own.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import posixpath
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

from pipeline.errors import DataError, ImageError, PipelineError

REQUESTS_AT_ONCE = 32
"""What is asked of one bucket at the same time: a request waits far longer than it works."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters or more: C:\ is a folder
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
# By default, s3fs and botocore each try five times, which is six minutes where nobody answers, and
# all threads share ten connections. With this it is one minute.
_S3_CONFIG = {
    "max_pool_connections": REQUESTS_AT_ONCE,
    "read_timeout": 10,
    "retries": {"mode": "standard", "max_attempts": 2},
}
_S3_ATTEMPTS = 2
_WORTH_LISTING = 10  # files of one folder: a listing has 1,000 a request
_VERSION = frozenset(
    {"size", "etag", "lastmodified", "mtime", "updated", "generation", "created", "modified"}
)
_OF_THE_LOGIN = frozenset(
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
_UNREACHABLE_SECONDS = 10.0  # so long, nobody asks again where nobody answered


class Url(str):
    """A file or folder behind a URL, with as much of `pathlib.Path` as is used of it here.

    A text, so that a million of them cost little, travel to workers, and are written as they are.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """What comes after the last slash."""
        return self.rpartition("/")[2]

    @property
    def parent(self) -> Url:
        """What comes before the last slash."""
        return Url(self.rpartition("/")[0])

    @property
    def suffix(self) -> str:
        """The name's last dot and what comes after it."""
        return posixpath.splitext(self.name)[1]

    def absolute(self) -> Url:
        """Return itself."""
        return self

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self}/{name}")


Location: TypeAlias = Path | Url
"""Where a file is: on this machine, or behind a URL."""


def locate(where: str | Path, folder: Location | None = None) -> Location:
    """Tell URLs from paths.

    Parameters
    ----------
    where : str or Path
        What somebody wrote.
    folder : Path or Url, optional
        What it is relative to, if it is relative.
    """
    if isinstance(where, Path | Url):
        return where
    if found := _SCHEME.match(where):
        scheme, rest = found[1].lower(), where[found.end() :]
        if scheme in ("file", "local"):
            return Path(rest)
        return Url(f"{scheme}://{rest if '?' in rest else rest.rstrip('/')}")
    if not isinstance(folder, Url) or Path(where).is_absolute():
        return Path(folder if isinstance(folder, Path) else "", where)
    if ".." in where.split("/"):  # no object's name is up from another's
        scheme, _, inside = folder.partition("://")
        return Url(f"{scheme}://{posixpath.normpath(posixpath.join(inside, where))}")
    return folder / where


def read(url: Url, most: int | None = None) -> bytes:
    """Read a file, or up to so many bytes of it in one request.

    Raises
    ------
    ImageError
        There is no such file, or it may not be read: that is the file's own affair.
    PipelineError
        Nobody answers, or the answer is that something is wrong elsewhere. It tells nothing about
        the file, and may be otherwise next time.
    """
    with _asking(url):
        system, path = _opened(url)
        limits = {} if most is None else {"start": 0, "end": most}
        content: bytes = system.cat_file(path, **limits)
        return content


def list_files(root: Url) -> dict[Url, bytes]:
    """List the files in a folder, at any depth, in one listing.

    Returns
    -------
    dict of Url to bytes
        The files, in the order in which a folder is walked here: files first, then folders. For
        each, what tells whether it has changed; empty where the listing does not tell.

    Raises
    ------
    DataError
        There is no such folder, or it may not be listed.
    PipelineError
        As for `read`.
    """
    try:
        with _asking(root):
            system, path = _opened(root)
            system.invalidate_cache()
            found = system.find(path, detail=True)
            system.invalidate_cache()  # a listing of a million files is large
    except ImageError as error:
        raise DataError(
            f"the folder {root} {error.found}.",
            expected="a bucket and a folder that are there, as in s3://bucket/photos, and leave to "
            "list them",
        ) from error
    start = len(path.rstrip("/")) + 1
    files = {
        name[start:]: _signature(info)
        for name, info in found.items()
        if info["type"] == "file" and name[start:] and not name.endswith("/")
    }
    return {root / name: files[name] for name in sorted(files, key=_walking)}


def signatures_of(urls: Iterable[Url]) -> dict[Url, bytes]:
    """Find out what tells whether files have changed, of files that are named one by one.

    The folder of many is listed; of few, each is asked for. What cannot be told is left out.

    Raises
    ------
    PipelineError
        As for `read`.
    """
    in_folder: dict[Url, list[Url]] = defaultdict(list)
    for url in urls:
        in_folder[url.parent].append(url)
    signatures: dict[Url, bytes] = {}
    alone: list[Url] = []
    for folder, files in in_folder.items():
        if len(files) < _WORTH_LISTING or folder.startswith("http"):  # pages, not folders
            alone += files
            continue
        with contextlib.suppress(ImageError), _asking(folder):
            system, path = _opened(folder)
            system.invalidate_cache()
            listed = {posixpath.basename(one["name"]): one for one in system.ls(path, detail=True)}
            system.invalidate_cache()
            signatures.update(
                (one, _signature(listed[one.name])) for one in files if one.name in listed
            )
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        try:
            signatures.update(zip(alone, pool.map(_ask_for_signature, alone)))
        finally:
            pool.shutdown(cancel_futures=True)
    return {url: seen for url, seen in signatures.items() if seen}


def _ask_for_signature(url: Url) -> bytes:
    with contextlib.suppress(ImageError), _asking(url):
        system, path = _opened(url)
        return _signature(system.info(path))
    return b""


def _signature(info: Mapping[str, Any]) -> bytes:
    """Describe a file by what its server says of it: its size, and its tag or time of change."""
    named = ((re.sub("[^a-z]", "", key.lower()), value) for key, value in info.items())
    known = {key: str(value) for key, value in named if key in _VERSION and value}
    if known.keys() <= {"size"}:
        return b""
    return hashlib.sha256(repr(sorted(known.items())).encode()).digest()


def _walking(name: str) -> list[tuple[bool, str]]:
    *folders, file = name.split("/")
    return [*((True, folder) for folder in folders), (False, file)]


_opening = threading.Lock()
_unreachable: dict[str, tuple[float, PipelineError]] = {}


def _opened(url: Url) -> tuple[Any, str]:
    """Give the file system that a URL is on, and the path there."""
    place = _place(url)
    with _opening:
        when, reason = _unreachable.get(place, (-_UNREACHABLE_SECONDS, None))
        if reason and time.monotonic() - when < _UNREACHABLE_SECONDS:
            raise PipelineError(reason.found, expected=reason.expected, fix=reason.fix)
        system = _file_system(place)
    return system, system._strip_protocol(url)


@functools.cache
def _file_system(place: str) -> Any:
    scheme = place.partition("://")[0]
    try:
        import fsspec

        options: dict[str, Any] = {}
        if _EXTRAS.get(scheme) == "s3":
            users = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            options = {"config_kwargs": {**_S3_CONFIG, **users}}
        # One for all threads: fsspec's own cache has one for each, with connections of its own.
        system, _ = fsspec.url_to_fs(place, skip_instance_cache=True, **options)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        install = f"pip install 'cached-feature-pipeline[{extra}]'" if extra else str(error)
        raise PipelineError(
            f"{scheme}:// needs a package that is not installed.", fix=install
        ) from error
    except ValueError as error:
        if "not known" not in str(error):
            raise
        raise DataError(
            f"{place} has an unknown scheme, {scheme}://.",
            expected="a path, or a URL that fsspec knows, as in s3://bucket/photos",
        ) from error
    if _EXTRAS.get(scheme) == "s3":
        system.retries = _S3_ATTEMPTS
    return system


def _place(url: Url) -> str:
    """Give the part of a URL that says on which server, or in which bucket."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


@contextlib.contextmanager
def _asking(url: Url) -> Iterator[None]:
    try:
        yield
    except PipelineError:
        raise
    # What is raised is the business of each scheme's library; much of it is no OSError.
    except Exception as error:
        raise _explanation(url, error) from error


def _explanation(url: Url, error: Exception) -> PipelineError:
    """Tell what is a file's own affair, an `ImageError`, from what says nothing about it."""
    said = getattr(error, "strerror", None) or str(error)
    text = " ".join(said.split())[:300] or type(error).__name__
    response = getattr(error.__cause__ or error, "response", None)  # botocore's
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    status = getattr(error, "status", None) or getattr(error, "code", None)  # of HTTP
    if code in ("InvalidRange", "416") or str(status) == "416":
        return ImageError("0 bytes")
    if isinstance(error, FileNotFoundError):
        return ImageError("cannot be read: it is not there")
    forbidden = (
        isinstance(error, PermissionError)
        or str(status) in ("401", "403", "410")
        or text.startswith("Forbidden:")  # gcsfs, of 403
    )
    if forbidden and code not in _OF_THE_LOGIN:
        return ImageError(f"cannot be read: {text}")
    failure = PipelineError(
        f"cannot read {url}: {text}.",
        expected="a server that answers, and credentials where the libraries behind fsspec look",
        fix="see docs/buckets.md, and run the same command again: what was made so far is kept",
    )
    answered = response is not None or status is not None
    with _opening:
        _file_system.cache_clear()  # next time, credentials are looked for again
        if not answered:
            _unreachable[_place(url)] = time.monotonic(), failure
    return failure
