"""What this machine can do."""

import pytest

from pipeline.system import machine
from pipeline.system.machine import free_memory, native_precision


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        (["avx2", "avx512_bf16"], "bfloat16"),
        (["amx_bf16"], "bfloat16"),
        (["avx2", "avx512f"], "float32"),
        ([], "float32"),
    ],
)
def test_bfloat16_is_taken_where_the_cpu_computes_in_it(flags, precision, monkeypatch):
    monkeypatch.setattr(machine, "cpu_flags", lambda: flags)
    assert native_precision() == precision


def test_there_is_free_memory():
    assert free_memory() > 2**20
