"""What a fit carries from one pass to the next, in one place, so that it can be put on disk."""

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Protocol

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
        return arrays, {
            "number": self.number,
            "reason": self.reason,
            "losses": self.losses,
            "experiment": _plain(self.solver.experiment),
            "best_experiment": _plain(self.best_experiment),
            "rng": self.rng.bit_generator.state,
            "stop": None if self.stop is None else asdict(self.stop),
            "refiner": None if self.refiner is None else self.refiner.state(),
        }

    def restore(self, arrays: Arrays, document: Document) -> None:
        """Be as at the time of ``capture``."""
        self.number, self.reason = document["number"], document["reason"]
        self.losses = [tuple(losses) for losses in document["losses"]]
        solver = self.solver
        solver.recalibrate(_experiment(solver.experiment, document["experiment"]))
        solver.restore(
            {
                name.removeprefix("solver."): torch.from_numpy(array).to(solver.device)
                for name, array in arrays.items()
                if name.startswith("solver.")
            }
        )
        self.best = torch.from_numpy(arrays["best"]).to(solver.device)
        self.best_experiment = _experiment(solver.experiment, document["best_experiment"])
        self.rng.bit_generator.state = document["rng"]
        if self.stop is not None:
            for name, value in document["stop"].items():
                setattr(self.stop, name, value)
        if self.refiner is not None:
            self.refiner.restore(document["refiner"])


def _plain(experiment: Experiment) -> Document:
    """Numbers of an experiment; its grid never changes."""
    return {f.name: getattr(experiment, f.name) for f in fields(experiment) if f.name != "grid"}


def _experiment(like: Experiment, numbers: Document) -> Experiment:
    values: dict[str, Any] = {name: _tuples(value) for name, value in numbers.items()}
    return replace(like, **values)


def _tuples(value: object) -> object:
    """JSON lists as the tuples they were."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
