"""What is proposed to be typed works as it is: also where the environment is not active."""

import sys

import pytest

from pipeline.system.packages import as_typed, install_hint


@pytest.fixture
def bin_folder(tmp_path, monkeypatch):
    """An environment's folder of programs, in the working directory."""
    folder = tmp_path / "my env" / "bin"
    folder.mkdir(parents=True)
    for name in ("pipeline", "pip", "python"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return folder


@pytest.mark.parametrize("called", ["my env/bin/pipeline", "./my env/bin/pipeline"])
def test_a_command_begins_as_this_one_did_where_a_terminal_does_not_find_it(
    bin_folder, monkeypatch, called
):
    monkeypatch.setattr(sys, "argv", [called, "classify", "demo"])
    assert as_typed("pipeline problems demo") == f"'{called}' problems demo"
    monkeypatch.setenv("PATH", str(bin_folder))
    assert as_typed("pipeline problems demo") == "pipeline problems demo"


def test_the_program_of_another_environment_is_not_proposed(bin_folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (bin_folder / "pipeline").rename(other / "pipeline")
    (bin_folder / "pip").rename(other / "pip")
    (bin_folder / "pipeline").write_text("#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(other))
    monkeypatch.setattr(sys, "argv", ["my env/bin/pipeline"])
    assert as_typed("pipeline cache list") == "'my env/bin/pipeline' cache list"
    assert install_hint("other") == f"'{bin_folder}/python' -m pip install 'other'"


def test_python_m_is_repeated_where_there_is_no_program_to_find(bin_folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/pipeline/__main__.py"])
    assert as_typed("pipeline cache list") == f"'{bin_folder}/python' -m pipeline cache list"
    monkeypatch.setenv("PATH", str(bin_folder))
    assert as_typed("pipeline cache list") == "pipeline cache list"


def test_other_ways_to_start_it_leave_a_command_as_it_is(bin_folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/pytest"])
    assert as_typed("pipeline cache list") == "pipeline cache list"


def test_the_pip_that_a_terminal_finds_is_proposed_where_it_is_that_of_this_environment(
    bin_folder, monkeypatch
):
    assert install_hint("other") == f"'{bin_folder}/python' -m pip install 'other'"
    monkeypatch.setenv("PATH", str(bin_folder))
    assert install_hint("other") == "pip install 'other'"


def test_one_package_of_an_extra_is_named_with_its_bound_and_without_the_others(monkeypatch):
    needed = ["numpy>=2", "starlette>=1.0; extra == 'app'", 'openTSNE>=1.0; extra == "app"']
    monkeypatch.setattr("importlib.metadata.requires", lambda _: needed)
    monkeypatch.setattr("pipeline.system.packages.pip", lambda: "pip")
    assert install_hint("openTSNE") == "pip install 'openTSNE>=1.0'"
    assert install_hint("app") == "pip install 'starlette>=1.0' 'openTSNE>=1.0'"
    assert install_hint("openTSN") == "pip install 'openTSN'"
    assert install_hint("numpy") == "pip install 'numpy>=2'"
