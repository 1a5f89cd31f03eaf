"""Packages that cannot be imported, and what to install: without this project on an index.

And commands that can be typed as they are, whether or not the environment is active.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from pipeline.errors import PipelineError

_PROJECT = "cached-feature-pipeline"
_PROGRAM = "pipeline"


def import_error(error: ImportError) -> PipelineError:
    """Return what a user can do about a package that cannot be imported."""
    text = str(error)
    if "annot allocate memory" in text or "failed to map segment" in text:
        return too_little_memory(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return PipelineError(
            f"the package {error.name} is not installed.",
            fix=install_hint(error.name.partition(".")[0]),
        )
    return PipelineError(
        f"a package cannot be imported: {text}",
        expected="the packages that this project asks for",
        fix="install it again in an environment of its own",
    )


def too_little_memory(error: Exception) -> PipelineError:
    """Return the error for a library that finds too little memory to be loaded."""
    return PipelineError(
        f"there is too little memory to start: {error}",
        expected="about 1 GB, and several of address space where that is limited (ulimit -v)",
    )


def licence() -> bytes:
    """Read this project's licence: that of the installed package, or of the checkout it is in."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files(_PROJECT) or ():
            if file.name == "LICENSE":
                return Path(str(file.locate())).read_bytes()
    return (Path(__file__).parents[2] / "LICENSE").read_bytes()


def install_hint(name: str) -> str:
    """Return the command that installs what an extra of this project asks for, or a package.

    Of a package that this project asks for, it is a version that it can use.
    """
    try:
        requirements = metadata.requires(_PROJECT) or []
    except metadata.PackageNotFoundError:
        requirements = []
    of_extra = re.compile(rf"""extra\s*==\s*['"]{re.escape(name)}['"]""")
    of_name = re.compile(rf"{re.escape(name)}(?![\w.-])", re.IGNORECASE)
    found = [*filter(of_extra.search, requirements)] or [*filter(of_name.match, requirements)]
    packages = dict.fromkeys(each.partition(";")[0].strip() for each in found)
    quoted = (f"'{package}'" for package in packages or [name])
    return f"{pip()} install {' '.join(quoted)}"


def pip() -> str:
    """Name the pip of this environment as a terminal finds it, which another may hide."""
    if _is_found(Path(sys.executable).with_name("pip")):
        return "pip"
    return _joined([sys.executable, "-m", "pip"])


def as_typed(command: str) -> str:
    """Have a command of this program begin as this one did, where its environment is not active."""
    called, begun = Path(sys.argv[0]), [sys.argv[0]]
    if called.parts[-2:] == (_PROGRAM, "__main__.py"):  # python -m pipeline
        called = Path(sys.executable).with_name(_PROGRAM)
        begun = [sys.executable, "-m", _PROGRAM]
    if called.stem != _PROGRAM or _is_found(called):
        return command
    return _joined(begun) + command.removeprefix(_PROGRAM)


def _is_found(program: Path) -> bool:
    """Whether a terminal finds this program by its name alone; on Windows there is a suffix."""
    found = shutil.which(program.stem)
    return found is not None and _without_suffix(found) == _without_suffix(program)


def _without_suffix(file: str | Path) -> Path:
    return Path(file).resolve().with_suffix("")


def _joined(command: list[str]) -> str:
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)
