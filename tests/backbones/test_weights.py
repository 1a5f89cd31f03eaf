"""The ImageNet weights: the same from every source, as Keras publishes them, and no others."""

import io
import sys
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest

from pipeline.backbones.registry import make_recipe, remake_recipe
from pipeline.backbones.running import load_backbone
from pipeline.backbones.vgg16 import VGG16
from pipeline.backbones.weights import weights_digest
from pipeline.errors import WeightsError
from pipeline.system import tensorflow

PACKAGED = VGG16.published.packaged()
CONVOLUTIONS = [layer for layer in VGG16.layers if "conv" in layer]


pytestmark = pytest.mark.usefixtures("keras_home")


@pytest.fixture
def serve(monkeypatch):
    """Let Keras's download give a file, or fail."""
    _, keras = tensorflow.load()
    module = sys.modules[keras.applications.vgg16.VGG16.__module__]

    def serve(file=None):
        def get_file(*args, **options):
            if file is None:
                raise OSError("no network")
            return str(file)

        monkeypatch.setattr(module.file_utils, "get_file", get_file)

    return serve


@pytest.fixture(scope="module")
def weights():
    return VGG16().load_weights(PACKAGED)


@pytest.fixture(scope="module")
def network(weights):
    return VGG16().build(32, "float32", weights)


def save_as_keras_published_it(weights, file):
    """Write the layout of the file that Keras downloads: HDF5 groups with `weight_names`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as h5:
        names = ["input_1", *VGG16.layers]
        h5.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            group = h5.create_group(name)
            parts = [f"{name}_W_1:0", f"{name}_b_1:0"] if name in CONVOLUTIONS else []
            group.attrs["weight_names"] = [part.encode() for part in parts]
            for number, part in enumerate(parts):
                group[part] = weights[2 * CONVOLUTIONS.index(name) + number]
    return file


def changed(weights):
    """One value is another."""
    copies = [array.copy() for array in weights]
    copies[0][0, 0, 0, 0] += 1e-6
    return copies


def test_the_packaged_weights_have_the_values_that_keras_publishes(weights):
    arrays = dict(zip([f"{c}/{kind}" for c in CONVOLUTIONS for kind in "kb"], weights))
    published = {
        "block1_conv1": (0.42947057, None),
        "block5_conv1": (-0.0006068934, 0.09722325),
        "block5_conv2": (-0.0011261065, 0.21327873),
        "block5_conv3": (0.00040788297, 0.18837857),
    }
    for layer, (kernel, bias) in published.items():
        assert arrays[f"{layer}/k"][0, 0, 0, 0] == np.float32(kernel)
        assert bias is None or arrays[f"{layer}/b"][0] == np.float32(bias)
    assert arrays["block1_conv1/b"][25] == np.float32(0.7446502)
    assert arrays["block1_conv2/k"][2, 2, 63, 63] == np.float32(0.016082443)
    last = arrays["block5_conv3/b"]
    np.testing.assert_allclose(
        [last.mean(), last.std(), last.min(), last.max()],
        [0.14986369, 0.4928213, -0.50036746, 9.431553],
        rtol=1e-6,
    )


@pytest.mark.parametrize("kind", ["keras.h5", "base.weights.h5", "base.keras", "inside.keras"])
def test_every_kind_of_file_gives_the_same_arrays(network, weights, tmp_path, kind):
    _, keras = tensorflow.load()
    file = tmp_path / kind
    if kind == "keras.h5":
        save_as_keras_published_it(weights, file)
    elif kind == "base.weights.h5":
        network.save_weights(file)
    else:
        inside = keras.Sequential([network, keras.layers.Flatten()])
        (network if kind == "base.keras" else inside).save(file)
    read = VGG16().load_weights(file)
    assert len(read) == len(weights) == 26
    assert all(np.array_equal(array, other) for array, other in zip(read, weights))


def test_sources_are_tried_in_the_promised_order(weights, keras_home, serve, tmp_path, monkeypatch):
    serve(None)
    other = changed(weights)
    named = save_as_keras_published_it(other, tmp_path / "named.h5")
    assert weights_digest(VGG16().load_weights(named)) == weights_digest(other)
    cached = save_as_keras_published_it(other, keras_home / "models" / VGG16.published.keras_file)
    with pytest.raises(WeightsError, match=str(cached)):  # what it holds is refused, so it was read
        VGG16().load_weights()
    cached.unlink()
    assert len(VGG16().load_weights()) == 26  # of the package
    monkeypatch.setitem(sys.modules, VGG16.published.package, None)
    with pytest.raises(WeightsError, match=r"(?s)could not download.*onnx"):
        VGG16().load_weights()


def test_keras_own_download_gives_the_same_weights(weights, tmp_path, monkeypatch, serve):
    serve(save_as_keras_published_it(weights, tmp_path / "served.h5"))
    monkeypatch.setitem(sys.modules, VGG16.published.package, None)
    assert weights_digest(VGG16().load_weights()) == VGG16().weights_digest()


def test_other_weights_are_named_by_their_digest_in_the_recipe(weights, tmp_path):
    other = changed(weights)
    file = save_as_keras_published_it(other, tmp_path / "changed.h5")
    recipe = make_recipe(weights=file, size=32, precision="float32")
    assert recipe.weights == weights_digest(other) != make_recipe().weights
    assert remake_recipe(recipe) == recipe
    pixels = np.full((1, 32, 32, 3), 200, np.uint8)
    row = load_backbone(recipe, file)(pixels)
    published = load_backbone(make_recipe(size=32, precision="float32"))(pixels)
    assert row.any()
    assert not np.array_equal(row, published)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_weights_that_are_not_those_of_the_recipe_are_refused(weights, tmp_path, precision):
    file = save_as_keras_published_it(changed(weights), tmp_path / "changed.h5")
    layer = {"layer": "block1_pool", "calibration": "1"} if precision == "int8" else {}
    recipe = make_recipe(size=32, precision=precision, **layer)
    message = r"(?s)not VGG16's ImageNet weights.*digest d9a27cc1fc7f"
    with pytest.raises(WeightsError, match=message):
        load_backbone(recipe, file)
    other = make_recipe(size=32, precision=precision, weights=file, **layer)
    with pytest.raises(WeightsError, match="not the weights that the features were computed with"):
        load_backbone(other)


def test_weights_of_another_shape_and_files_that_are_none_are_refused(weights, tmp_path):
    narrow = [array[..., :-1] for array in weights]
    for name, make in {
        "narrow.h5": lambda file: save_as_keras_published_it(narrow, file),
        "text.h5": lambda file: file.write_text("not weights"),
        "text.keras": lambda file: file.write_text("not weights"),
        "text.onnx": lambda file: file.write_text("not weights"),
        "absent.h5": lambda file: None,
    }.items():
        make(tmp_path / name)
        with pytest.raises(WeightsError, match=name):
            VGG16().load_weights(tmp_path / name)


def with_part(file, name, content):
    """Replace a part of a Keras file."""
    with zipfile.ZipFile(file) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, own in (parts | {name: content}).items():
            archive.writestr(part, own)


@pytest.mark.parametrize(
    "description",
    [
        b'{"class_name": "Dense", "config": {"units": 4000000000, "input_shape": [4000000000]}}',
        b'{"class_name": "Lambda", "config": {"function": "lambda: 1"}}',
        b"[" * 10**6,
        b"",
    ],
    ids=["huge", "code", "deep", "none"],
)
def test_the_network_that_a_keras_file_describes_is_not_built(
    network, weights, tmp_path, description
):
    network.save(tmp_path / "base.keras")
    with_part(tmp_path / "base.keras", "config.json", description)
    read = VGG16().load_weights(tmp_path / "base.keras")
    assert weights_digest(read) == weights_digest(weights)


def stored_layers(file, change):
    """Change the weights in a Keras file."""
    with zipfile.ZipFile(file) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content, "r+") as stored:
        change(stored)
    with_part(file, "model.weights.h5", content.getvalue())


def as_chunks(stored):
    del stored["layers/conv2d/vars/0"]
    stored.create_dataset(
        "layers/conv2d/vars/0", (3, 3, 3, 64), "f4", chunks=(3, 3, 3, 64), compression="gzip"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (bytes(1 << 29), "it holds 536,870,912 bytes"),
        (b"no HDF5", "not an HDF5 file"),
        (lambda stored: stored.pop("layers/conv2d_5"), "it has no layer block3_conv2"),
        (lambda stored: stored["layers/conv2d/vars"].pop("1"), "block1_conv1 has another shape"),
        (
            lambda stored: stored["layers/conv2d/vars"].attrs.update(name="block1_conv2"),
            "two of its layers are named block1_conv2",
        ),
        (
            lambda stored: stored.update({"layers/more": h5py.ExternalLink("/x", "/y")}),
            "it has a link",
        ),
        (lambda stored: stored.update({"layers/more": stored["layers"]}), "in itself"),
        (as_chunks, "parts of 0 are missing"),
        (lambda stored: stored["layers/conv2d/vars"].update({"2": "text"}), "other arrays"),
    ],
)
def test_what_does_not_fit_in_a_keras_file_is_refused(network, tmp_path, change, reason):
    file = tmp_path / "base.keras"
    network.save(file)
    if callable(change):
        stored_layers(file, change)
    else:
        with_part(file, "model.weights.h5", change)
    tracemalloc.start()
    with pytest.raises(WeightsError, match=rf"base\.keras: .*{reason}") as refused:
        VGG16().load_weights(file)
    assert tracemalloc.get_traced_memory()[1] < 1 << 28
    tracemalloc.stop()
    assert "safe_mode" not in str(refused.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(weights, tmp_path, value):
    broken = [array.copy() for array in weights]
    broken[4].flat[-1] = value
    save_as_keras_published_it(broken, tmp_path / "broken.h5")
    with pytest.raises(WeightsError, match=r"broken\.h5: .*not finite"):
        VGG16().load_weights(tmp_path / "broken.h5")


def points_elsewhere(file, target, how):
    """Make a file of weights whose first kernel lies in another file, or is code."""
    if how == "code.keras":
        _, keras = tensorflow.load()
        inputs = keras.Input((8,))
        keras.Model(inputs, keras.layers.Lambda(lambda x: x)(inputs)).save(file)
    elif how == "elsewhere.onnx":
        onnx = pytest.importorskip("onnx")
        kernel = onnx.TensorProto(name="kernel", data_type=1, dims=[64, 3, 3, 3], data_location=1)
        kernel.external_data.add(key="location", value=f"../{target.name}")
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "", [], [], [kernel])), file)
    else:
        with h5py.File(file, "w") as root:
            root.attrs["layer_names"] = [name.encode() for name in CONVOLUTIONS]
            for name in CONVOLUTIONS:
                group = root.create_group(name)
                group.attrs["weight_names"] = [b"kernel", b"bias"]
                group["bias"] = np.zeros(1, np.float32)
                if how == "link.h5":
                    group["kernel"] = h5py.ExternalLink(str(target), "/kernel")
                else:
                    outside = [(str(target), 0, 4)]
                    group.create_dataset("kernel", (1,), np.float32, external=outside)


@pytest.mark.parametrize("how", ["code.keras", "elsewhere.onnx", "link.h5", "elsewhere.h5"])
def test_a_strangers_weights_run_no_code_and_read_no_file_elsewhere(tmp_path, how):
    folder, target = tmp_path / "stranger", tmp_path / "private"
    folder.mkdir()
    target.write_bytes(bytes(6912))
    points_elsewhere(folder / how, target, how)
    reason = {"code.keras": "it has no layer block1_conv1", "elsewhere.onnx": "outside"}.get(
        how, "[Ee]xternal"
    )
    with pytest.raises(WeightsError, match=reason):
        VGG16().load_weights(folder / how)
