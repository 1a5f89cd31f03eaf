"""ONNX files as the project writes them, small and made by hand, and such as do harm."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.models.onnx_file import KEY, with_description

SIDE = 32
CLASSES = ("blue", "red")


def graph(nodes=(), *, weights=None, ends=None, output="p", **parts):
    """A graph from pixels to probabilities: the mean colour, a product, softmax."""
    weights = np.array([[-0.05, 0.05], [0, 0], [0.05, -0.05]]) if weights is None else weights
    arrays = {"weights": weights.astype(np.float32), "places": np.array([1, 2])}
    inputs = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", SIDE, SIDE, 3])
    outputs = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", len(weights[0])])
    return helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["levels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["levels", "places"], ["colours"], keepdims=0),
            helper.make_node("MatMul", ["colours", "weights"], ["values"]),
            helper.make_node("Softmax", ["values"], ["p"], axis=-1),
            *nodes,
        ],
        "model",
        *(ends or ([inputs], [outputs])),
        [
            *(numpy_helper.from_array(array, name) for name, array in arrays.items()),
            *parts.pop("arrays", ()),
        ],
        **parts,
    )


def model(whole=None, **settings):
    """The bytes of a model without a description."""
    opsets = settings.pop("opset_imports", [helper.make_opsetid("", 18)])
    made = helper.make_model(whole or graph(), opset_imports=opsets, ir_version=9, **settings)
    return made.SerializeToString()


def description(**changes):
    """The description of such a model."""
    return {
        "format": 1,
        "head": "logistic",
        "classes": CLASSES,
        "positive": 1,
        "threshold": None,
        "views": 1,
        "augmentation": "none",
        "trained_on": "",
        "recipe": {"size": SIDE, "resize": "bilinear", "decoding": "1"},
        "model": "",
        **changes,
    }


def described(content=None, **changes):
    """The bytes of a model with its description."""
    content = model() if content is None else content
    whole = description(**changes)
    if "digest" in changes:
        return with_text(content, json.dumps(whole))
    try:
        return with_description(content, whole)
    except ModelError:  # no digest can be made of it
        text = json.dumps({**whole, "digest": ""}).encode()
        return content + field(14, field(1, KEY.encode()) + field(2, text))


def with_text(content, text):
    """Such bytes with any text in the place of the description."""
    made = onnx.load_from_string(content)
    made.metadata_props.add(key=KEY, value=text)
    return made.SerializeToString()


def field(number, value, kind=2):
    """A field of a message, whatever it is: its number, then its length and bytes, or a number."""
    if kind == 2:
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3 | kind) + (varint(value) if kind == 0 else value)


def varint(number, length=1):
    """A number as Protocol Buffers write it, if need be in more bytes than it takes."""
    parts = []
    while number > 127 or len(parts) < length - 1:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def retagged(content, tag):
    """Such a model with another tag before its graph."""
    before, _, after = content.partition(b"\x3a")
    return before + tag + after


def array(*sides, raw=b"", **settings):
    """An array as it stands in a file, whatever its bytes are."""
    return TensorProto(
        name="big", data_type=TensorProto.FLOAT, dims=sides, raw_data=raw, **settings
    )


def elsewhere(path):
    """An array that lies in another file."""
    pair = onnx.StringStringEntryProto(key="location", value=path)
    return TensorProto(
        name="big",
        data_type=TensorProto.FLOAT,
        dims=[4],
        data_location=TensorProto.EXTERNAL,
        external_data=[pair],
    )
