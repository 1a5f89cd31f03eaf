"""Checkpoints of a training."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError

_CHECKPOINT_SECONDS = 60.0
_CHECKPOINT_SHARE = 0.05  # of the time, at most, goes into the checkpoints after short epochs


@dataclass
class Progress:
    """How far a training is.

    Attributes
    ----------
    epoch : int
        Epochs that are complete.
    step : int
        Steps that are done of the epoch under way.
    seen, loss, hits : float
        Sums over the images of the epoch under way.
    history : dict of list of float
        ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each complete epoch.
    best_epoch : int
        The epoch, from 1, with the lowest validation loss so far, or, where nothing is validated,
        the last; 0 before the first.
    """

    epoch: int = 0
    step: int = 0
    seen: int = 0
    loss: float = 0.0
    hits: int = 0
    history: dict[str, list[float]] = field(
        default_factory=lambda: {"loss": [], "accuracy": [], "val_loss": [], "val_accuracy": []}
    )
    best_epoch: int = 0

    @property
    def where(self) -> str:
        """How far it is, in words."""
        step = f"at step {self.step} of epoch {self.epoch + 1}"
        return step if self.step else f"after epoch {self.epoch}"

    def end_epoch(self, on_validation: Mapping[str, float]) -> dict[str, float]:
        """Close an epoch, and give its figures."""
        figures = {"loss": self.loss / self.seen, "accuracy": self.hits / self.seen}
        figures |= on_validation
        for name, value in figures.items():
            self.history[name].append(value)
        self.epoch += 1
        self.step = self.seen = self.hits = 0
        self.loss = 0.0
        judged = self.history["val_loss"]
        self.best_epoch = int(np.argmin(judged)) + 1 if judged else self.epoch
        return figures


def not_finite(found: str, checkpoint: Path) -> PipelineError:
    kept = (
        f"the last good checkpoint is {checkpoint}"
        if checkpoint.exists()
        else f"there is no {checkpoint} yet"
    )
    return PipelineError(
        f"{found}; {kept}.", expected="finite numbers", fix="lower the learning rate"
    )


class State:
    """All numbers that a training goes on from, in the model and in a file."""

    def __init__(self, model: Any, optimizer: Any, file: Path) -> None:
        # `variables` holds the state of the dropout's random numbers, too; `weights` does not.
        self._now = [*model.variables, *optimizer.variables]
        self._model = model
        self._file = file
        self._best: list[npt.NDArray[np.float32]] = []
        self._saved = time.monotonic()
        self._cost = self._trained = 0.0

    def keep_best(self) -> None:
        self._best = [np.asarray(variable) for variable in self._model.trainable_variables]

    def use_best(self) -> None:
        for variable, value in zip(self._model.trainable_variables, self._best, strict=True):
            variable.assign(value)

    def save_now_and_then(self, progress: Progress) -> None:
        if time.monotonic() - self._saved > _CHECKPOINT_SECONDS:
            self.save(progress)

    def save_if_cheap(self, progress: Progress, seconds: float) -> None:
        """Save, unless what that costs is much of the time that training took since."""
        self._trained += seconds
        if self._cost <= _CHECKPOINT_SHARE * self._trained:
            self.save(progress)
        else:
            self._values(progress)

    def _values(self, progress: Progress) -> list[npt.NDArray[np.float32]]:
        now = [np.asarray(variable) for variable in self._now]
        # The loss may well be finite then: compiled, a relu makes 0 of what is no number.
        if not all(np.isfinite(array).all() for array in now):
            raise not_finite(f"weights were not finite {progress.where}", self._file)
        return now

    def save(self, progress: Progress) -> None:
        started = time.monotonic()
        now = self._values(progress)
        arrays: dict[str, Any] = {"progress": json.dumps(vars(progress))}
        arrays |= {f"now{i:03}": array for i, array in enumerate(now)}
        arrays |= {f"best{i:03}": array for i, array in enumerate(self._best)}
        try:
            self._write(arrays)
        except FileNotFoundError:
            pass  # an equal training that ran meanwhile has ended, and cleared up
        except OSError as error:
            raise PipelineError(
                f"cannot write the checkpoint {self._file}: {error.strerror or error}.",
                fix="see to permissions and free space, and start the same training again",
            ) from error
        self._saved = time.monotonic()
        self._cost, self._trained = self._saved - started, 0.0

    def _write(self, arrays: Mapping[str, Any]) -> None:
        """Write a file under a name of its own, as an equal training may do so now, too."""
        folder = self._file.parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as stream:
            temporary = Path(stream.name)
            try:
                np.savez(stream, **arrays)
                stream.flush()
                os.fsync(stream.fileno())
                stream.close()
                temporary.replace(self._file)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise

    def restore(self) -> Progress:
        if not self._file.exists():
            return Progress()
        try:
            with self._file.open("rb") as file, np.load(file, allow_pickle=False) as content:
                arrays = dict(content)
            progress = Progress(**json.loads(str(arrays.pop("progress"))))
            now = [arrays.pop(f"now{i:03}") for i in range(len(self._now))]
            best = [arrays[name] for name in sorted(arrays)]
            self._check(now, best, progress)
        except Exception as error:  # a damaged archive raises many kinds
            raise PipelineError(
                f"the checkpoint {self._file} cannot be used: {error}.",
                expected="what an earlier start of this training wrote",
                fix="delete it: the training then begins anew",
            ) from error
        for variable, value in zip(self._now, now):
            variable.assign(value)
        self._best = best
        return progress

    def _check(
        self, now: Sequence[npt.NDArray[Any]], best: Sequence[npt.NDArray[Any]], progress: Progress
    ) -> None:
        trained = self._model.trainable_variables if progress.best_epoch else []
        for arrays, variables in ((now, self._now), (best, trained)):
            if [array.shape for array in arrays] != [tuple(one.shape) for one in variables]:
                raise ValueError("it is of another network")
