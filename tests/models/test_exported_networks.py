"""Networks as they are in files: in float32, in 8 bits, and fine-tuned."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.backbones.registry import get_backbone, make_recipe
from pipeline.backbones.running import calibrate, load_backbone
from pipeline.errors import ModelError
from pipeline.heads.registry import get_head
from pipeline.models.export import export_model
from pipeline.models.formats import FORMATS
from pipeline.models.model import Model
from pipeline.models.network import Network, TunedClassifier
from pipeline.system.machine import CPU_HAS_INT8, cpu_flags

ABOUT = {"model": "0" * 64}


def drawn(count, seed=0):
    """Pictures of coarse squares; every second one is redder."""
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 200, (count, 8, 8, 3)).astype(np.uint8)
    squares[::2, ..., 0] += 50
    return squares.repeat(8, axis=1).repeat(8, axis=2)


def fitted(recipe, head="logistic"):
    rows = load_backbone(recipe)(drawn(30)).reshape(30, -1)
    estimator = get_head(head).build(0).fit(rows, np.arange(30) % 2)
    return Model(recipe, head, ("red", "other"), estimator)


def exported(model, kind, folder):
    target = FORMATS[kind]
    out = folder / f"model{target.suffix}"
    parity = export_model(model, kind, out, drawn(8, seed=1), about=ABOUT)
    return parity, target.load(out)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_maxima_of_every_layer_are_rows_as_in_the_cache(tmp_path, precision):
    recipe = make_recipe("efficientnet-lite0", layer="layers", size=64, precision=precision)
    parity, _ = exported(fitted(recipe), "openvino", tmp_path)
    assert parity.difference < 1e-3
    assert (parity.own_difference > parity.difference) == (precision == "bfloat16")


@pytest.mark.parametrize(("precision", "classes"), [("float32", 3), ("bfloat16", 2)])
def test_a_fine_tuned_network_is_exported_with_what_it_learned(tmp_path, precision, classes):
    backbone = get_backbone("efficientnet-lite0")
    layer = backbone.below(backbone.default_cut)
    recipe = make_recipe(backbone.name, layer=layer, size=64, precision=precision)
    parameters = {"pool": "average", "units": 8, "dropout": 0.5}
    network = Network(recipe, classes, weights=backbone.load_weights(), **parameters)
    rng = np.random.default_rng(0)
    network.tail.set_weights(
        [own * rng.uniform(0.9, 1.1, own.shape) for own in network.tail.get_weights()]
    )
    names = ("red", "green", "blue")[:classes]
    model = Model(recipe, "finetuned", names, TunedClassifier(network, classes, parameters))
    parity, run = exported(model, "keras", tmp_path)
    assert parity.difference < 1e-4
    p = run(drawn(3))
    assert p.shape == (3, classes)
    assert p.std() > 0.001


@pytest.mark.parametrize("layer", [None, "layers"])
def test_a_network_in_8_bits_is_exported_to_openvino_only(tmp_path, layer):
    if CPU_HAS_INT8.isdisjoint(cpu_flags()):
        pytest.skip("this CPU has no instructions for int8")
    recipe = make_recipe("vgg16", layer=layer, size=64, precision="int8")
    if layer:
        whole = calibrate(make_recipe("vgg16", size=64, precision="int8"), drawn(8))
        recipe = replace(recipe, calibration=whole.calibration)
    else:
        recipe = calibrate(recipe, drawn(8))
    model = fitted(recipe)
    parity, _ = exported(model, "openvino", tmp_path)
    assert parity.difference < 1e-3
    assert parity.own_difference == parity.difference
    with pytest.raises(ModelError, match="int8 cannot be exported to ONNX"):
        exported(model, "onnx", tmp_path)


def test_what_a_converter_cannot_do_is_one_error(tmp_path, monkeypatch):
    def write(self, graph, file, description):
        raise NotImplementedError("no such operation")

    monkeypatch.setattr(type(FORMATS["onnx"]), "write", write)
    model = fitted(make_recipe("efficientnet-lite0", size=64, precision="float32"))
    with pytest.raises(ModelError, match=r"exported to ONNX: .*no such operation") as error:
        exported(model, "onnx", tmp_path)
    assert "use another --format (onnx, openvino" in str(error.value)
    assert list(tmp_path.iterdir()) == []
