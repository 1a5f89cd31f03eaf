"""Running graphs in OpenVINO, on this CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_PICTURES_PER_CALL = 8  # where the graph leaves it open
_TELEMETRY = "openvino_telemetry"
_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
_limits: dict[str, int] = {}

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Run = Callable[[Pixels], list[list[Floats]]]
"""Runs pictures, a few at a time, and lists the outputs of each few."""


def limit_threads(count: int) -> None:
    """Use so many threads in this process, for graphs that are compiled from now on."""
    _limits["INFERENCE_NUM_THREADS"] = count


def load() -> Any:
    """Import OpenVINO without its telemetry, which reports every import to Intel's server.

    OpenVINO runs without that package; it has no other switch for one process.
    """
    with _without_telemetry():
        import openvino
    return openvino


@contextmanager
def _without_telemetry() -> Iterator[None]:
    loaded = _TELEMETRY in sys.modules
    if not loaded:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if not loaded:
            del sys.modules[_TELEMETRY]


def write_graph(function: Any, file: Path, below: Any = None, **about: str) -> None:
    """Write a function of TensorFlow's as an OpenVINO graph (.xml, and .bin beside it).

    Its inputs are the outputs of the graph `below`, if there is one. Texts about it are kept in the
    graph's ``rt_info``.
    """
    ov = load()
    with _without_telemetry():
        graph = ov.convert_model(function)
    if below is not None:
        for parameter, result in zip(graph.get_parameters(), below.get_results()):
            parameter.output(0).replace(result.input_value(0))
        graph = ov.Model(graph.get_results(), below.get_parameters())
    for name, text in about.items():
        graph.set_rt_info(text, name)
    ov.serialize(graph, file)


def read_graph(file: Path) -> Any:
    """Read what `write_graph` wrote."""
    return load().Core().read_model(file)


def compile_graph(graph: Any, precision: str) -> Run:
    """Compile a graph that takes pixels, uint8 of shape (n, size, size, 3).

    What is not in 8 bits is computed in float32, or, for precision ``"bfloat16"``, in that. A graph
    that fixes n runs so many pictures at once; how many it is changes no bit of a row.
    """
    ov = load()
    settings = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        # Each core works on its own pictures: they never wait for each other.
        "PERFORMANCE_HINT": "THROUGHPUT",
        **_limits,
    }
    few = graph.inputs[0].partial_shape[0]
    per_call = few.get_length() if few.is_static else _PICTURES_PER_CALL
    queue = ov.AsyncInferQueue(ov.Core().compile_model(graph, "CPU", settings))

    def run(pixels: Pixels) -> list[list[Floats]]:
        starts = range(0, len(pixels), per_call)
        outputs: list[list[Floats]] = [[] for _ in starts]

        def keep(request: Any, place: int) -> None:
            outputs[place] = [tensor.data.copy() for tensor in request.output_tensors]

        queue.set_callback(keep)
        for place, start in enumerate(starts):
            queue.start_async({0: pixels[start : start + per_call]}, place)
        queue.wait_all()
        return outputs

    return run


def with_maxima(graph: Any, wanted: Sequence[bool]) -> Any:
    """Replace some outputs (n, height, width, channels) by their maxima over all places."""
    ov = load()
    op = ov.opset13
    outputs = [result.input_value(0) for result in graph.get_results()]
    results = [
        op.result(op.reduce_max(output, np.array([1, 2])) if maximum else output)
        for output, maximum in zip(outputs, wanted)
    ]
    return ov.Model(results, graph.get_parameters())


def with_results(graph: Any, results: Sequence[Any]) -> Any:
    """Return a graph with some of its outputs, in this order."""
    return load().Model(list(results), graph.get_parameters())


def joined(batches: list[list[Floats]]) -> list[Floats]:
    """Put together what a graph gives, a few pictures at a time: an array for each output."""
    return [np.concatenate(parts) for parts in zip(*batches)]
