"""What a fit carries from one pass to the next, in one place, so that it can be put on disk."""

from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recon.checkpoint import Arrays, Document
from recon.ptychography.experiment import Experiment
from recon.ptychography.refiner import Refiner
from recon.ptychography.stopping import HeldOutStop


class Fittable(Protocol):
    """What a solver shows of itself."""

    experiment: Experiment
    device: torch.device

    def all_slices(self) -> Tensor:
        """Phase of every slice, a copy."""

    def recalibrate(self, experiment: Experiment) -> None:
        """Use another calibration from now on."""

    def state(self) -> dict[str, Tensor]:
        """Tensors that the coming passes depend on, besides the experiment."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Be as at the time of ``state``."""


@dataclass
class FitState:
    """One fit under way; ``reason`` is empty until it ends."""

    solver: Fittable
    rng: np.random.Generator
    stop: HeldOutStop | None = None
    refiner: Refiner | None = None
    losses: list[tuple[float, float, float]] = field(default_factory=list)
    """Fitted loss, held-out loss and defocus of every pass."""
    number: int = 0
    reason: str = ""
    begun: Document = field(default_factory=dict)
    """What was found out before the first pass and need not be found again, JSON-ready."""
    best: Tensor = field(init=False)
    best_experiment: Experiment = field(init=False)

    def __post_init__(self) -> None:
        self.keep()

    def keep(self) -> None:
        """Note the present object as the best so far."""
        self.best, self.best_experiment = self.solver.all_slices(), self.solver.experiment

    def capture(self) -> tuple[Arrays, Document]:
        """Arrays and JSON-ready numbers that the coming passes depend on."""
        arrays = {
            f"solver.{name}": tensor.detach().cpu().numpy()
            for name, tensor in self.solver.state().items()
        }
        arrays["best"] = self.best.cpu().numpy()
        waiting, refiner = ({}, None) if self.refiner is None else self.refiner.state()
        arrays |= {f"refiner.{name}": t.cpu().numpy() for name, t in waiting.items()}
        return arrays, {
            "number": self.number,
            "reason": self.reason,
            "losses": self.losses,
            "experiment": self.solver.experiment.numbers(),
            "best_experiment": self.best_experiment.numbers(),
            "rng": self.rng.bit_generator.state,
            "stop": None if self.stop is None else asdict(self.stop),
            "refiner": refiner,
            "begun": self.begun,
        }

    def restore(self, arrays: Arrays, document: Document) -> None:
        """Be as at the time of ``capture``."""
        self.number, self.reason = document["number"], document["reason"]
        self.begun = document["begun"]
        self.losses = [tuple(losses) for losses in document["losses"]]
        solver = self.solver
        solver.recalibrate(solver.experiment.with_numbers(document["experiment"]))
        solver.restore(self._tensors(arrays, "solver."))
        self.best = torch.from_numpy(arrays["best"]).to(solver.device)
        self.best_experiment = solver.experiment.with_numbers(document["best_experiment"])
        self.rng.bit_generator.state = document["rng"]
        if self.stop is not None:
            for name, value in document["stop"].items():
                setattr(self.stop, name, value)
        if self.refiner is not None:
            self.refiner.restore(self._tensors(arrays, "refiner."), document["refiner"])

    def _tensors(self, arrays: Arrays, owner: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(owner): torch.from_numpy(array).to(self.solver.device)
            for name, array in arrays.items()
            if name.startswith(owner)
        }
