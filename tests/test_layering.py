"""Who may import whom: data goes one way, and nothing below knows who calls it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

FOLDER = Path(pipeline.__file__).parent

# What each file, or folder, may import of the package beside `errors`, which all may.
MAY_IMPORT = {
    "errors": set(),
    "tensorflow": set(),
    "memory": set(),
    "recipe": set(),
    "images": set(),
    "demo": set(),
    "augment": set(),
    "evaluate": set(),
    "protocol": {"dataset", "evaluate", "problems"},
    "classification": {
        "backbone",
        "dataset",
        "evaluate",
        "examples",
        "exchange",
        "extraction",
        "heads",
        "memory",
        "model",
        "problems",
        "protocol",
        "recipe",
        "run",
        "store",
        "streaming",
    },
    "table": set(),
    "quantised": set(),
    "urls": set(),
    "report": {"digests", "evaluate", "images", "urls"},
    "index": set(),
    "packed": {"urls"},
    "store": {"index", "recipe"},
    "digests": {"images", "urls"},
    "dataset": {"images", "demo", "digests", "packed", "urls"},
    "exchange": {"recipe", "dataset", "urls"},
    "status": {"recipe", "store", "digests", "dataset", "extraction", "urls"},
    "optimizers": {"tensorflow"},
    "heads": {"memory", "optimizers", "tensorflow"},
    "problems": {"dataset", "heads"},
    "weights": {"tensorflow"},
    "backbone": {"images", "quantised", "recipe", "tensorflow", "weights"},
    "finetuning": {
        "augment",
        "backbone",
        "dataset",
        "digests",
        "evaluate",
        "examples",
        "extraction",
        "heads",
        "images",
        "model",
        "network",
        "optimizers",
        "problems",
        "recipe",
        "run",
        "store",
        "tensorflow",
        "urls",
        "weights",
    },
    "extraction": {
        "augment",
        "recipe",
        "images",
        "index",
        "packed",
        "digests",
        "dataset",
        "store",
        "backbone",
        "urls",
    },
    "streaming": {"dataset", "evaluate", "heads", "index", "packed", "store", "tensorflow"},
    "cluster": {"backbone", "extraction", "recipe", "store", "urls"},
    "model": {
        "augment",
        "backbone",
        "evaluate",
        "extraction",
        "heads",
        "network",
        "recipe",
        "urls",
    },
    "network": {"backbone", "heads", "recipe", "tensorflow", "weights"},
    "transformer": {"backbone", "extraction", "urls"},
    "examples": {"dataset", "heads", "model", "network", "tensorflow"},
    "run": {
        "dataset",
        "evaluate",
        "examples",
        "model",
        "problems",
        "protocol",
        "recipe",
        "report",
        "table",
    },
    "cli": {
        "augment",
        "backbone",
        "classification",
        "cluster",
        "dataset",
        "demo",
        "digests",
        "exchange",
        "extraction",
        "finetuning",
        "heads",
        "images",
        "model",
        "network",
        "problems",
        "protocol",
        "report",
        "run",
        "status",
        "store",
        "table",
        "urls",
    },
    "__main__": {"cli"},
    "__init__": set(),
}

# Libraries that one file, or a few, alone know.
ONLY_IN = {
    "tensorflow": {"tensorflow"},
    "keras": {"tensorflow"},
    "h5py": {"store", "exchange"},
    "sqlite3": {"digests"},
    "PIL": {"images"},
    "onnx": {"weights"},
    "openvino": {"quantised"},
    "dask": {"cluster"},
    "distributed": {"cluster"},
    "skops": {"model"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "typer": {"cli"},
    "rich": {"cli"},
}

SOURCES = sorted(FOLDER.rglob("*.py"))


def room(path: Path) -> str:
    """Name the file, or the folder of several that hold one thing, which a source belongs to."""
    return Path(path.relative_to(FOLDER).parts[0]).stem


def imports(source: str) -> set[str]:
    """List the modules that a file imports, anywhere in it, by their dotted names.

    An import for type checkers only is no import when the program runs, and is left out.
    """
    found = set()
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        ):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import; they are absolute here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
        todo += ast.iter_child_nodes(node)
    return found


def own(modules: set[str]) -> set[str]:
    """Keep what is of the package: `pipeline.errors.ImageError` is `errors`."""
    names = {room(path) for path in SOURCES}
    parts = [module.split(".") for module in modules]
    return {
        part[1] if len(part) > 1 and part[1] in names else "__init__"
        for part in parts
        if part[0] == "pipeline"
    }


def test_imports_are_found_wherever_they_stand():
    source = """
import keras
from pipeline import tensorflow, report
if TYPE_CHECKING:
    import h5py
else:
    import typer
def late():
    from pipeline.errors import ImageError
    import rich.table
    return importlib.import_module("onnx")
"""
    found = imports(source)
    assert found == {
        "keras",
        "pipeline.system.tensorflow",
        "pipeline.report",
        "typer",
        "pipeline.errors.ImageError",
        "rich.table",
        "onnx",
    }
    assert own(found) == {"tensorflow", "report", "errors"}
    assert own({"pipeline.classify"}) == {"__init__"}


def test_every_file_has_its_place_in_the_layering():
    assert {room(path) for path in SOURCES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_file_imports_only_what_lies_below_it(path):
    found = own(imports(path.read_text())) - {room(path)}
    assert found <= MAY_IMPORT[room(path)] | ({"errors"} - {room(path)})


def test_the_layers_have_no_circle():
    below = {name: set(may) for name, may in MAY_IMPORT.items()}
    while below:
        floor = {name for name, may in below.items() if not may & set(below)}
        assert floor, f"a circle among {sorted(below)}"
        below = {name: may for name, may in below.items() if name not in floor}


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_where_it_is_known(library):
    users = {
        room(path)
        for path in SOURCES
        if library in {module.split(".")[0] for module in imports(path.read_text())}
    }
    assert users, f"nobody imports {library}: take it out of this table"
    assert users <= ONLY_IN[library]


def test_tensorflow_is_never_imported_at_the_top_of_a_file():
    for path in SOURCES:
        top = {
            alias.name.split(".")[0]
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module)])
        }
        assert not top & {"tensorflow", "keras"}, path.name


def test_the_package_gives_what_it_announces_to_type_checkers():
    tree = ast.parse((FOLDER / "__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    announced = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(announced) == set(pipeline.__all__)
    for name, module in announced.items():
        assert getattr(pipeline, name).__module__ == module
    with pytest.raises(AttributeError, match="no attribute 'embed'"):
        pipeline.embed  # noqa: B018


HEAVY = (
    "distributed",
    "tensorflow",
    "keras",
    "openvino",
    "sklearn",
    "h5py",
    "matplotlib",
    "scipy",
    "numpy",
    "PIL",
)


def loaded_after(code: str) -> set[str]:
    """Run some Python in a fresh process, and tell which heavy libraries it imported."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return set(HEAVY) & set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy():
    assert loaded_after("import pipeline") == set()


def test_importing_all_of_its_names_does_not_import_tensorflow():
    loaded = loaded_after("from pipeline import *")
    assert not loaded & {"tensorflow", "keras"}
    assert "sklearn" in loaded  # so the names were imported


def test_the_way_in_names_every_file():
    table = (FOLDER.parent / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(\w+)(?:\.py|/)` \|", table, re.MULTILINE))
    assert named == MAY_IMPORT.keys() - {"__init__", "__main__"}
