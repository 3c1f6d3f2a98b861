"""Refine the calibration while the object forms: momentum on Fisher-scaled steps.

With the object held fixed the likelihood is stiff in the global parameters: an object that has
formed under a wrong raster defends it, and a Gauss-Newton step per pass creeps. The adjoint
gives the derivatives of every batch for little, so that many steps

    v <- mu v - eta (F + P)^-1 (g + share P (theta - theta_0) + share b),   theta <- theta + v

are taken per pass; F is the Fisher information of a random subset, renewed every pass, P the
inverse variances of what is known beforehand.

b undoes an optimism. A larger raster has more object pixels, which fit the noise better: thousands
of incidental parameters pull the scale of the scan by per cents (Neyman & Scott, Econometrica 16
(1948) 1), and an object that has not formed yet pulls it back. How much is not guessed but
measured, on simulated counts whose calibration is known: see ``recon.joint_calibration``. The
simulated specimen is not the real one, so that b is believed to a half only. Where this doubt is
larger than the information, the nominal scan step (to one per cent) decides: with an uncertainty d
of the force, curvature F and prior precision P, the posterior is that of a precision d^2 P / F.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.ptychography.experiment import Experiment, agreed
from recon.ptychography.frame import FrameChange, moved
from recon.ptychography.joint import Fitted, information
from recon.ptychography.pulls import Pulls, gradient_of
from recon.ptychography.solver import MultisliceSolver
from recon.ptychography.unknowns import THICKNESS_RANGE, Unknown, nudged, value_of

Float = NDArray[np.float64]
STEP, MOMENTUM = 2.0, 0.9
BATCHES_PER_STEP = 4
DOUBT = 0.5
"""Relative uncertainty of the measured optimism."""
NOMINAL_SCALE_SIGMA = 0.01
CURVATURE_LEFT = 0.1
"""Part of the Fisher information that an adapting object leaves, seen in simulations."""
FRESH_CURVATURE_LEFT = 0.3
"""The same for scales under each of which an object forms anew: 0.3 (ZIF-8) to 1 (NU-1000)."""
RENEWED_EVERY = 3
"""Passes for which a Fisher information serves."""
PULLS = fields(Pulls)
PATIENCE_PX = 0.04
"""The object is moved after its frame when a corner is off by this much."""


class Refiner:
    """Moves the calibration of a solver (and its object along) while passes run.

    Parameters
    ----------
    prior
        Calibration before any refinement: the centre of what is known beforehand.
    """

    def __init__(
        self,
        solver: MultisliceSolver,
        unknowns: tuple[Unknown, ...],
        patterns_per_step: int,
        *,
        prior: Experiment | None = None,
        step: float = STEP,
        optimism: float = 0.0,
    ) -> None:
        self.solver = solver
        self.unknowns = unknowns
        self.prior = prior or solver.experiment
        self.patterns_per_step = patterns_per_step
        self.step = step
        self.optimism = optimism
        """What the loss gains, without being right, per ln(area) of the scan."""
        self.sigma: dict[str, float] = {}
        """Standard deviations by the counts, with what the adapting object leaves of them."""
        self.path: list[Experiment] = []
        """The calibration after every step of the last pass."""
        self._active: tuple[Unknown, ...] = ()
        self._informed: tuple[Unknown, ...] = ()
        self._velocity: dict[str, float] = {u.name: 0.0 for u in unknowns}
        self._object_frame = solver.experiment
        self._sums: Pulls | None = None
        self._count, self._share = 0, 0.0

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What the coming steps depend on: batches that wait for a step, and numbers."""
        waiting = self._sums
        tensors = {} if waiting is None else {f.name: getattr(waiting, f.name) for f in PULLS}
        return tensors, {
            "sigma": self.sigma,
            "velocity": self._velocity,
            "object_frame": self._object_frame.numbers(),
            "waiting": [self._count, self._share],
            "informed": [u.name for u in self._informed],
            "precision": self._precision.tolist() if self._informed else [],
            "damped": self._damped.tolist() if self._informed else [],
        }

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Be as at the time of ``state``."""
        self.sigma, self._velocity = dict(numbers["sigma"]), dict(numbers["velocity"])
        self._object_frame = self.solver.experiment.with_numbers(numbers["object_frame"])
        self._count, self._share = numbers["waiting"]
        self._informed = tuple(u for u in self.unknowns if u.name in numbers["informed"])
        self._precision = np.array(numbers["precision"])
        self._damped = np.array(numbers["damped"])
        self._sums = Pulls(**tensors) if tensors else None

    def begin_pass(
        self, pass_number: int, rng: np.random.Generator, executor: ThreadPoolExecutor
    ) -> Callable[[Pulls, float], None] | None:
        """Renew the Fisher information on a random subset; return what a pass is to call."""
        self._active = tuple(u for u in self.unknowns if pass_number >= u.first_pass)
        self._settle()
        self.path = []
        if not self._active:
            return None
        solver = self.solver
        solver.recalibrate(solver.experiment)
        if self._active != self._informed or pass_number % RENEWED_EVERY == 0:
            self._renew_information(rng, executor)
        return self._on_pulls

    def _renew_information(self, rng: np.random.Generator, executor: ThreadPoolExecutor) -> None:
        solver = self.solver
        fit = Fitted(
            experiment=solver.experiment,
            canvas=solver.canvas,
            slices=solver.slices,
            counts=solver.counts,
            position=solver.patterns.position,
            measured=solver.measured,
            per_pattern=solver.per_pattern,
            floor=solver.floor,
        )
        count = min(self.patterns_per_step, solver.patterns.n_patterns)
        chosen = rng.choice(solver.patterns.n_patterns, count, replace=False)
        which = torch.from_numpy(chosen).to(solver.device)
        _, fisher = information(fit, self._active, which, executor)
        fisher *= solver.patterns.n_patterns / count
        self._precision = np.array([u.prior_sigma**-2 for u in self._active])
        self._doubt = self._doubted(fisher)
        self._damped = fisher + np.diag(self._precision + self._doubt)
        self.sigma = self._known_to(fisher)
        self._informed = self._active

    def _known_to(self, fisher: Float) -> dict[str, float]:
        """Standard deviations, by name: of the counts, and of the optimism where it matters.

        The doubtful force of the optimism moves the scale by d / F against the curvature that
        objects formed under each scale anew leave; the nominal scan step, to its own sigma, bounds
        what that may come to. A stiff spring towards the nominal step is no knowledge of it.
        """
        counted = np.linalg.inv(CURVATURE_LEFT * (fisher + np.diag(self._precision)))
        variance = np.diag(counted).copy()
        for i, unknown in enumerate(self._active):
            if unknown.name == "scale" and self.optimism:
                misled = 2 * DOUBT * self.optimism / max(FRESH_CURVATURE_LEFT * fisher[i, i], 1.0)
                variance[i] = 1 / (1 / (variance[i] + misled**2) + NOMINAL_SCALE_SIGMA**-2)
        return {u.name: math.sqrt(float(v)) for u, v in zip(self._active, variance, strict=True)}

    def _on_pulls(self, pulls: Pulls, share: float) -> None:
        """Collect batches; take a step after every few."""
        if self._sums is None:
            self._sums = replace(pulls, gradient=pulls.gradient.clone())
        else:
            self._sums.add(pulls)
        self._count, self._share = self._count + 1, self._share + share
        if self._count >= BATCHES_PER_STEP:
            self._take_step(self._sums)
            self._sums, self._count, self._share = None, 0, 0.0

    def _take_step(self, sums: Pulls) -> None:
        solver, active = self.solver, self._active
        here = solver.experiment
        gradient = gradient_of(sums, here, solver.slices, active)
        off = np.array([value_of(here, u.name) - value_of(self.prior, u.name) for u in active])
        known = self._precision * off + self._optimism_slope(here)
        known += self._doubt * (_log_area(here) / 2 - np.log(here.scan_step_A))
        newton = np.linalg.solve(self._damped, gradient + self._share * known)
        velocity = np.array([self._velocity[u.name] for u in active])
        velocity = MOMENTUM * velocity - self.step * newton
        largest = np.array([u.largest_step for u in active])
        velocity *= min(1.0, float(np.min(largest / np.maximum(np.abs(velocity), 1e-12))))
        experiment = here
        for unknown, by in zip(active, velocity.tolist(), strict=True):
            experiment = nudged(experiment, unknown.name, by)
            self._velocity[unknown.name] = by
        low, high = (factor * self.prior.thickness_A for factor in THICKNESS_RANGE)
        thickness = float(np.clip(experiment.thickness_A, low, high))
        experiment = replace(experiment, thickness_A=thickness)
        experiment = agreed(experiment, solver.team)
        solver.recalibrate(experiment, reweigh=False)
        self.path.append(experiment)
        change = FrameChange.between(self._object_frame, experiment)
        if change.furthest_px(solver.canvas) > PATIENCE_PX:
            self._settle()

    def _doubted(self, fisher: Float) -> Float:
        """Precision with which the nominal scan step replaces what optimism spoils, (unknown,)."""
        doubt = 2 * DOUBT * self.optimism
        return np.array(
            [
                doubt**2 / (NOMINAL_SCALE_SIGMA**2 * CURVATURE_LEFT * max(fisher[i, i], 1.0))
                if unknown.name == "scale"
                else 0.0
                for i, unknown in enumerate(self._active)
            ]
        )

    def _optimism_slope(self, here: Experiment) -> Float:
        area = np.array([_log_area(nudged(here, u.name, u.nudge)) for u in self._active])
        nudges = np.array([u.nudge for u in self._active])
        slope: Float = self.optimism * (area - _log_area(here)) / nudges
        return slope

    def _settle(self) -> None:
        """Let the object follow its frame."""
        solver = self.solver
        change = FrameChange.between(self._object_frame, solver.experiment)
        solver.slices = moved(solver.slices, solver.canvas, change)
        solver.velocity = moved(solver.velocity, solver.canvas, change)
        self._object_frame = solver.experiment


def _log_area(experiment: Experiment) -> float:
    return float(np.log(np.abs(np.linalg.det(experiment.scan_matrix()))))


def mean_of(experiments: Sequence[Experiment]) -> Experiment:
    """Average of the refined parameters: what is left of the batches' noise averages out."""
    (a, b), (c, d) = np.mean([e.affine for e in experiments], axis=0).tolist()
    row, col = np.mean([e.tilt_mrad for e in experiments], axis=0).tolist()
    return replace(
        experiments[-1],
        defocus_A=float(np.mean([e.defocus_A for e in experiments])),
        C12a_A=float(np.mean([e.C12a_A for e in experiments])),
        C12b_A=float(np.mean([e.C12b_A for e in experiments])),
        rotation_deg=float(np.mean([e.rotation_deg for e in experiments])),
        thickness_A=float(np.mean([e.thickness_A for e in experiments])),
        affine=((a, b), (c, d)),
        tilt_mrad=(row, col),
    )
