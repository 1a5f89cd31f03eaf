"""A store's folder on disk: its recipe file, making it ready, and what can go wrong there."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.backbones.recipe import Recipe
from pipeline.errors import StoreError
from pipeline.system.files import clear_unfinished, make_folder, read_regular, write_file

ANY_UNFINISHED = ".*.tmp"
"""Pattern of temporary files in a store; those of older releases have other names."""

_RECIPE = "recipe.json"
_UNREADABLE = "unreadable.txt"
_MOST_BYTES = 2**20  # of a recipe
_MOST_BYTES_OF_DIGESTS = 2**26  # a million


def read_recipe(folder: Path) -> Recipe:
    """Read what made the rows in a folder."""
    with storage_errors(folder, "read"):
        content = read_regular(folder / _RECIPE, _MOST_BYTES)
    return Recipe.from_json(content.decode(errors="replace"), source=str(folder / _RECIPE))


def has_recipe(folder: Path) -> bool:
    """Tell whether a folder has a recipe file."""
    return os.path.lexists(folder / _RECIPE)


def list_stores(cache: Path) -> list[Path]:
    """List the folders of a cache that are stores, or should be."""
    files = (file for name in (f"*/{_RECIPE}", "*/*.h5") for file in cache.glob(name))
    return sorted({file.parent for file in files})


def prepare_folder(folder: Path, recipe: Recipe) -> None:
    """Make a folder, clear away what killed writers left, and write its recipe file.

    The recipe is written anew each time: to have written is the only proof that writing works.
    """
    with storage_errors(folder, "write"):
        make_folder(folder)
        clear_unfinished(folder, ANY_UNFINISHED)
        write_file(folder / _RECIPE, recipe.to_json(), sync_folder=True)


def note_unreadable(folder: Path, digests: Iterable[bytes]) -> None:
    """Write down which images could not be read, in addition to those before, where possible."""
    new = read_unreadable(folder).union(digests)
    with contextlib.suppress(OSError):
        write_file(folder / _UNREADABLE, "".join(f"{digest.hex()}\n" for digest in sorted(new)))


def read_unreadable(folder: Path) -> set[bytes]:
    """Read which images could not be read once: they are worth trying, not to be believed.

    Another release may read them, and somebody else may have written the file.
    """
    with contextlib.suppress(OSError, ValueError):
        lines = read_regular(folder / _UNREADABLE, _MOST_BYTES_OF_DIGESTS).decode("ascii").split()
        return set(map(bytes.fromhex, lines))
    return set()


def set_aside(path: Path, content: bytes | None) -> None:
    """Rename a damaged shard that has these bytes to end in ``.damaged``, where that is possible.

    On a cache that is read-only it stays where it is, and is not believed either.
    """
    aside = path.with_suffix(".damaged")
    with contextlib.suppress(OSError):
        path.rename(aside)
        # Made again by another process in between, it bears the same name: that one must stay.
        if content is not None and read_regular(aside, follow=True) != content:
            aside.replace(path)


@contextlib.contextmanager
def storage_errors(path: Path, action: str) -> Iterator[None]:
    """Turn an error of the system into a `StoreError`; `action` is "read" or "write"."""
    try:
        yield
    except MemoryError as error:
        raise StoreError(
            f"not enough memory to {action} {path}.", fix="close other programs, and run it again"
        ) from error
    except OSError as error:
        fix = "name another cache with --cache, or check the folder's permissions"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "make room on the disk and run the same command again: it goes on where it was"
        raise StoreError(
            f"cannot {action} {path}: {error.strerror or error}.",
            expected="a cache folder that can be read and written",
            fix=fix,
        ) from error
