"""Global settings of TensorFlow and Keras change no value, or are one clear error."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.system import tensorflow

PROGRAM = Path(__file__).with_name("settings_of_tensorflow.py")
ROOT = Path(__file__).parents[2]
BOTH = "import keras, tensorflow as tf; "

KERAS = (
    "keras.config.set_floatx('float16')",
    "keras.config.set_image_data_format('channels_first')",
    "keras.config.set_epsilon(0.1)",
    "keras.config.set_dtype_policy('mixed_bfloat16')",
    "keras.config.set_max_epochs(1)",
    "keras.config.set_max_steps_per_epoch(1)",
)
FUNCTIONS = (
    "tf.config.run_functions_eagerly(True)",
    "tf.config.optimizer.set_jit(True)",
    "tf.config.experimental.enable_tensor_float_32_execution(False)",
    "tf.config.experimental.enable_op_determinism()",
    "tf.debugging.enable_check_numerics()",
    "tf.experimental.numpy.experimental_enable_numpy_behavior()",
)
OPTIMIZER = (
    "tf.config.optimizer.set_experimental_options({'remapping': False, 'min_graph_nodes': -1, "
    "'constant_folding': False, 'auto_mixed_precision_onednn_bfloat16': True})"
)
ENVIRONMENT = {
    "KERAS_BACKEND": "torch",
    "KERAS_MAX_EPOCHS": "1",
    "TF_USE_LEGACY_KERAS": "1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "TF_DETERMINISTIC_OPS": "1",
}
KERAS_JSON = {
    "backend": "jax",
    "floatx": "float64",
    "epsilon": 0.1,
    "image_data_format": "channels_first",
}


def run(folder, code="", **environment):
    """Run everything that networks are used for after `code`; return its lines and exit code."""
    clean = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, PROGRAM, code],
        env=clean | {"PYTHONPATH": str(ROOT), "KERAS_HOME": str(folder)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    traceback = done.stderr.splitlines()[-1:] if "Traceback" in done.stderr else []
    return done.stdout.splitlines() + traceback, done.returncode


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    lines, code = run(tmp_path_factory.mktemp("keras"))
    assert len(lines) == 4
    assert code == 0
    return lines


@pytest.mark.parametrize(
    ("code", "environment", "keras_json"),
    [
        (BOTH + "; ".join(KERAS), {}, None),
        (BOTH + "; ".join(FUNCTIONS), {}, None),
        (BOTH + OPTIMIZER, {}, None),
        ("", ENVIRONMENT, json.dumps(KERAS_JSON)),
        ("", {}, '{"backend": tensorflow}'),
    ],
    ids=["Keras", "TensorFlow", "optimizer", "environment", "no JSON"],
)
def test_global_settings_change_no_value(tmp_path, plain, code, environment, keras_json):
    if keras_json:
        (tmp_path / "keras.json").write_text(keras_json)
    assert run(tmp_path, code, **environment) == (plain, 0)


@pytest.mark.parametrize(
    ("code", "keras_json", "message"),
    [
        ("import keras; keras.config.backend = lambda: 'torch'", "", "on the backend torch"),
        (BOTH + "tf.compat.v1.disable_eager_execution()", "", "does not execute eagerly"),
        (
            BOTH + "tf.experimental.numpy.experimental_enable_numpy_behavior("
            "dtype_conversion_mode='all')",
            "",
            "converts types by rules of its own",
        ),
        (
            "os.environ['TF_ENABLE_ONEDNN_OPTS'] = '0'; import tensorflow",
            "",
            "was imported with TF_ENABLE_ONEDNN_OPTS=0",
        ),
        ("", '{"floatx": "float8"}', "Keras cannot be imported: ValueError: Invalid `floatx`"),
        ("", "[]", "Keras cannot be imported: AttributeError"),
        ("sys.modules['keras'] = None", "", "the package keras is not installed"),
        (
            "import resource; resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20))",
            "",
            "too little memory",
        ),
    ],
    ids=[
        "backend",
        "graph",
        "NumPy",
        "oneDNN",
        "floatx",
        "list",
        "no Keras",
        "little memory",
    ],
)
def test_what_cannot_be_pinned_is_one_clear_error(tmp_path, code, keras_json, message):
    if keras_json:
        (tmp_path / "keras.json").write_text(keras_json)
    lines, exit_code = run(tmp_path, code)
    assert message in "\n".join(lines)
    assert (len(lines), exit_code) == (1, 1)


def test_settings_are_given_back_when_the_last_of_several_threads_is_done():
    tf, keras = tensorflow.load()
    inside, go_on = threading.Event(), threading.Event()

    def work():
        with tensorflow.pinned("mixed_bfloat16"):
            inside.set()
            go_on.wait()

    thread = threading.Thread(target=work)
    keras.config.set_epsilon(0.1)
    tf.config.run_functions_eagerly(True)
    try:
        with tensorflow.pinned():
            thread.start()
            inside.wait()
        assert keras.config.epsilon() == 1e-7
        assert not tf.config.functions_run_eagerly()
        assert keras.config.dtype_policy().name == "float32"
        go_on.set()
        thread.join()
        assert keras.config.epsilon() == 0.1
        assert tf.config.functions_run_eagerly()
    finally:
        keras.config.set_epsilon(1e-7)
        tf.config.run_functions_eagerly(False)
