"""A folder to hand on: a model, a program that runs it, and what is to be known of it."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from pipeline.models.model import Model
from pipeline.runs.model_card import write_card
from pipeline.runs.reading import Record
from pipeline.system.documents import to_json
from pipeline.system.packages import licence

MODEL = "model.onnx"
_PROGRAM = "pipeline.models.standalone"
_NEEDS = ("numpy", "onnxruntime", "pillow")
_NEEDED_FOR_VIEWS = ("scipy",)  # 140 MB, so only where a model averages views


def fill_folder(
    folder: Path, model: Model, record: Record | None, sentences: Sequence[str]
) -> None:
    """Put everything beside the model's file into a folder.

    The modules of this project that the program needs are copied as they are: it decodes by the
    same code.
    """
    modules = modules_of(_PROGRAM)
    (folder / "predict.py").write_bytes(modules.pop(_PROGRAM).read_bytes())
    for source in modules.values():
        target = folder / source.relative_to(_root().parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    needs = _NEEDS + (_NEEDED_FOR_VIEWS if model.views > 1 else ())
    pins = [f"{package}=={version(package)}\n" for package in needs]
    (folder / "requirements.txt").write_text("".join(pins), encoding="utf-8")
    (folder / "LICENSE").write_bytes(licence())
    labels = {
        "classes": model.classes,
        "positive": model.positive_class,
        "threshold": model.threshold.value if model.threshold else None,
    }
    (folder / "labels.json").write_text(to_json(labels), encoding="utf-8")
    (folder / "README.md").write_text(write_card(model, record, sentences), encoding="utf-8")


def modules_of(name: str) -> dict[str, Path]:
    """Find the files of a module and of all modules of this project that it imports."""
    found: dict[str, Path] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        spec = importlib.util.find_spec(module)
        if module not in found and spec and spec.origin:
            found[module] = Path(spec.origin)
            waiting += [own for own in _imports(found[module]) if own.startswith("pipeline")]
            waiting += [module.rpartition(".")[0]] if "." in module else []
    return found


def _imports(file: Path) -> Iterator[str]:
    """Yield the modules that a file imports when it runs, not those that name types only."""
    for node in _run(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            if node.module.startswith("pipeline"):
                yield from (own for own in names if (_root().parent / _path(own)).exists())


def _run(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _run(child)


def _path(module: str) -> str:
    return module.replace(".", "/") + ".py"


def _root() -> Path:
    return Path(__file__).parent.parent
