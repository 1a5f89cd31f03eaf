"""Classifiers from elsewhere, by ``module:factory``."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from sklearn.base import is_classifier

from pipeline.errors import PipelineError
from pipeline.heads.estimators import Balanced

_EXAMPLE = "module:factory, such as sklearn.ensemble:ExtraTreesClassifier"


def make_classifier(name: str, seed: int, *, balanced: bool) -> Any:
    """Call the factory ``module:factory``; check that it returns a scikit-learn classifier.

    Its ``random_state``, if it has one, is set to the seed. Balanced, its ``fit`` gets weights.
    The classifier is unfitted, and has ``predict_proba`` or at least ``decision_function``.
    """
    made = _call(name)
    if isinstance(made, type) or not (hasattr(made, "__sklearn_tags__") and is_classifier(made)):
        raise PipelineError(
            f"the head {name} is {_kind(made)}, not a classifier.",
            expected="an unfitted classifier with scikit-learn's interface",
        )
    if not (hasattr(made, "predict_proba") or hasattr(made, "decision_function")):
        raise PipelineError(
            f"the head {name} is {_kind(made)}, which has neither probabilities nor scores.",
            expected="a classifier with predict_proba or decision_function",
            fix="write a factory of your own that sets the option for it",
        )
    parameters = made.get_params()
    if "random_state" in parameters:
        made.set_params(random_state=seed)
    if not balanced:
        return made
    if "sample_weight" in inspect.signature(made.fit).parameters:
        return Balanced(made) if hasattr(made, "predict_proba") else made
    raise PipelineError(
        f"the head {name} cannot be balanced: {_kind(made)} takes no sample_weight.",
        expected="a classifier whose fit takes sample_weight",
        fix="leave out --balanced, or balance in a factory of your own",
    )


def _call(name: str) -> Any:
    module, _, attributes = name.partition(":")
    try:
        factory: Any = importlib.import_module(module)
        for attribute in attributes.split("."):
            factory = getattr(factory, attribute)
    except Exception as error:  # a module's own code can raise anything
        raise PipelineError(
            f"the head {name} cannot be imported: {type(error).__name__}: {error}",
            expected=_EXAMPLE,
            fix="check the spelling; install the module, or put its folder into PYTHONPATH",
        ) from error
    try:
        return factory()
    except Exception as error:
        raise PipelineError(
            f"the factory of the head {name} fails: {type(error).__name__}: {error}",
            expected="a factory that can be called without arguments",
            fix="write a function of your own that calls it with the arguments that it needs",
        ) from error


def _kind(made: Any) -> str:
    return f"a {type(made).__name__}"
