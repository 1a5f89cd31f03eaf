"""Ways to get VGG16's features of a folder of images, each run in a process of its own.

A process loads its network, then waits for a line on standard input; for each, it goes through the
images once, from files to features on disk, and answers with wall and CPU seconds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

Pass = Callable[[list[Path], Path], None]
"""Goes from image files to features in a folder."""

SIZE = 150
RECIPE_BATCH = 20  # Chollet's


def recipe() -> Pass:
    """As the book's readers run it: Keras loads images, `predict` for each batch of 20."""
    keras, base = keras_base()

    def run(files: list[Path], folder: Path) -> None:
        features = np.zeros((len(files), 4, 4, 512), np.float32)
        for start in range(0, len(files), RECIPE_BATCH):
            batch = np.stack(
                [
                    keras.utils.img_to_array(keras.utils.load_img(file, target_size=(SIZE, SIZE)))
                    for file in files[start : start + RECIPE_BATCH]
                ]
            )
            batch = keras.applications.vgg16.preprocess_input(batch)
            features[start : start + len(batch)] = base.predict(batch, verbose=0)
        np.save(folder / "features.npy", features)

    return run


def openvino(precision: str) -> Pass:
    """OpenVINO with its throughput hint, fed by the model that Keras exports for it."""
    import openvino as ov

    keras, base = keras_base()
    with tempfile.TemporaryDirectory() as folder:
        base.export(f"{folder}/base.xml", format="openvino", verbose=False)
        core = ov.Core()
        model = core.read_model(f"{folder}/base.xml")
    batch_size = 4  # the fastest of 1, 4 and 16 on the machine of RESULTS.md
    model.reshape([batch_size, SIZE, SIZE, 3])
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
    compiled = core.compile_model(model, "CPU", options)

    def run(files: list[Path], folder: Path) -> None:
        features = np.zeros((len(files), 4, 4, 512), np.float32)
        queue = ov.AsyncInferQueue(compiled)

        def keep(request: ov.InferRequest, start: int) -> None:
            found = request.get_output_tensor().data
            features[start : start + batch_size] = found[: len(files) - start]

        queue.set_callback(keep)
        for start in range(0, len(files), batch_size):
            batch = np.zeros((batch_size, SIZE, SIZE, 3), np.float32)
            for place, file in enumerate(files[start : start + batch_size]):
                batch[place] = keras.utils.load_img(file, target_size=(SIZE, SIZE))
            queue.start_async({0: keras.applications.vgg16.preprocess_input(batch)}, start)
        queue.wait_all()
        np.save(folder / "features.npy", features)

    return run


def onnxruntime() -> Pass:
    """ONNX Runtime on the packaged graph, cut at the last pooling."""
    import onnx
    import onnxruntime as ort

    from pipeline.backbones.vgg16 import VGG16

    keras, _ = keras_base()
    graph = onnx.load(VGG16.published.packaged())
    for side in (1, 2):
        graph.graph.input[0].type.tensor_type.shape.dim[side].dim_value = SIZE
    last = next(i for i, n in reversed([*enumerate(graph.graph.node)]) if n.op_type == "MaxPool")
    output = graph.graph.node[last].output[0]
    del graph.graph.node[last + 1 :], graph.graph.output[:]
    graph.graph.output.append(
        onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, (None, 512, 4, 4))
    )
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(files: list[Path], folder: Path) -> None:
        features = []
        for start in range(0, len(files), RECIPE_BATCH):
            batch = np.stack(
                [
                    np.asarray(keras.utils.load_img(file, target_size=(SIZE, SIZE)), np.float32)
                    for file in files[start : start + RECIPE_BATCH]
                ]
            )
            batch = keras.applications.vgg16.preprocess_input(batch)
            features.append(session.run(None, {"input": batch})[0])
        np.save(folder / "features.npy", np.concatenate(features))

    return run


def ours(precision: str, size: int = SIZE) -> Pass:
    """Stage one of this project, its network loaded; decoding, hashing and storing included."""
    run_network = our_backbone(precision, size)

    def run(files: list[Path], folder: Path) -> None:
        from pipeline.data.loading import list_files
        from pipeline.features.extractor import Extractor

        extractor = Extractor(our_recipe(precision, size), cache=folder, forward=run_network)
        extractor.make(extractor.plan(list_files(files)))

    return run


def ours_of(network: str, *, layers: bool) -> Pass:
    """Stage one of this project with a network, of its last layer alone or of every layer, too."""
    from pipeline import Extractor, make_recipe
    from pipeline.backbones.running import load_backbone
    from pipeline.data.loading import list_files
    from pipeline.features import extractor

    recipe = make_recipe(network, precision="bfloat16")
    kinds = Extractor(recipe, layers=layers).recipes
    loaded = load_backbone(recipe, beside=kinds[1:])
    extractor.LateBackbone = lambda *_: loaded  # not loaded again in each pass

    def run(files: list[Path], folder: Path) -> None:
        stage = Extractor(recipe, cache=folder, layers=layers)
        stage.make(stage.plan(list_files(files)))

    return run


def ours_decoding_fully(precision: str, size: int = SIZE) -> Pass:
    """Stage one of this project, but every pixel of a photograph is decoded."""
    from pipeline.data.images import decode
    from pipeline.features import computing

    computing.decode = partial(decode, scaled=False)
    return ours(precision, size)


def forward(precision: str) -> Pass:
    """Run VGG16 alone."""
    return network_alone(our_backbone(precision), SIZE)


def forward_of(network: str) -> Pass:
    """Run a network alone, for both kinds of rows."""
    from pipeline import Extractor, make_recipe
    from pipeline.backbones.running import load_backbone

    recipe = make_recipe(network, precision="bfloat16")
    kinds = Extractor(recipe, layers=True).recipes
    return network_alone(load_backbone(recipe, beside=kinds[1:]), recipe.size)


def decoding_for(network: str) -> Pass:
    """Read and decode images for a network, and no more."""
    from pipeline import make_recipe

    recipe = make_recipe(network)

    def run(files: list[Path], _: Path) -> None:
        for file in files:
            recipe.decode(file.read_bytes())

    return run


def network_alone(run_network: Callable[[np.ndarray], np.ndarray], size: int) -> Pass:
    """Run a network on pixels in memory: what no whole stage can surpass."""
    from pipeline.data.images import decode

    pixels = None

    def run(files: list[Path], _: Path) -> None:
        nonlocal pixels
        if pixels is None:
            pixels = np.stack([decode(file.read_bytes(), size) for file in files])
            run_network(pixels[:64])
        for start in range(0, len(files), 64):
            run_network(pixels[start : start + 64])

    return run


CONTENDERS: dict[str, Callable[[], Pass]] = {
    "recipe": recipe,
    "float32": lambda: ours("float32"),
    "bfloat16": lambda: ours("bfloat16"),
    "int8": lambda: ours("int8"),
    "float32-full-decoding": lambda: ours_decoding_fully("float32"),
    "int8-full-decoding": lambda: ours_decoding_fully("int8"),
    "int8-64": lambda: ours("int8", 64),
    "int8-64-full-decoding": lambda: ours_decoding_fully("int8", 64),
    "forward-float32": lambda: forward("float32"),
    "forward-bfloat16": lambda: forward("bfloat16"),
    "openvino-float32": lambda: openvino("f32"),
    "openvino-bfloat16": lambda: openvino("bf16"),
    "onnxruntime": onnxruntime,
    **{
        f"{kind}-{network}": partial(make, network)
        for network in ("vgg16", "efficientnet-lite0")
        for kind, make in {
            "last": partial(ours_of, layers=False),
            "both": partial(ours_of, layers=True),
            "alone": forward_of,
            "decoding": decoding_for,
        }.items()
    },
}


def keras_base() -> tuple:
    """Return Keras, and its VGG16 without top."""
    from pipeline.backbones.vgg16 import VGG16
    from pipeline.system import tensorflow

    _, keras = tensorflow.load()
    return keras, VGG16().build(SIZE, "float32", VGG16().load_weights())


@cache
def our_recipe(precision: str, size: int = SIZE):
    """Return our recipe in that precision; int8 is calibrated on the demo."""
    from pipeline import load_dataset, make_recipe
    from pipeline.features.extractor import Extractor

    with tempfile.TemporaryDirectory() as empty:
        extractor = Extractor(make_recipe(precision=precision, size=size), cache=empty)
        return extractor.settle(load_dataset("demo")).recipe


def our_backbone(precision: str, size: int = SIZE):
    """Return our network in that precision."""
    from pipeline.backbones.running import load_backbone

    return load_backbone(our_recipe(precision, size))


def serve(name: str, listing: str) -> None:
    """Answer each line on standard input with the seconds of one pass."""
    files = [Path(line) for line in Path(listing).read_text().splitlines()]
    run = CONTENDERS[name]()
    for number, _ in enumerate(sys.stdin):
        with tempfile.TemporaryDirectory() as folder:
            wall, cpu = time.perf_counter(), time.process_time()
            run(files, Path(folder))
            seconds = time.perf_counter() - wall, time.process_time() - cpu
        print("answer", json.dumps([number, *seconds]), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
