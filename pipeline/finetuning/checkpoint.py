"""Checkpoints of a training: all that it goes on from after it was killed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backbones.weights import Weights
from pipeline.errors import PipelineError
from pipeline.system.files import file_errors, open_regular, write_file

Curves = dict[str, list[float]]
"""``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each complete epoch."""


class Checkpoint:
    """A file with the state of a model and its optimiser after an epoch.

    Parameters
    ----------
    file : Path
        Where it is kept.
    model, optimizer : keras.Model and keras.optimizers.Optimizer
        What is trained, and by what.
    """

    def __init__(self, file: Path, model: Any, optimizer: Any) -> None:
        self.file = file
        self._trained = model.trainable_variables
        # `variables` contains the state of dropout's random numbers; `weights` does not.
        self._variables = [*model.variables, *optimizer.variables]

    def save(self, curves: Curves, best: Weights) -> None:
        """Write the state, the learning curves and the weights of the best epoch."""
        arrays: dict[str, Any] = {"curves": np.array(json.dumps(curves))}
        arrays |= {f"now{i:03}": np.asarray(value) for i, value in enumerate(self._variables)}
        arrays |= {f"best{i:03}": array for i, array in enumerate(best)}
        fix = "check permissions and free space, and start the same training again"
        with file_errors(f"write the checkpoint {self.file}", fix=fix):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            # The same training in another process may have ended and removed the folder.
            with contextlib.suppress(FileNotFoundError):
                write_file(self.file, lambda stream: np.savez(stream, **arrays))

    def restore(self) -> tuple[Curves, Weights]:
        """Set model and optimiser to the saved state, if there is one."""
        if not self.file.exists():
            return {"loss": [], "accuracy": [], "val_loss": [], "val_accuracy": []}, []
        try:
            with open_regular(self.file) as stream, np.load(stream, allow_pickle=False) as content:
                arrays = dict(content)
            curves: Curves = json.loads(str(arrays.pop("curves")))
            now = [arrays.pop(f"now{i:03}") for i in range(len(self._variables))]
            best = [arrays[name] for name in sorted(arrays)]
            _check_shapes([*now, *best], [*self._variables, *self._trained])
        except Exception as error:  # a damaged archive raises many kinds
            raise PipelineError(
                f"the checkpoint {self.file} cannot be used: {error}.",
                expected="the file as this training wrote it",
                fix="delete it: the training then starts again from the beginning",
            ) from error
        for variable, value in zip(self._variables, now, strict=True):
            variable.assign(value)
        return curves, best


def _check_shapes(arrays: Sequence[npt.NDArray[Any]], variables: Sequence[Any]) -> None:
    if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
        raise ValueError("it belongs to another network")
