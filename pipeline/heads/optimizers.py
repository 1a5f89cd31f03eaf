"""Keras's optimisers, with TensorFlow's one operation for each variable's step.

Keras writes a step as some ten operations, each of which goes over a whole variable: where a layer
has millions of weights and a step few rows, that costs more than the gradient.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pipeline.system import tensorflow

OPTIMIZERS = ("rmsprop", "adam")
"""Names of the optimisers; the textbook recipe uses RMSprop."""


def build_optimizer(name: str, learning_rate: float) -> Any:
    """Build Keras's optimiser of that name with its defaults.

    Parameters
    ----------
    name : {"rmsprop", "adam"}
    learning_rate : float

    Returns
    -------
    keras.optimizers.Optimizer
        What it does to float32 weights is, but for rounding, what Keras's own does.
    """
    return _classes()[name](learning_rate)


@cache
def _classes() -> dict[str, type]:
    """Make them: TensorFlow is imported late."""
    tf, keras = tensorflow.load()

    class RMSprop(keras.optimizers.RMSprop):  # type: ignore[misc, name-defined]
        __module__ = "keras.optimizers"  # what is saved or pickled names Keras's own

        def build(self, variables: Any) -> None:
            super().build(variables)
            # The operation writes its steps somewhere; without momentum they are no state.
            self._written = [tf.Variable(tf.zeros(one.shape)) for one in variables]

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            at = self._get_variable_index(variable)
            tf.raw_ops.ResourceApplyRMSProp(
                var=variable.handle,
                ms=self._velocities[at].value.handle,
                mom=self._written[at].handle,
                grad=gradient,
                lr=learning_rate,
                rho=self.rho,
                momentum=0.0,
                epsilon=self.epsilon,
            )

    class Adam(keras.optimizers.Adam):  # type: ignore[misc, name-defined]
        __module__ = "keras.optimizers"

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            at = self._get_variable_index(variable)
            steps = tf.cast(self.iterations.value + 1, tf.float32)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=self._momentums[at].value.handle,
                v=self._velocities[at].value.handle,
                grad=gradient,
                lr=learning_rate,
                beta1=self.beta_1,
                beta2=self.beta_2,
                beta1_power=tf.pow(self.beta_1, steps),
                beta2_power=tf.pow(self.beta_2, steps),
                epsilon=self.epsilon,
            )

    return {"rmsprop": RMSprop, "adam": Adam}
