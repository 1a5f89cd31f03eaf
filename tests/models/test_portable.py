"""Exported models: what they answer, and what is refused before anything is built from it."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from conftest import paint
from onnx import TensorProto, helper
from portables import (
    CLASSES,
    SIDE,
    array,
    described,
    description,
    elsewhere,
    field,
    graph,
    model,
    retagged,
    varint,
    with_text,
)

from pipeline.data.augmentation import PRESETS
from pipeline.data.images import decode
from pipeline.data.views import views_of
from pipeline.errors import ImageError, ModelError
from pipeline.models.onnx_file import KEY, description_of
from pipeline.models.portable import Portable

LARGE = 2**21
F1 = {"positive": 1, "value": 0.5, "aim": "f1"}


@pytest.fixture
def load(tmp_path):
    def load_bytes(content):
        (tmp_path / "model.onnx").write_bytes(content)
        return Portable.load(tmp_path / "model.onnx")

    return load_bytes


@pytest.fixture
def red(tmp_path):
    return paint(tmp_path / "red.png", (200, 60, 60), seed=0).read_bytes()


def test_an_exported_model_gives_the_probabilities_of_an_image(load, red):
    loaded = load(described())
    pixels = decode(red, SIDE)
    assert np.array_equal(loaded.pixels(red), pixels[None])
    values = pixels.mean(axis=(0, 1), dtype=np.float64) @ [[-0.05, 0.05], [0, 0], [0.05, -0.05]]
    expected = np.exp(values) / np.exp(values).sum()
    label, p = loaded.predict(red)
    assert label == "red"
    assert list(p) == list(CLASSES)
    assert [*p.values()] == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_threshold_is_applied_and_views_are_averaged(load, red):
    threshold = {"positive": 0, "value": 0.0, "aim": "f1"}
    views = {"views": 3, "augmentation": PRESETS["textbook"].name}
    loaded = load(described(threshold=threshold, **views))
    label, p = loaded.predict(red)
    assert label == "blue"  # P(blue) is 0 or more
    digest = bytes.fromhex("00" * 32)
    drawn = loaded.pixels(red)
    assert drawn.shape == (3, SIDE, SIDE, 3)
    assert not np.array_equal(drawn, views_of(drawn[0], PRESETS["textbook"], digest, 3))
    assert [*p.values()] == pytest.approx(loaded.probabilities(drawn).mean(axis=0).tolist())


def test_pictures_are_run_a_few_at_a_time_and_by_several_threads(load):
    loaded = load(described())
    pixels = np.random.default_rng(0).integers(0, 255, (700, SIDE, SIDE, 3), np.uint8)
    together = loaded.probabilities(pixels)
    assert together.shape == (700, 2)
    with ThreadPoolExecutor(4) as threads:
        alone = [*threads.map(loaded.probabilities, np.array_split(pixels, 70))]
    assert np.allclose(np.concatenate(alone), together, atol=1e-6)
    assert loaded.probabilities(pixels[:0]).shape == (0, 2)


def test_it_computes_in_the_cores_that_the_process_may_use(load):
    options = load(described()).session.get_session_options()
    assert options.intra_op_num_threads == len(os.sched_getaffinity(0))


def test_an_image_that_cannot_be_read_costs_only_itself(load, red):
    loaded = load(described())
    with pytest.raises(ImageError):
        loaded.predict(red[:100])
    assert loaded.predict(red)[0] == "red"


def test_a_description_is_added_to_what_onnx_reads(load):
    content = described()
    (pair,) = onnx.load_from_string(content).metadata_props
    assert (pair.key, json.loads(pair.value)["classes"]) == (KEY, list(CLASSES))
    assert description_of(content) == pair.value
    assert content.startswith(model())


def test_a_file_is_read_as_onnx_whatever_it_begins_with(load, red):
    content = model(producer_name="ORTM is how ONNX Runtime's own format is told")
    assert content[4:8] == b"ORTM"
    assert load(described(content)).predict(red)[0] == "red"


def test_any_byte_that_is_not_as_it_was_is_noticed(load):
    content = bytearray(described(threshold={"positive": 1, "value": 0.25, "aim": "f1"}))
    for place in range(len(content)):
        content[place] ^= 1
        with pytest.raises(ModelError):
            load(content)
        content[place] ^= 1
    assert load(content).classes == CLASSES


def constant(value):
    return helper.make_node("Constant", [], ["c"], value=value)


def shape(*sides):
    return helper.make_tensor("sides", TensorProto.INT64, [len(sides)], sides)


INFO = helper.make_tensor_value_info
FLOAT = INFO("pixels", TensorProto.FLOAT, ["n", SIDE, SIDE, 3])
SMALL = INFO("pixels", TensorProto.UINT8, ["n", 16, 16, 3])
P = INFO("p", TensorProto.FLOAT, ["n", 2])
BRANCH = helper.make_graph(
    [helper.make_node("Identity", ["p"], ["q"])], "b", [], [INFO("q", TensorProto.FLOAT, None)]
)


def with_array(content):
    """A model with an array in these bytes."""
    plain = model()
    before, _, rest = plain.partition(b"\x3a")
    size = int.from_bytes(rest[:2], "little")
    length = (size & 127) | (size >> 8) << 7
    assert varint(length) == rest[:2]
    inside = rest[2 : 2 + length] + field(5, content)
    return described(before + field(7, inside) + rest[2 + length :])


INNER = model(graph())[model(graph()).index(b"\x3a") :]
BIG = field(1, varint(LARGE) + varint(LARGE))  # the sides of an array
LONG = b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"  # a graph of 2**63 bytes


@pytest.mark.parametrize(
    ("content", "piece"),
    [
        (b"", "was not written by this program"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "the ONNX file is damaged"),
        (model(), "was not written by this program"),
        (with_text(model(), "{"), "description cannot be read"),
        (with_text(model(), "[" * 100_000), "description cannot be read"),
        (with_text(model(), '{"format": 1}'), "description cannot be read"),
        (described() + described()[len(model()) :], "or more than once"),
        (described(format=2), "is of format 2"),
        (described(digest="0" * 64), "was changed since it was exported"),
        (described().replace(b"colours", b"colourz"), "was changed since it was exported"),
        (described()[:100], "damaged: it was cut short"),
        (described() + LONG, "damaged: it was cut short"),
        (described() + b"\x0b", "damaged: it is no ONNX file"),
        (described() + b"\x38\x01", "was changed"),
        (described(field(7, 1, 0) + model()), "damaged: a number stands where"),
        (described(model(graph(arrays=[elsewhere("../../etc/passwd")]))), "from another file"),
        (described(model(graph(arrays=[elsewhere("weights.bin")]))), "from another file"),
        (described(model(graph([constant(elsewhere("/etc/passwd"))]))), "from another file"),
        (described(model(graph(arrays=[array(LARGE, LARGE)]))), "has 0 bytes"),
        (described(model(graph([constant(array(LARGE, LARGE))]))), "has 0 bytes"),
        (described(model(graph(arrays=[array(-1)]))), "values that are not in it"),
        (described(model(graph(arrays=[array(2, raw=bytes(12))]))), "of 2 values has 12 bytes"),
        (
            described(model(graph(arrays=[TensorProto(data_type=1, dims=[LARGE, LARGE])]))),
            "values that are not in it",
        ),
        (
            described(model(graph(sparse_initializer=[onnx.SparseTensorProto(dims=[LARGE])]))),
            "sparse arrays",
        ),
        (
            described(
                model(
                    graph(
                        [
                            helper.make_node(
                                "If", ["p"], ["q"], then_branch=BRANCH, else_branch=BRANCH
                            )
                        ]
                    )
                )
            ),
            "loops or branches",
        ),
        (
            described(model(graph([helper.make_node("Run", ["p"], ["q"], domain="com.evil")]))),
            "not ONNX's own",
        ),
        (
            described(
                model(opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("x", 1)])
            ),
            "not ONNX's own",
        ),
        (described(model() + b"\xa2\x01\x00"), "not needed to predict"),
        # what other readers of Protocol Buffers take for something else than is checked
        (described(retagged(model(), varint(2**32 + 0x3A))), "damaged: it is no ONNX file"),
        (described(retagged(model(), varint(2**35 + 0x3A))), "damaged: it is no ONNX file"),
        (described(retagged(model(), varint(0x3A, 5))), "damaged: it is no ONNX file"),
        (described(retagged(model(), varint(0x3A, 10)[:9] + b"\x02")), "it is no ONNX file"),
        (described(b"\x3b" + model() + b"\x3c"), "damaged: it is no ONNX file"),
        (described(model() + INNER), "unknown or there twice"),
        (described(retagged(model(), b"\x42")), "unknown or there twice"),
        (described(field(1, 9, 0) + field(8, field(2, 18, 0))), "it has no graph"),
        (described(model() + field(26, b"")), "unknown or there twice"),
        (described(model() + field(28, b"")), "unknown or there twice"),
        (described(model() + field(8, b"\x08\x01")), "damaged: it is no ONNX file"),
        (with_array(BIG + field(2, 2**32 + 1, 0) + field(9, b"")), "not in it"),
        (with_array(BIG + field(2, 8, 0) + field(9, b"")), "not in it"),
        (with_array(BIG + field(2, 99, 0) + field(9, b"")), "not in it"),
        (with_array(BIG + field(9, b"")), "not in it"),
        (with_array(BIG + field(1, bytes(8), 1) + field(2, 1, 0) + field(9, b"")), "damaged"),
        (with_array(BIG + field(1, bytes(4), 5) + field(2, 1, 0) + field(9, b"")), "damaged"),
        (
            with_array(field(1, b"\1" * 100 + varint(LARGE) * 2) + field(2, 1, 0) + field(9, b"")),
            "too many dimensions",
        ),
        (with_array(field(1, b"\1" * 10**6) + field(2, 1, 0)), "too many dimensions"),
        (with_array(field(1, 1, 0) + field(2, 1, 0) + field(2, 7, 0)), "there twice"),
        (with_array(field(1, 1, 0) + field(2, 1, 0) + field(9, b"1234") * 2), "there twice"),
        (with_array(field(1, 1, 0) + field(2, 8, 0) + field(6, b"text")), "unknown or there twice"),
        (with_array(field(2, 1, 0) + field(14, 2**32 + 1, 0)), "from another file"),
        (with_array(field(2, 1, 0) + field(14, b"\1")), "damaged"),
        (with_array(field(2, 1, 0) + field(3, b"")), "unknown or there twice"),
        *(
            (
                described(model(graph([helper.make_node("Run", ["p"], ["q"], domain=domain)]))),
                "not ONNX's own",
            )
            for domain in ("ai.onnx.ml", "com.microsoft", "ai.onnx.training")
        ),
        (described(model(graph([helper.make_node("Nonsense", ["p"], ["q"])]))), "cannot load it"),
        (described(model(graph(ends=([FLOAT], [P])))), "does not lead from 32 x 32 pixels to 2"),
        (described(model(graph(ends=([SMALL], [P])))), "does not lead from 32 x 32 pixels to 2"),
        (
            described(classes=["a", "b", "c"], positive=None),
            "does not lead from 32 x 32 pixels to 3",
        ),
        (described(model().replace(b"pixels", b"pi\xffels")), "cannot load it"),
        (described(classes=["a", "a"]), "does not make sense"),
        (described(classes=["a"]), "does not make sense"),
        (described(classes=["a", 1]), "does not make sense"),
        (described(classes=None), "does not make sense"),
        (described(positive=2), "does not make sense"),
        (described(threshold={"positive": 1, "value": 7.0, "aim": ""}), "does not make sense"),
        (described(threshold={"positive": 1, "value": "x", "aim": ""}), "does not make sense"),
        (described(threshold="high"), "does not make sense"),
        *(
            (
                described(threshold=F1 | own),
                "not make sense",
            )
            for own in [
                {"aim": ["f1"]},
                {"positive": 1.0},
                {"value": None},
                {"images": "many"},
                {"images": 9, "positives": [1]},
                {"colour": "red"},
            ]
        ),
        (described(positive=1.0), "does not make sense"),
        (described(positive="red"), "does not make sense"),
        (
            described(threshold=F1, classes=list("abc")),
            "not make sense",
        ),
        (described(views=2), "does not make sense"),
        (described(views=10**9, augmentation=PRESETS["mild"].name), "does not make sense"),
        *(
            (
                described(
                    recipe={**description()["recipe"], "size": size},
                    views=views,
                    augmentation=PRESETS["mild"].name,
                ),
                "not make sense",
            )
            for size, views in [(8192, 65535), (1024, 400), (8192, 6), (32, 65536)]
        ),
        (described(augmentation="nothing known"), "does not make sense"),
        (described(recipe={}), "does not make sense"),
        *(
            (described(recipe={**description()["recipe"], name: value}), "does not make sense")
            for name, value in [
                ("size", 10**6),
                ("size", -1),
                ("size", 32.0),
                ("resize", "lanczos"),
                ("resize", []),
                ("decoding", "99"),
            ]
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_not_ours_or_does_harm_is_refused_with_its_reason(
    load, content, piece, capfd
):
    with pytest.raises(ModelError) as refused:
        load(content)
    assert piece in refused.value.found
    assert "model.onnx" in refused.value.found
    assert refused.value.expected
    assert capfd.readouterr() == ("", "")


def wanting(megabytes, kind):
    """A graph that takes so much memory, for what is known when it is loaded."""
    sides = shape(megabytes * 2**8, 2**10)
    one = helper.make_tensor("one", TensorProto.FLOAT, [1, 1], [0.0])
    inputs = ["one", "sides"] if kind == "Expand" else ["sides"]
    nodes = [
        helper.make_node(kind, inputs, ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["p", "sum"], ["q"]),
    ]
    return described(model(graph(nodes, arrays=[sides, one], output="q")))


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand"])
@pytest.mark.parametrize("megabytes", [6_000, 4_000_000])
def test_a_graph_that_wants_more_memory_than_a_network_takes_is_refused(load, megabytes, kind):
    loaded = load(wanting(megabytes, kind))
    with pytest.raises(ModelError, match="cannot be run"):
        loaded.probabilities(np.zeros((1, SIDE, SIDE, 3), np.uint8))


LOADED = """
import resource, sys
from pathlib import Path
from pipeline.models.portable import Portable

for file in sys.argv[1:]:
    Portable.load(Path(file))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is counted otherwise")
def test_nothing_of_a_graph_is_computed_while_it_is_loaded(tmp_path):
    files = tmp_path / "small.onnx", tmp_path / "large.onnx"
    for file, megabytes in zip(files, (1, 600)):
        file.write_bytes(wanting(megabytes, "Expand"))
    command = [sys.executable, "-c", LOADED, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split())
    assert large - small < 100_000  # KB


def test_what_is_no_probability_is_refused(load):
    for node in (
        helper.make_node("Neg", ["p"], ["q"]),
        helper.make_node("Add", ["p", "p"], ["q"]),
        helper.make_node("Log", ["colours"], ["q"]),
        helper.make_node("Transpose", ["p"], ["q"]),
    ):
        loaded = load(described(model(graph([node], output="q"))))
        with pytest.raises(ModelError, match="does not give probabilities"):
            loaded.probabilities(np.zeros((3, SIDE, SIDE, 3), np.uint8))


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"none.onnx cannot be read: No such file"):
        Portable.load(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        Portable.load(tmp_path)


WITHOUT_PACKAGES = """
import sys
from pathlib import Path
from pipeline.models.portable import Portable

label, p = Portable.load(Path(sys.argv[1])).predict(Path(sys.argv[2]).read_bytes())
print(label)
print(*sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names))
"""


def test_it_needs_numpy_pillow_and_onnx_runtime_alone(tmp_path, red):
    (tmp_path / "model.onnx").write_bytes(described())
    (tmp_path / "red.png").write_bytes(red)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGES, tmp_path / "model.onnx", tmp_path / "red.png"],
        capture_output=True,
        text=True,
        check=True,
    )
    label, packages = done.stdout.splitlines()
    assert label == "red"
    assert {"pipeline", "numpy", "PIL", "onnxruntime"} <= set(packages.split())
    heavy = {"tensorflow", "keras", "sklearn", "scipy", "openvino", "onnx", "h5py", "msgspec"}
    assert heavy.isdisjoint(packages.split())
