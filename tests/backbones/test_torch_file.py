"""PyTorch's files: tensors are read, and nothing in them is run."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest

from pipeline.backbones.torch_file import read_tensors

MAGIC = 0x1950A86A20F9469CFC6C
NUMBERS = np.arange(24, dtype="<f4")


class Named:
    """What is pickled as a function or class of that name."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Pickler(pickle._Pickler):
    """Writes names of a library that is not installed, and storages by their place."""

    def persistent_id(self, value):
        return value.arguments if isinstance(value, Call) and value.function == "storage" else None

    def save(self, value, *arguments, **options):
        if isinstance(value, Named):
            self.write(f"c{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Call) and value.function != "storage":
            self.save_reduce(lambda: None, value.arguments, obj=value)
        else:
            super().save(value, *arguments, **options)

    def save_reduce(self, function, arguments, *rest, obj=None, **options):
        if isinstance(obj, Call):
            self.save(obj.function)
            self.save(arguments)
            self.write(pickle.REDUCE)
        else:
            super().save_reduce(function, arguments, *rest, obj=obj, **options)


def dumped(value):
    import io

    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def tensor(shape, strides, offset=0, length=24, kind="FloatStorage"):
    storage = Call("storage", "storage", Named("torch", kind), "key", "cpu", length, None)
    rebuild = Named("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, shape, strides, False, OrderedDict())


def torch_file(tensors, numbers=NUMBERS, length=24):
    head = [pickle.dumps(part, 2) for part in (MAGIC, 1001, {"little_endian": True})]
    storages = pickle.dumps(["key"], 2) + length.to_bytes(8, "little") + numbers.tobytes()
    return b"".join(head) + dumped(tensors) + storages


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "expected"),
    [
        ((4, 6), (6, 1), 0, NUMBERS.reshape(4, 6)),
        ((6, 4), (1, 6), 0, NUMBERS.reshape(4, 6).T),  # not as it lies in the file
        ((2, 3), (3, 1), 18, NUMBERS[18:].reshape(2, 3)),
        ((), (), 5, NUMBERS[5]),
    ],
)
def test_tensors_are_read_with_their_strides(shape, strides, offset, expected):
    read = read_tensors(torch_file({"w": tensor(shape, strides, offset)}))
    assert np.array_equal(read["w"], expected)


@pytest.mark.parametrize(
    "given",
    {
        "beyond the end": tensor((4, 7), (6, 1)),
        "before the start": tensor((4,), (-1,), 3),
        "negative offset": tensor((4,), (1,), -4),
        "huge stride": tensor((2, 2), (1 << 60, 1)),
        "negative side": tensor((-4,), (1,)),
        "huge by stride 0": tensor((1 << 40,), (0,)),
        "longer than the file": tensor((4,), (1,), length=1 << 50),
        "other numbers": tensor((4,), (1,), kind="QInt8Storage"),
        "code": Call(Named("os", "system"), "touch harmed"),
        "builtins": Call(Named("builtins", "eval"), "open('harmed', 'w')"),
        "no tensor": 7,
    }.items(),
    ids=lambda item: item[0],
)
def test_what_is_no_tensor_in_the_file_is_refused(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, pickle.UnpicklingError, AttributeError, TypeError)):
        read_tensors(torch_file({"w": given[1]}))
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused():
    for content in (b"", b"PK\x03\x04", pickle.dumps(1), torch_file({})[:40]):
        with pytest.raises(Exception):  # noqa: B017, PT011 -- pickle raises many kinds
            read_tensors(content)
