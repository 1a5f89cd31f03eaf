"""Whether a file gives what the model gives that it was made from, on some pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backbones.running import load_backbone
from pipeline.errors import ModelError
from pipeline.models.formats import Format, Pixels
from pipeline.models.graphs import NotExportableError
from pipeline.models.model import Model
from pipeline.models.network import Network, TunedClassifier

Probabilities = npt.NDArray[np.float64]

_AT_ONCE = 8  # pictures that a network or a file is given
_GRAVE = 0.1  # share of the pictures that may be called otherwise, where any may
_STEP = 0.02  # a forest's probability where two of its 100 trees go the other way


@dataclass(frozen=True)
class Parity:
    """How a file's answers compare with the model's, on some pictures.

    Attributes
    ----------
    pictures : int
        How many.
    difference, own_difference : float
        The largest difference of a probability from the model's in float32, and from what
        `predict` gives, in the precision that the model was trained in.
    changed, own_changed : int
        How many pictures are called otherwise than by the model in float32, and by `predict`.
    usual : float
        As `difference`, without the tenth of the pictures that differ most.
    """

    pictures: int
    difference: float
    own_difference: float
    changed: int
    own_changed: int
    usual: float


@dataclass(frozen=True)
class Answers:
    """The probabilities, shape (n, k), that a model gives in float32, and as it predicts."""

    exact: Probabilities
    own: Probabilities

    def about(self, model: Model) -> dict[str, Any]:
        """Describe, for a file that computes in float32, what that changes."""
        if model.recipe.precision != "bfloat16":
            return {}
        return {
            "float32_instead_of_bfloat16": {
                "pictures": len(self.own),
                "largest_difference": float(np.abs(self.exact - self.own).max()),
                "called_otherwise": _changed(model, self.exact, self.own),
            }
        }


def answers_of(model: Model, pictures: Pixels, weights: Any = None) -> Answers:
    """Compute what a model gives of pictures."""
    exact = model
    if model.recipe.precision == "bfloat16":
        exact = replace(model, recipe=replace(model.recipe, precision="float32"))
        if isinstance(exact.estimator, TunedClassifier):
            exact = replace(exact, estimator=in_float32(exact.estimator))
    first, *second = (
        own.probabilities(in_pieces(load_backbone(own.recipe, weights), pictures))
        for own in ([model] if exact is model else [exact, model])
    )
    return Answers(first, *(second or [first]))


def in_pieces(run: Callable[[Pixels], Any], pictures: Pixels) -> npt.NDArray[Any]:
    """Run a few pictures at a time: memory does not grow with their number."""
    starts = range(0, len(pictures), _AT_ONCE)
    return np.concatenate([np.asarray(run(pictures[at : at + _AT_ONCE])) for at in starts])


def in_float32(tuned: TunedClassifier) -> TunedClassifier:
    """Return the same network, computing in float32."""
    network = tuned.network
    if network.recipe.precision == "float32":
        return tuned
    recipe = replace(network.recipe, precision="float32")
    count = len(tuned.classes_)
    copied = Network(recipe, count, weights=None, **tuned.parameters)
    copied.tail.set_weights(network.tail.get_weights())
    return TunedClassifier(copied, count, tuned.parameters)


def compare(model: Model, p: npt.NDArray[Any], expected: Answers) -> Parity:
    """Compare a file's probabilities with the model's."""
    p = np.asarray(p, np.float64)
    apart = np.abs(p - expected.exact).max(axis=1)
    return Parity(
        len(p),
        float(apart.max()),
        float(np.abs(p - expected.own).max()),
        _changed(model, p, expected.exact),
        _changed(model, p, expected.own),
        float(np.quantile(apart, 0.9)),
    )


def _changed(model: Model, p: Probabilities, other: Probabilities) -> int:
    return int((model.call(p) != model.call(other)).sum())


def require_parity(model: Model, parity: Parity, target: Format, *, steps: bool = False) -> None:
    """Refuse a file that does not give what the model gives, or calls a picture otherwise.

    Where probabilities have steps, since the last bits of features decide them (in trees, of
    neighbours, and where features are rounded), one picture in ten may be beyond the tolerance.
    """
    most = int(_GRAVE * parity.pictures) if steps else 0
    good = parity.difference <= target.tolerance
    if steps:
        good = parity.usual <= target.tolerance and parity.difference <= _STEP
    if not good or parity.changed > most:  # NaN, too
        raise NotExportableError(
            f"the head {model.head} cannot be exported to {target.title}: the file's probabilities "
            f"are up to {parity.difference:.2g} away from the model's on {parity.pictures} images, "
            f"and {parity.changed} of them are called otherwise.",
            expected=f"at most {target.tolerance:g}, and {most} called otherwise; the file was not "
            "kept",
            fix="use another --format or another --head",
        )
    if parity.own_changed > int(_GRAVE * parity.pictures):
        raise ModelError(
            f"the head {model.head} was trained on features in {model.recipe.precision}, and files "
            f"compute in float32: {parity.own_changed} of {parity.pictures} images would be called "
            "otherwise.",
            expected="at most one in ten; the file was not kept",
            fix="train it again: pipeline classify DATA --precision float32",
        )
