"""A model in one ONNX file, from pixels to probabilities, run without TensorFlow.

Needs NumPy, Pillow and ONNX Runtime alone, so that it can go into the folder that is handed on.
The file's description, JSON under the key `pipeline.models.onnx_file.KEY` of its metadata, has:

``format``
    `FORMAT`, the version of this list.
``head``, ``classes``, ``positive``, ``threshold``, ``views``, ``augmentation``, ``trained_on``
    As in a model's manifest.
``recipe``
    All fields of the `pipeline.backbones.recipe.Recipe`; ``size``, ``resize`` and ``decoding`` are
    read here.
``model``
    Digest of the manifest of the model that it was made from.
``digest``
    `pipeline.models.onnx_file.digest_of` the file and this description.

What else is there is for people. The graph takes pixels, uint8 of shape (n, size, size, 3), and
gives the probability of each class, float32 of shape (n, k).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.augmentation import PRESETS, Augmentation
from pipeline.data.decoding import Decoding
from pipeline.data.images import FILTERS, decode
from pipeline.data.views import views_of
from pipeline.errors import ModelError, PipelineError, in_one_line
from pipeline.evaluation.threshold import Threshold, call, positive_class
from pipeline.models.onnx_file import check_complete, description_of, digest_of
from pipeline.system.files import read_regular

FORMAT = 1
_MOST_BYTES = 2**31 - 1  # what Protocol Buffers can hold
_MOST_MEMORY = 2**32  # bytes that a graph may take; at 1,000 pixels a large network takes 0.6 GB
_MOST_CLASSES = 100_000
_MOST_SIDE = 8192
_MOST_PIXELS = 2**30 // 3  # of all views of an image, which are drawn together
_PIXELS_AT_ONCE = 16 * 150**2  # more are not faster, and take more memory


@dataclass(frozen=True, eq=False)
class Portable:
    """An exported model that is loaded; calls from several threads do not disturb each other.

    Attributes
    ----------
    head, classes, positive, threshold, views, augmentation, trained_on
        As of `pipeline.models.model.Model`.
    recipe : mapping
        Fields of the recipe that the model was trained with.
    model : str
        Digest of the manifest of the model that it was made from.
    session : onnxruntime.InferenceSession
        Pixels to probabilities.
    """

    head: str
    classes: tuple[str, ...]
    positive: int | None
    threshold: Threshold | None
    views: int
    augmentation: str
    trained_on: str
    recipe: Mapping[str, Any]
    model: str
    session: Any

    @classmethod
    def load(cls, file: Path) -> Portable:
        """Read and check a file, and make it ready to compute in all cores it may use.

        Parameters
        ----------
        file : Path
            What `pipeline export --format onnx` wrote.

        Raises
        ------
        ModelError
            It cannot be read, is none of ours, was changed, is of a newer format, is not complete
            in itself, or holds more than its bytes are.
        """
        try:
            content = read_regular(file, _MOST_BYTES, follow=True)
        except OSError as error:
            raise ModelError(
                f"{file} cannot be read: {error.strerror}.",
                expected="an ONNX file that `pipeline export` wrote",
            ) from error
        try:
            fields = _checked(_document(content), content)
            check_complete(content)
            size, classes = fields["recipe"]["size"], len(fields["classes"])
            session = _session(content, size, classes)
        except ModelError as error:
            raise ModelError(
                f"{file}: {error.found}", expected=error.expected, fix=error.fix
            ) from (error.__cause__)
        return cls(**fields, session=session)

    @property
    def positive_class(self) -> str | None:
        """As of `pipeline.models.model.Model`."""
        return positive_class(self.classes, self.threshold, self.positive)

    def pixels(self, content: bytes) -> npt.NDArray[np.uint8]:
        """Decode an image file, and draw the views of it that the model is to see.

        Returns
        -------
        ndarray of uint8, shape (views, size, size, 3)

        Raises
        ------
        ImageError
            It cannot be decoded.
        """
        picture = decode(
            content,
            self.recipe["size"],
            resize=self.recipe["resize"],
            decoding=self.recipe["decoding"],
        )
        digest = hashlib.sha256(content).digest()
        return views_of(picture, Augmentation.from_name(self.augmentation), digest, self.views)

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run the graph.

        Parameters
        ----------
        pixels : ndarray of uint8, shape (n, size, size, 3)

        Returns
        -------
        ndarray of float32, shape (n, len(classes))

        Raises
        ------
        ModelError
            The graph cannot be run, or does not give probabilities.
        """
        few = max(1, _PIXELS_AT_ONCE // self.recipe["size"] ** 2)
        (name,) = (own.name for own in self.session.get_inputs())
        parts = [np.empty((0, len(self.classes)), np.float32)]
        for start in range(0, len(pixels), few):
            part = pixels[start : start + few]
            try:
                (p,) = self.session.run(None, {name: part})
            except Exception as error:  # ONNX Runtime has a class for each kind
                raise _unusable(f"it cannot be run: {in_one_line(error)[:300]}") from error
            sums = p.sum(axis=-1) if p.shape == (len(part), len(self.classes)) else np.nan
            if not np.all(np.abs(sums - 1) < 1e-3) or p.min() < 0:
                raise _unusable("it does not give probabilities of its classes")
            parts.append(p)
        return np.concatenate(parts)

    def predict(self, content: bytes) -> tuple[str, dict[str, float]]:
        """Classify an image file; return its class, and the probability of each.

        Raises
        ------
        ImageError
            It cannot be decoded.
        """
        p = self.probabilities(self.pixels(content)).mean(axis=0, dtype=np.float64)
        label = self.classes[int(call(p[None], self.threshold)[0])]
        return label, dict(zip(self.classes, p.tolist()))


def _unusable(reason: str) -> ModelError:
    return ModelError(
        f"the ONNX file is not to be used: {reason}.",
        expected="what `pipeline export` writes",
        fix="export the model again",
    )


def _document(content: bytes) -> dict[str, Any]:
    """Read the description, after checking that it belongs to these bytes."""
    try:
        document = json.loads(description_of(content))
        version, digest = document["format"], document["digest"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _unusable("its description cannot be read") from error
    if type(version) is int and version > FORMAT:
        raise ModelError(
            f"the ONNX file is of format {version}.",
            expected=f"format {FORMAT} or older, which is what this installation reads",
            fix="update cached-feature-pipeline, or export the model again",
        )
    if digest != digest_of(content, document):
        raise ModelError(
            "the ONNX file was changed since it was exported.",
            expected="the bytes that its digest was made of",
            fix="copy it again from where it came, or export the model again",
        )
    return document  # type: ignore[no-any-return]


def _checked(document: Mapping[str, Any], content: bytes) -> dict[str, Any]:
    """Take from a description what is used, if it makes sense."""
    try:
        classes, recipe, threshold = document["classes"], document["recipe"], document["threshold"]
        fields = {
            "head": document["head"],
            "classes": tuple(classes),
            "positive": document["positive"],
            "threshold": None if threshold is None else Threshold(**threshold),
            "views": document["views"],
            "augmentation": document["augmentation"],
            "trained_on": document["trained_on"],
            "recipe": dict(recipe),
            "model": document["model"],
        }
        if fields["threshold"]:
            fields["threshold"].rule(classes)
        Decoding.from_name(recipe["decoding"])
        augmentation = Augmentation.from_name(document["augmentation"])
        texts = [*classes, document["head"], document["trained_on"], document["model"]]
        good = (
            all(isinstance(text, str) for text in texts)
            and 2 <= len(set(classes)) == len(classes) <= min(_MOST_CLASSES, len(content))
            and type(document["positive"]) in (int, type(None))
            and document["positive"] in (None, 0, 1)
            and (threshold is None or (len(classes) == 2 and type(threshold["positive"]) is int))
            and type(recipe["size"]) is int
            and 1 <= recipe["size"] <= _MOST_SIDE
            and recipe["resize"] in FILTERS
            and type(document["views"]) is int
            and 1 <= document["views"] < 2**16
            and document["views"] * recipe["size"] ** 2 <= _MOST_PIXELS
            and (document["views"] == 1 or augmentation != PRESETS["none"])
        )
    except (PipelineError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _unusable(f"its description does not make sense ({in_one_line(error)})") from error
    if not good:
        raise _unusable("its description does not make sense")
    return fields


def _session(content: bytes, size: int, classes: int) -> Any:
    """Let ONNX Runtime load a graph from pixels of a size to so many probabilities."""
    import onnxruntime

    _bound_memory()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = _cores()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    # else bytes that begin in a certain way are read as another format, which is not checked
    options.add_session_config_entry("session.load_model_format", "ONNX")
    settings = {
        "providers": ["CPUExecutionProvider"],
        "enable_fallback": 0,
        # Memory of what it would compute while it loads is not bounded. Without, our files load
        # as fast and give the same bits: a small network in 6 ms, a large one in 66, on one core.
        "disabled_optimizers": ["ConstantFolding", "ConstantFoldingDQ"],
    }
    try:
        session = onnxruntime.InferenceSession(content, options, **settings)
        parts = (*session.get_inputs(), *session.get_outputs())
        ends = [(own.type, own.shape, own.name) for own in parts]
    except Exception as error:  # ONNX Runtime has a class for each kind
        reason = in_one_line(error)[:300]
        raise _unusable(f"ONNX Runtime cannot load it: {reason}") from error
    good = (
        [kind for kind, *_ in ends] == ["tensor(uint8)", "tensor(float)"]
        and ends[0][1][1:] == [size, size, 3]
        and len(ends[1][1]) == 2
        and (ends[1][1][1] == classes or not isinstance(ends[1][1][1], int))
    )
    if not good:
        raise _unusable(f"it does not lead from {size} x {size} pixels to {classes} probabilities")
    return session


@cache
def _bound_memory() -> None:
    """Bound, once, the memory that graphs can take in this process; keep no more than they use."""
    import onnxruntime as ort

    ort.disable_telemetry_events()
    place = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    same_as_requested = 1
    ort.create_and_register_allocator(
        place, ort.OrtArenaCfg(_MOST_MEMORY, same_as_requested, -1, -1)
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
