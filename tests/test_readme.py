"""Every command and block of Python in the README and its pages is run, as written there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from guide import GUIDE, PAGES, ROOT
from PIL import Image

from pipeline.backbones.registry import APPLICATIONS, BACKBONES
from pipeline.data.demo import demo_images

README = PAGES[0].read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def shell_commands():
    return [line for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A copy of the project with the environment of these tests, and a folder of photos."""
    folder = tmp_path_factory.mktemp("readme") / "project"
    results = shutil.ignore_patterns(".*", "runs", "vgg16-*", "*.sqlite")
    compiled = shutil.ignore_patterns("__pycache__")
    shutil.copytree(
        ROOT,
        folder,
        # `pipeline/runs` and `tests/runs` are code.
        ignore=lambda where, names: (
            results(where, names)
            if Path(where) in (ROOT, ROOT / "cache")
            else compiled(where, names)
        ),
    )
    (folder / ".venv").symlink_to(sys.prefix)
    for stamp in (".for-use", ".for-development"):  # what make would install is installed
        (Path(sys.prefix) / stamp).touch()
    for number, (path, label) in enumerate(demo_images()[::40]):
        picture = folder / "photos" / ("cats" if label == "defective" else "dogs")
        picture.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(picture / f"{number:03}.jpg", quality=95)
    for class_folder in (folder / "photos").iterdir():
        first = min(class_folder.iterdir())
        first.rename(class_folder / "001.jpg")
    return folder


def run(home, command):
    path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    environment.pop("MAKEFLAGS", None)  # the options of a `make test` are for that
    return subprocess.run(
        command,
        shell=True,
        check=False,
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=850,
    )


def test_the_readme_has_commands_and_python():
    assert {"make features     #", "make classify     #"} <= {
        line[:19] for line in shell_commands()
    }
    assert len(blocks("python")) == 3


@pytest.mark.parametrize(
    "command",
    # Checking and testing from within the tests would never end.
    [line for line in shell_commands() if not re.match(r"make (check|test|bench|torture)", line)],
)
def test_a_command_that_users_read_does_what_it_says(home, command):
    done = run(home, command)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if command.startswith("make classify"):
        assert "666 test images, never seen in training" in done.stdout
        assert float(re.search(r"rbf-svm \*?\s+(0\.\d+)", done.stdout)[1]) > 0.8
        assert (home / "runs" / "demo" / "confusion-rbf-svm.svg").exists()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_block_of_python_that_users_read_runs(home, number):
    (home / "block.py").write_text(blocks("python")[number], encoding="utf-8")
    done = run(home, f"{sys.executable} block.py")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) > 0.5


def test_the_targets_that_users_read_of_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", GUIDE, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_what_a_page_links_to_is_there(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_readme_leads_to_all_pages():
    for page in PAGES[1:]:
        assert f"](docs/{page.name})" in README


def test_the_networks_that_the_readme_counts_are_there():
    assert f"which of {len(BACKBONES)} networks suits" in README
    assert f"Keras downloads those of its {len(APPLICATIONS)} others" in GUIDE


def test_the_readmes_figures_are_those_of_the_results():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    figures = re.search(r"<!-- figures -->\n(.*?)\n<!-- end", README, re.DOTALL)[1]
    assert figures in results
    assert re.search(r"\d{4}-\d\d-\d\d", figures)
