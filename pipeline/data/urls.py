"""Images behind URLs, as in ``s3://bucket/photos``: naming, reading and listing them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeAlias

from pipeline.data.servers import REQUESTS_AT_ONCE, open_url, url_errors
from pipeline.errors import DataError, ImageError
from pipeline.system.threads import ReadingThreads

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters or more: C:\ is a folder
_MUCH = 1 << 25  # bytes of one file, behind the URL of a web server
_one_at_a_time = threading.Lock()
_WORTH_LISTING = 10  # files of one folder: one request lists 1,000 of them
_TIMES = frozenset({"lastmodified", "mtime", "updated", "created", "modified"})
_SIGNATURE_FIELDS = _TIMES | {"size", "etag", "generation"}
# Their tag or generation is another one after each change; a web server's tag may be made of a
# time in whole seconds.
_TAGS_ARE_EXACT = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"})
# An object that is written twice within a second can have other bytes and the same time, where
# times are in whole seconds. If it changed so shortly before it was listed, it is read again next
# time. This is how far a server's clock may be from ours.
_CLOCKS_DIFFER_SECONDS = 900


class Url(str):
    """A file or folder behind a URL, with those parts of `pathlib.Path` that are used here.

    It is a text: a million take little memory, and they are sent and written as they are.
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
        """The name's last dot and what comes after it, without what an address asks for."""
        return posixpath.splitext(without_query(self).name)[1]

    def absolute(self) -> Url:
        """Return itself."""
        return self

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self}/{name}")


class Unopened(Url):
    """A path or URL that came in a file, perhaps a stranger's: it is shown, and never opened."""

    __slots__ = ()

    @property
    def parent(self) -> Unopened:
        """All that comes before the name, so that any text can be put together again."""
        return Unopened(self[: len(self) - len(self.name)])

    def __truediv__(self, name: str) -> Unopened:
        return Unopened(f"{self}{name}")


Location: TypeAlias = Path | Url
"""Where a file is: on this machine, or behind a URL."""


def locate(where: str | Path, folder: Location | None = None) -> Location:
    """Return a URL or a path for what somebody wrote; `folder` is what it is relative to."""
    if isinstance(where, Path | Url):
        return where
    if match := _SCHEME.match(where):
        scheme, rest = match[1].lower(), where[match.end() :]
        if scheme in ("file", "local"):
            return Path(rest)
        return Url(f"{scheme}://{rest if '?' in rest else rest.rstrip('/')}")
    if not isinstance(folder, Url) or Path(where).is_absolute():
        return Path(folder if isinstance(folder, Path) else "", where)
    if ".." in where.split("/"):  # no object's name is up from another's
        scheme, _, inside = folder.partition("://")
        return Url(f"{scheme}://{posixpath.normpath(posixpath.join(inside, where))}")
    return folder / where


def without_query(file: Location) -> Location:
    """Leave out what an address of the web asks for: it is no part of a name, and may be a key."""
    is_address = isinstance(file, Url) and file.startswith(("http://", "https://"))
    return Url(re.split("[?#]", str(file))[0]) if is_address else file


def whole_name(file: Location) -> str:
    """Return a file's whole path, or its URL, without a look at the disk."""
    return str(file) if isinstance(file, Url) else os.path.abspath(file)  # noqa: PTH100


def read(url: Url, most: int | None = None) -> bytes:
    """Read a file, or up to so many bytes of it in one request."""
    with url_errors(url):
        system, path = _open(url)
        if most is not None and url.startswith("http"):
            return _read_stream(system, path, most)
        limits = {} if most is None else {"start": 0, "end": most}
        content: bytes = system.cat_file(path, **limits)
        return content


def _read_stream(system: Any, path: str, most: int) -> bytes:
    """Read up to so many bytes: a web server may send others than it is asked for, without end.

    Of those that send much, one is read at a time.
    """
    parts: list[bytes] = []
    with ExitStack() as at_end:
        # With a size, so that it is not asked for.
        stream = at_end.enter_context(system.open(path, block_size=0, size=most))
        size = 0
        while size < most and (part := stream.read(most - size)):
            parts.append(part)
            if size <= _MUCH < size + len(part):
                at_end.enter_context(_one_at_a_time)
            size += len(part)
        return b"".join(parts)


def _open(url: Url) -> tuple[Any, str]:
    if isinstance(url, Unopened):
        raise ImageError("its path came in a file of features, and is not opened")
    return open_url(url)


def list_tree(root: Url) -> dict[Url, bytes]:
    """List the files in a folder, at any depth, in one listing."""
    try:
        with url_errors(root):
            system, path = _open(root)
            system.invalidate_cache()
            now = time.time()
            listing = system.find(path, detail=True)
            system.invalidate_cache()  # a listing of a million files is large
    except ImageError as error:
        raise DataError(
            f"the folder {root} {error.found}.",
            expected="an existing bucket and folder, as in s3://bucket/photos, with permission to "
            "list them",
        ) from error
    start = len(path.rstrip("/")) + 1
    files = {
        name[start:]: _signature(root, info, now)
        for name, info in listing.items()
        if info.get("type") == "file" and name[start:] and not name.endswith("/")
    }
    return {root / name: files[name] for name in sorted(files, key=_walking_order)}


def signatures_of(urls: Iterable[Url]) -> dict[Url, bytes]:
    """Ask for the signatures of files that are named one by one, as `list_tree` gives them.

    Where many are in one folder it is listed. Files without a signature are left out.
    """
    files_in: dict[Url, list[Url]] = defaultdict(list)
    for url in urls:
        files_in[url.parent].append(url)
    signatures: dict[Url, bytes] = {}
    single: list[Url] = []
    for folder, files in files_in.items():
        if len(files) < _WORTH_LISTING or folder.startswith("http"):  # pages, not folders
            single += files
            continue
        with contextlib.suppress(ImageError), url_errors(folder):
            system, path = _open(folder)
            system.invalidate_cache()
            now = time.time()
            infos = {
                posixpath.basename(info["name"]): info for info in system.ls(path, detail=True)
            }
            system.invalidate_cache()
            signatures.update(
                (file, _signature(file, infos[file.name], now))
                for file in files
                if file.name in infos
            )
    with ReadingThreads(REQUESTS_AT_ONCE) as threads:
        signatures.update(zip(single, threads.map(_ask_for_signature, single)))
    return {url: signature for url, signature in signatures.items() if signature}


def _ask_for_signature(url: Url) -> bytes:
    with contextlib.suppress(ImageError), url_errors(url):
        system, path = _open(url)
        return _signature(url, system.info(path), time.time())
    return b""


def _signature(url: Url, info: Mapping[str, Any], now: float) -> bytes:
    """Digest what a server tells of a file: its size, and its tag or time of change.

    It is another one each time if what it tells may be the same for other bytes.
    """
    fields = ((re.sub("[^a-z]", "", key.lower()), value) for key, value in info.items())
    known = {key: value for key, value in fields if key in _SIGNATURE_FIELDS and value}
    if known.keys() <= {"size"}:
        return b""
    parts = sorted((key, str(value)) for key, value in known.items())
    exact = url.partition("://")[0] in _TAGS_ARE_EXACT and known.keys() & {"etag", "generation"}
    if not exact and any(_is_recent(known[key], now) for key in known.keys() & _TIMES):
        parts.append(("at", str(now)))
    return hashlib.sha256(repr(parts).encode()).digest()


def _is_recent(changed: Any, now: float) -> bool:
    """Tell whether a file may have changed twice at this time: whole seconds, and just now."""
    try:
        if isinstance(changed, str):
            iso = re.match(r"\d{4}-", changed)
            changed = (datetime.fromisoformat if iso else parsedate_to_datetime)(changed)
        seconds = changed.timestamp() if isinstance(changed, datetime) else float(changed)
    except (TypeError, ValueError, OverflowError):
        return True
    return seconds == int(seconds) and now - seconds < _CLOCKS_DIFFER_SECONDS


def _walking_order(name: str) -> list[tuple[bool, str]]:
    *folders, file = name.split("/")
    return [*((True, folder) for folder in folders), (False, file)]
