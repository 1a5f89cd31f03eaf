"""Wrong names of networks, layers and sizes: one error that says what is near, or how to go on."""

import pytest
from conftest import paint_classes
from typer.testing import CliRunner

from pipeline.cli.main import app

LITE = ("--backbone", "efficientnet-lite0")
BOTH = (*LITE, "--backbone", "vgg16")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return paint_classes(tmp_path_factory.mktemp("named") / "photos", 2)


CASES = {
    "a network": (["--backbone", "mobilnetv2"], "unknown backbone", "mean mobilenetv2 or"),
    "one of several": (["--backbone", "vgg16", "--backbone", "vgg61"], "'vgg61'", "vgg16?"),
    "a layer": (["--layer", "block5_pol"], "unknown layer", "mean block5_pool or"),
    "another's layer": ([*LITE, "--layer", "block5_pool"], "unknown layer", "top_activation"),
    "twice": (["--backbone", "vgg16", "--backbone", "vgg16"], "named twice", "name it once"),
    "a layer of several": ([*BOTH, "--layer", "block5_pool"], "--layer", "one network only"),
    "weights of several": ([*BOTH, "--weights", "x.h5"], "--weights", "one network only"),
    "int8": ([*BOTH, "--precision", "int8"], "EfficientNet-Lite0", "float32"),
    "a scaling": ([*LITE, "--scaling", "unit"], "unknown scaling", "lite"),
    "too small": ([*LITE, "--size", "31"], "too small for EfficientNet-Lite0", "at least 32"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_name_or_size_is_one_error_that_says_what_is_right(photos, case, tmp_path):
    arguments, *pieces = CASES[case]
    where = ["--cache", str(tmp_path / "cache"), "--runs", str(tmp_path / "runs")]
    done = CliRunner().invoke(app, ["classify", str(photos), *where, *arguments])
    assert done.exit_code == 1
    assert done.stderr.count("Error:") == 1
    assert all(piece in " ".join(done.stderr.split()) for piece in pieces), done.stderr
    assert not (tmp_path / "cache").exists()
