"""How a reconstruction is carried out: by how many processes, and with which checkpoints.

Nothing here changes what is computed. The default is one process that remembers nothing.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from recon.checkpoint import Arrays, CheckpointError, CheckpointFolder, Document

if TYPE_CHECKING:
    from torch import Tensor


class Team(Protocol):
    """Processes that share the patterns of every batch and add up their gradients.

    All of them hold the same object and draw the same random numbers.
    """

    rank: int
    size: int

    def share(self, batch: "Tensor") -> "Tensor":
        """Patterns of a batch that this process takes; perhaps none."""

    def add_up(self, *tensors: "Tensor") -> None:
        """Replace every tensor by its sum over all processes, in place."""

    def agree(self, numbers: list[float]) -> list[float]:
        """Return the numbers of the first process, in all of them."""


@dataclass
class Alone:
    """A single process."""

    rank: int = 0
    size: int = 1

    def share(self, batch: "Tensor") -> "Tensor":
        """Return everything."""
        return batch

    def add_up(self, *tensors: "Tensor") -> None:
        """Leave the tensors as they are."""

    def agree(self, numbers: list[float]) -> list[float]:
        """Return the own numbers."""
        return numbers


class Resumable(Protocol):
    """A fit that can be put down between two passes and taken up again."""

    number: int
    """Passes that are done."""
    reason: str
    """Why it ended; empty while it goes on."""

    def capture(self) -> tuple[Arrays, Document]:
        """Everything that the coming passes depend on."""

    def restore(self, arrays: Arrays, document: Document) -> None:
        """Be as at the time of ``capture``."""


@dataclass
class Stage:
    """One fit among those of a reconstruction, and where it is kept."""

    name: str
    team: Team
    checkpoints: CheckpointFolder | None
    every: int

    def begun(self) -> Document:
        """What the fit knew before its first pass; empty if it is not resumed."""
        saved = None if self.checkpoints is None else self.checkpoints.load(self.name)
        begun: Document = {} if saved is None else saved[1]["begun"]
        return begun

    def resume(self, fit: Resumable) -> None:
        """Continue from the checkpoint, if there is one.

        Raises
        ------
        CheckpointError
            Damaged, or not the one that the first process of the team sees.
        """
        saved = None if self.checkpoints is None else self.checkpoints.load(self.name)
        if saved is not None:
            fit.restore(*saved)
        (passes,) = self.team.agree([fit.number])
        if fit.number != passes:
            raise CheckpointError(
                f"process {self.team.rank} resumes {self.name} after pass {fit.number}, the first "
                f"process after pass {passes:.0f}: all must see the same folder; put --out on a "
                f"disk that they share"
            )

    def save(self, fit: Resumable) -> None:
        """Keep the state of every so many passes, and of the last one."""
        due = self.every > 0 and (bool(fit.reason) or fit.number % self.every == 0)
        if self.checkpoints is not None and self.team.rank == 0 and due:
            self.checkpoints.save(self.name, *fit.capture())


@dataclass
class Execution:
    """By whom, and with which memory. The fits of a reconstruction are numbered as they come."""

    team: Team = field(default_factory=Alone)
    checkpoints: CheckpointFolder | None = None
    checkpoint_every: int = 1
    _begun: int = 0

    def next_stage(self) -> Stage:
        """Where the next fit is kept; the same order of fits finds the same files again."""
        self._begun += 1
        return Stage(f"fit-{self._begun}", self.team, self.checkpoints, self.checkpoint_every)
