"""`pipeline backbones`, and `--backbone`, from a shell."""

import json
import re

import pytest
from conftest import paint, paint_classes
from typer.testing import CliRunner

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.registry import BACKBONES
from pipeline.cli.main import app


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(app, [str(part) for part in arguments])


def test_it_lists_every_network_those_on_this_machine_first(run):
    listed = json.loads(run("backbones", "--json").stdout)
    assert {network["name"] for network in listed} == set(BACKBONES)
    assert [network["name"] for network in listed[:2]] == ["vgg16", "efficientnet-lite0"]
    assert listed[0]["is_here"]
    shown = run("backbones").stdout
    for network in listed:
        assert network["name"] in shown
        assert network["licence"] in shown
        assert network["parameters"] > 900_000
        assert network["multiply_adds"] > 0


def test_an_unknown_network_is_an_error_that_names_the_nearest(run, tmp_path):
    result = run("features", "demo", "--backbone", "efficientnet-lite", "--cache", tmp_path)
    assert result.exit_code == 1
    assert "did you mean efficientnet-lite0" in result.stderr


def test_the_network_and_size_that_suit_are_proposed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Backbone, "is_here", property(lambda self: "lite0" in self.name))
    photos, cache = paint_classes(tmp_path / "photos", 6), tmp_path / "cache"
    compared = run("backbones", photos, "--cache", cache)
    assert compared.exit_code == 0
    assert re.search(r"network +pixels +rows", compared.stdout)
    *_, proposed = compared.stdout.splitlines()
    named = re.search(rf"--backbone (\S+) --size (\d+) --cache {cache}$", proposed)
    assert proposed == f"  pipeline classify {photos} {named[0].strip()}"
    advice = compared.stdout.splitlines()[-3]
    assert advice.startswith(f"{named[1]} at {named[2]} pixels is ")


def test_where_all_networks_guess_no_command_is_proposed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Backbone, "is_here", property(lambda self: "lite0" in self.name))
    photos = tmp_path / "photos"
    for number in range(24):  # of one kind, whatever the class
        paint(photos / "ab"[number % 2] / f"{number}.png", (90, 90, 90), number)
    compared = run("backbones", photos, "--cache", tmp_path / "cache")
    assert compared.exit_code == 0
    assert "None of these is clearly better than always naming" in compared.stdout
    assert "next:" not in compared.stdout
