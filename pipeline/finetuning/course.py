"""The phases of fine-tuning: a head on the frozen base first, then the last layers jointly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.finetuning.batches import OrderedBatches
from pipeline.finetuning.checkpoint import Curves
from pipeline.finetuning.settings import Finetuning
from pipeline.finetuning.sources import InputSource
from pipeline.finetuning.training import train
from pipeline.models.network import Network
from pipeline.runs.listener import RunListener


@dataclass(frozen=True, kw_only=True)
class Course:
    """All that decides how a network is trained.

    Attributes
    ----------
    network : Network
        What is trained.
    source : InputSource
        The images, and where its inputs come from.
    settings : Finetuning
        What of the network is trained, and how.
    folder : Path
        Where checkpoints are kept.
    seed : int
        Decides the order of the images.
    listener : RunListener
        Told how far the training is.
    """

    network: Network
    source: InputSource
    settings: Finetuning
    folder: Path
    seed: int
    listener: RunListener

    def follow(self) -> Outcome:
        """Train the network in all phases; it has the weights of the best epoch at the end."""
        self.network.freeze(upper=False)
        outcome = Outcome(self.network.frozen_digest())
        for phase in self.settings.phases:
            self._train(phase, outcome)
        return outcome

    def _train(self, phase: str, outcome: Outcome) -> None:
        """Train the network in one phase, and note what came of it."""
        frozen, settings = phase == "frozen", self.settings
        self.network.freeze(upper=frozen)
        before = self.network.frozen_digest()
        trained = train(
            self.network.head if frozen else self.network.tail,
            OrderedBatches(
                self.source,
                self.network,
                phase,
                batch_size=settings.batch_size,
                seed=self.seed,
                epochs_before=outcome.epochs,
                final=settings.final,
            ),
            settings.frozen if frozen else settings.joint,
            file=self.folder / f"{phase}.npz",
            phase=phase,
            listener=self.listener,
        )
        if self.network.frozen_digest() != before:
            raise PipelineError(f"frozen weights changed in phase {phase}: this is a defect.")
        if outcome.epochs:
            outcome.phases += (outcome.epochs,)
        outcome.best_epoch = outcome.epochs + trained.best_epoch
        for name, values in trained.curves.items():
            if values:
                outcome.curves.setdefault(name, []).extend(values)


@dataclass
class Outcome:
    """What came of a training, with the epochs of all phases counted together.

    Attributes
    ----------
    frozen_digest : str
        SHA-256 of the weights that no phase trains.
    curves : dict of list of float
        Loss and accuracy of each epoch.
    best_epoch : int
        The epoch, from 1, that the weights are of.
    phases : tuple of int
        Epochs after which layers were unfrozen.
    """

    frozen_digest: str
    curves: Curves = field(default_factory=dict)
    best_epoch: int = 0
    phases: tuple[int, ...] = ()

    @property
    def epochs(self) -> int:
        """Number of epochs so far."""
        return len(self.curves.get("loss", ()))
