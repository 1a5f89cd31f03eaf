"""The program of a folder that is handed on, where it is called `predict.py`.

It stands beside `model.onnx` and the modules of this project that it imports, and needs no other
part of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.errors import ImageError, PipelineError, printable
from pipeline.models.portable import Portable
from pipeline.system.files import read_regular

_MOST_BYTES = 2**30  # of an image file
_SOME_FILES_UNUSABLE = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Classify image files, and return the exit code: 3 if some of them cannot be used."""
    parser = argparse.ArgumentParser(prog="predict.py", description="Classify image files.")
    parser.add_argument("image", nargs="+", help="image files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        model = Portable.load(Path(__file__).resolve().parent / "model.onnx")
        items = [_predict(model, path) for path in given.image]
    except PipelineError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    if given.json:
        sys.stdout.write(json.dumps(items, indent=2) + "\n")
    for item in items:
        path = printable(item["path"])
        if item["error"]:
            sys.stderr.write(f"skipped: {path}: {printable(item['error'])}\n")
        elif not given.json:
            name, p = _shown(model, item)
            sys.stdout.write(f"{path}\t{printable(item['label'])}\tP({printable(name)}) {p:.3f}\n")
    return _SOME_FILES_UNUSABLE if any(item["error"] for item in items) else 0


def _predict(model: Portable, path: str) -> dict[str, Any]:
    """Return what `pipeline predict --json` writes of an image."""
    item: dict[str, Any] = {"path": path, "label": None, "probabilities": {}}
    if model.threshold:
        item["threshold"] = asdict(model.threshold)
    try:
        content = read_regular(Path(path), _MOST_BYTES, follow=True)
        item["label"], item["probabilities"] = model.predict(content)
    except ImageError as error:
        return {**item, "error": error.found}
    except OSError as error:
        return {**item, "error": f"cannot be read: {error.strerror}"}
    return {**item, "error": None}


def _shown(model: Portable, item: dict[str, Any]) -> tuple[str, float]:
    """Return the class whose probability is shown, and that."""
    positive = model.threshold.positive if model.threshold else model.positive
    name = item["label"] if positive is None else model.classes[positive]
    return name, item["probabilities"][name]


if __name__ == "__main__":
    sys.exit(main())
