"""The plan of the house: data goes through the wings from top to bottom, never back up."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

FOLDER = Path(pipeline.__file__).parent
SOURCES = sorted(FOLDER.rglob("*.py"))

WINGS = (
    "system",
    "data",
    "backbones",
    "features",
    "heads",
    "evaluation",
    "models",
    "analysis",
    "runs",
    "report",
    "classification",
    "finetuning",
    "app",
    "cli",
)
"""From top to bottom: a file imports from its own wing and from those above it."""

ONLY_IN = {
    "tensorflow": {"system/tensorflow.py"},
    "keras": {"system/tensorflow.py", "heads/dense.py"},
    "h5py": {
        "system/hdf5.py",
        "features/shard.py",
        "features/exchange.py",
    },
    "sqlite3": {"data/digests.py"},
    "PIL": {
        *(f"data/{name}.py" for name in ("depth", "images", "jpeg", "levels", "whole")),
        "report/sheet.py",
    },
    "fsspec": {"data/servers.py"},
    "onnx": {"backbones/vgg16.py"},
    "onnxruntime": {"models/portable.py"},
    "openTSNE": {"analysis/image_map.py"},
    "openvino": {"backbones/openvino_engine.py"},
    "dask": {"features/cluster.py"},
    "distributed": {"features/worker.py"},
    "skops": {"models/loading.py"},
    "msgspec": {"system/documents.py", "models/files.py", "runs/documents.py"},
    "jinja2": {"report/rendering.py"},
    "starlette": {"app/guard.py", "app/label_routes.py", "app/site.py", "app/server.py"},
    "uvicorn": {"app/server.py"},
    "typer": {"cli"},
    "rich": {"cli", "runs/table.py"},
}
"""Which files, or wings, alone know a library."""


def name_of(path):
    return path.relative_to(FOLDER).as_posix()


def wing(path):
    return name_of(path).split("/")[0] if "/" in name_of(path) else ""


def imports(path):
    """List the modules that a file imports, anywhere in it, also for type checkers only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import; they are absolute here"
            for alias in node.names:
                module = FOLDER.parent / f"{node.module}/{alias.name}".replace(".", "/")
                is_module = module.with_suffix(".py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def own_imports(path):
    return {module for module in imports(path) if module.startswith("pipeline.")}


def test_the_listing_shows_three_files_and_the_wings():
    names = {path.name for path in FOLDER.iterdir() if path.name != "__pycache__"}
    assert names == {"__init__.py", "__main__.py", "errors.py", *WINGS}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_imports_only_from_its_own_wing_and_from_those_above(path):
    if not wing(path):
        return  # the ways in
    allowed = {"errors", *WINGS[: WINGS.index(wing(path)) + 1]}
    assert {module.split(".")[1] for module in own_imports(path)} <= allowed


def test_files_import_each_other_in_no_circle():
    below = {
        "pipeline." + name_of(path).removesuffix(".py").replace("/", "."): own_imports(path)
        for path in SOURCES
        if path.name != "__init__.py"
    }
    while below:
        floor = {name for name, others in below.items() if not others & set(below)}
        assert floor, f"a circle among {sorted(below)}"
        below = {name: others for name, others in below.items() if name not in floor}


def test_no_logic_hides_in_a_wings_init():
    for name in WINGS:
        [docstring] = ast.parse((FOLDER / name / "__init__.py").read_text()).body
        assert isinstance(docstring.value, ast.Constant)


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_where_it_is_known(library):
    users = {
        name_of(path)
        for path in SOURCES
        if library in {module.split(".")[0] for module in imports(path)}
    }
    known = ONLY_IN[library]
    assert {user if user in known else user.split("/")[0] for user in users} == known


def test_tensorflow_is_never_imported_at_the_top_of_a_file():
    for path in SOURCES:
        top = {
            alias.name.split(".")[0]
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module)])
        }
        assert not top & {"tensorflow", "keras"}, path.name


def functions():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def lines_of(function):
    """Count a function's lines without its docstring."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    docstring = first.end_lineno - first.lineno + 1 if has_docstring else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_no_function_is_longer_than_a_screen_or_takes_more_than_ten_parameters():
    for path, function in functions():
        where = f"{name_of(path)}: {function.name}"
        assert lines_of(function) <= 60, where
        arguments = function.args
        names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        count = sum(argument.arg not in ("self", "cls") for argument in names)
        assert count <= 10 or wing(path) == "cli", where


def test_no_file_is_longer_than_four_hundred_lines():
    for path in SOURCES:
        assert len(path.read_text().splitlines()) <= 400, name_of(path)


def test_no_two_classes_have_one_name():
    seen = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                assert node.name not in seen, f"{name_of(path)} and {seen[node.name]}: {node.name}"
                seen[node.name] = name_of(path)


def test_no_file_outside_backbones_knows_the_network_by_name():
    known = re.compile(r"vgg|block\d|\(4, 4, 512\)|103\.939", re.IGNORECASE)
    for path in SOURCES:
        if wing(path) != "backbones":
            assert not known.search(path.read_text()), name_of(path)


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
    "scipy",
    "numpy",
    "PIL",
)


def loaded_after(code):
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


def test_the_architecture_page_names_every_wing():
    page = (FOLDER.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert set(WINGS) <= set(re.findall(r"^\| `(\w+)/` \|", page, re.MULTILINE))
