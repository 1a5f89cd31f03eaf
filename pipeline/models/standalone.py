"""The program of a folder that is handed on, where it is called `predict.py`.

It stands beside `model.onnx` and the modules of this project that it imports, and needs no other
part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

try:
    from pipeline.data.ignored import is_ignored
    from pipeline.data.images import EXTENSIONS
    from pipeline.errors import ImageError, PipelineError, printable
    from pipeline.models.portable import Portable
    from pipeline.system.files import read_regular
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    needed = Path(__file__).with_name("requirements.txt")
    sys.exit(
        f"Error: the package {missing.name} is not installed.\n"
        f'  Do: "{sys.executable}" -m pip install -r "{needed}"'
    )

_MOST_BYTES = 2**30  # of an image file
_SOME_FILES_UNUSABLE = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Classify images, each answer printed before the next; return the exit code.

    That is 3 if some files cannot be used, and 1 after an error.
    """
    parser = argparse.ArgumentParser(prog="predict.py", description="Classify images.")
    parser.add_argument("image", nargs="+", help="image files, or folders of them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(given.image, as_json=given.json)
    except PipelineError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. The predictions so far are printed.\n")
        return 130
    except BrokenPipeError:  # whoever read has gone; Python would try once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(paths: Iterable[str], *, as_json: bool) -> int:
    failed = []

    def told(answers: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for answer in answers:
            if answer["error"]:
                failed.append(answer)
                path, error = printable(answer["path"]), printable(answer["error"])
                sys.stderr.write(f"skipped: {path}: {error}\n")
            yield answer

    images, others = _listed(paths)
    if not images:
        raise PipelineError("there are no images in the folders named.")
    model = Portable.load(Path(__file__).resolve().parent / "model.onnx")
    answers = told(_answers(model, images, others))
    if as_json:
        print_array(answers, _print)
    else:
        _print_lines(answers, model.positive_class)
    return _SOME_FILES_UNUSABLE if failed else 0


def as_answer(
    path: object,
    label: str | None,
    probabilities: Mapping[str, float],
    threshold: object,
    error: str | None,
) -> dict[str, Any]:
    """Return what is written in JSON of an image."""
    item = {"path": str(path), "label": label, "probabilities": probabilities}
    return {**item, **({"threshold": threshold} if threshold else {}), "error": error}


def print_array(items: Iterable[Mapping[str, Any]], write: Callable[[str], object]) -> None:
    """Write a JSON array, item by item; it is whole also where the work is stopped."""
    before = "["
    try:
        for item in items:
            text = json.dumps(item, indent=2).replace("\x7f", "\\u007f")
            text, before = f"{before}\n{textwrap.indent(text, '  ')}", ","
            write(text)  # a stop comes here, most likely
    finally:
        if before == ",":
            write("\n]\n")


def _print_lines(items: Iterable[Mapping[str, Any]], positive: str | None) -> None:
    for item in items:
        if not item["error"]:
            path, label = printable(item["path"]), item["label"]
            p = item["probabilities"][positive or label]
            _print(f"{path}\t{printable(label)}\tP({printable(positive or label)}) {p:.3f}\n")


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _listed(paths: Iterable[str]) -> tuple[list[Path], dict[Path, str]]:
    """Replace folders by the images in them, each once; return also what is none, and why."""
    images: dict[Path, Path] = {}
    others: dict[Path, str] = {}

    def refuse(error: OSError) -> None:
        others[Path(error.filename)] = f"a folder that cannot be read: {error.strerror}"

    for path in map(Path, paths):
        if not path.is_dir():
            images.setdefault(path.absolute(), path)
        for folder, folders, files in os.walk(path, onerror=refuse):
            folders[:] = sorted(name for name in folders if not is_ignored(name))
            for file in (Path(folder, name) for name in sorted(files) if not is_ignored(name)):
                if file.suffix.lower() in EXTENSIONS:
                    images.setdefault(file.absolute(), file)
                else:
                    others[file] = "not an image by its name"
    return [*images.values()], {
        path: reason for path, reason in others.items() if path.absolute() not in images
    }


def _answers(
    model: Portable, images: Iterable[Path], others: Mapping[Path, str]
) -> Iterator[dict[str, Any]]:
    """Yield what `pipeline predict --json` writes of each image."""
    threshold = asdict(model.threshold) if model.threshold else None
    for path in images:
        label: str | None = None
        p: dict[str, float] = {}
        error: str | None = None
        try:
            label, p = model.predict(read_regular(path, _MOST_BYTES, follow=True))
        except ImageError as unusable:
            error = unusable.found
        except OSError as unusable:
            error = f"cannot be read: {unusable.strerror}"
        yield as_answer(path, label, p, threshold, error)
    for path, reason in others.items():
        yield as_answer(path, None, {}, threshold, reason)


def _end(*_: object) -> None:
    sys.exit(143)  # what was begun is printed to its end


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
