"""Ways to climb: momentum on curvature-scaled steps, Adam, L-BFGS. Each turns gradients into steps.

``direction`` gives the step for the gradient of one batch (L-BFGS: of all patterns); what a rule
remembers is in ``memory``, tensors only, so that it can be put on disk. D is the diagonal
1 / (2 S N_e) of ``recon.ptychography.solver``: the inverse curvature of a weak phase.
Sources: Kingma & Ba, arXiv 1412.6980; Nocedal, Math. Comp. 35 (1980) 773.
"""

from typing import Protocol

import torch
from torch import Tensor

ADAM_RAD = 0.1
"""Adam's step at ``step`` = 1, radians."""
BETA_2, TINY = 0.99, 1e-12
HISTORY = 8


class Rule(Protocol):
    """How a gradient becomes a step."""

    whole_set: bool
    """One step per pass, from all patterns, with a line search."""
    memory: dict[str, Tensor]

    def direction(self, gradient: Tensor, preconditioner: Tensor) -> Tensor:
        """Change of the slices for this gradient, like ``gradient``."""


class Momentum:
    """v <- mu v - eta D g."""

    whole_set = False

    def __init__(self, step: float, momentum: float) -> None:
        self.step, self.momentum = step, momentum
        self.memory: dict[str, Tensor] = {}

    def direction(self, gradient: Tensor, preconditioner: Tensor) -> Tensor:
        """Momentum on the Newton step of a weak phase."""
        before = self.memory.get("velocity", torch.zeros_like(gradient))
        velocity = self.momentum * before - self.step * preconditioner * gradient
        self.memory["velocity"] = velocity
        return velocity


class Adam:
    """Steps of the size of their own noise; ``momentum`` is beta_1."""

    whole_set = False

    def __init__(self, step: float, momentum: float) -> None:
        self.step, self.beta_1 = ADAM_RAD * step, momentum
        self.memory: dict[str, Tensor] = {}

    def direction(self, gradient: Tensor, preconditioner: Tensor) -> Tensor:
        """Mean gradient over its root mean square, bias-corrected, where there is light."""
        zero = torch.zeros_like(gradient)
        count = self.memory.get("count", torch.zeros((), device=gradient.device)) + 1
        first = self.beta_1 * self.memory.get("first", zero) + (1 - self.beta_1) * gradient
        second = BETA_2 * self.memory.get("second", zero) + (1 - BETA_2) * gradient.square()
        self.memory = {"count": count, "first": first, "second": second}
        mean, power = first / (1 - self.beta_1**count), second / (1 - BETA_2**count)
        # pixels at the rim see few patterns: their gradient is small, its ratio is not
        lit = preconditioner.amin() / preconditioner
        return -self.step * lit.sqrt() * mean / (power.sqrt() + TINY + 1e-3 * power.amax().sqrt())


class Lbfgs:
    """Quasi-Newton from the last few steps, started from D."""

    whole_set = True

    def __init__(self, step: float) -> None:
        self.step = step
        self.memory: dict[str, Tensor] = {}

    def direction(self, gradient: Tensor, preconditioner: Tensor) -> Tensor:
        """Two-loop recursion."""
        moves, turns = self.memory.get("moves"), self.memory.get("turns")
        q = gradient.clone()
        if moves is None or turns is None:
            return -self.step * preconditioner * q
        kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for s, y in zip(reversed(moves.unbind()), reversed(turns.unbind()), strict=True):
            rho = 1 / (s * y).sum()
            alpha = rho * (s * q).sum()
            q = q - alpha * y
            kept.append((s, y, rho, alpha))
        s, y = moves[-1], turns[-1]
        q = q * preconditioner * ((s * y).sum() / (y * preconditioner * y).sum())
        for s, y, rho, alpha in reversed(kept):
            q = q + s * (alpha - rho * (y * q).sum())
        return -q

    def learn(self, move: Tensor, turn: Tensor) -> None:
        """Note a step and the change of the gradient over it, if they show positive curvature."""
        if float((move * turn).sum()) <= 1e-8 * float(move.norm() * turn.norm()):
            return
        for name, new in (("moves", move), ("turns", turn)):
            before = self.memory.get(name)
            stack = new[None] if before is None else torch.cat([before, new[None]])
            self.memory[name] = stack[-HISTORY:]
