"""Surrogate mode: outcomes drawn from measured error models instead of simulated pictures.

A night of the full simulator takes a processor many minutes, so policies are compared here: what
the picker offers, whether a crystal can be read and reached, how long each step takes, where it
ends, and the resolution of its scan are drawn from what nights of the full simulator have shown
(``surrogate.yaml``, with the command that made it).  There is no stage, no picture and no detector
behind it, and whatever comes out says SURROGATE.

Nothing here knows who asks: a crystal is a number, a fluence is a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field

from sim_microscope.randomness import stream

MARK = "SURROGATE: outcomes drawn from measured models, nothing was simulated"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Kind(_Part):
    """Crystals of one role, or places where the picker sees one and there is none."""

    per_crystal: Annotated[float, Field(ge=0)]
    """How many are offered for each crystal on the grid, of whatever role."""
    picks: tuple[tuple[Share, Positive], ...]
    """(score, usable radius in nm) of those that were offered."""
    answered: Share
    """That its tilt can be read."""
    reachable: Share
    """That a wanted axis is within reach, if it can be read."""
    aligned: Share
    """That it ends on its axis, if it is within reach."""


class Seconds(_Part):
    """What the steps of a visit take, in virtual seconds."""

    visit: Positive
    locate: Positive
    pattern: Positive
    height: Positive
    tilt: Positive
    scan: Positive


class ResolutionModel(_Part):
    """ln d = ln(at_120) + slope ln(E / E120) + Normal(0, scatter²), E = F exp(-F / 2D)."""

    at_120_A: Positive
    """Median resolution of a scan of 120 e/A2."""
    scatter: Positive
    slope: Annotated[float, Field(lt=0)]
    critical_e_per_A2: Positive
    unreadable: Share
    """Scans in which no lattice stands out, whatever the fluence."""


class Models(_Part):
    """Everything that was measured."""

    nights: int
    made_by: str
    kinds: dict[str, Kind]
    seconds: Seconds
    patterns_unread: int
    """Patterns that are taken of a crystal before it is given up."""
    patterns_aligned: float
    tilts_aligned: float
    end_deg: tuple[Positive, Positive]
    """Median of the angle between axis and beam under the scan, and its 95th percentile."""
    resolution: ResolutionModel


@cache
def shipped_models() -> Models:
    """The models that come with the package."""
    text = files("sim_microscope").joinpath("surrogate.yaml").read_text(encoding="utf-8")
    return Models.model_validate(yaml.safe_load(text))


@dataclass(frozen=True)
class Offer:
    """What the picker shows of a place."""

    x_um: float
    y_um: float
    score: float
    radius_nm: float


@dataclass(frozen=True)
class Reading:
    """What patterns of an untilted crystal tell."""

    answered: bool
    reachable: bool
    patterns: int


@dataclass(frozen=True)
class Fate:
    """What is true of a place."""

    kind: str
    reading: Reading
    end_deg: float | None
    """None: it does not come onto its axis."""
    quality: float
    """Of its scan: ln of the resolution over the median; infinite where no lattice stands out."""


class SurrogateNight:
    """One grid, drawn with a seed; asking twice gives the same answer.

    Parameters
    ----------
    crystals
        On the grid, of all roles.
    field_um
        Side of the square that holds them.
    unlike
        Standard deviation of ln d between nights: preparations differ. 0: all alike.
    """

    def __init__(
        self,
        seed: int,
        *,
        crystals: int,
        field_um: float,
        unlike: float = 0.0,
        models: Models | None = None,
    ) -> None:
        self.models = models or shipped_models()
        rng = stream(seed, "surrogate")
        self._unlike = float(rng.normal(0.0, unlike)) if unlike else 0.0
        self.offers: list[Offer] = []
        self._fates: list[Fate] = []
        for name, kind in self.models.kinds.items():
            for _ in range(int(rng.poisson(kind.per_crystal * crystals))):
                score, radius_nm = kind.picks[int(rng.integers(len(kind.picks)))]
                x_um, y_um = rng.uniform(-field_um / 2, field_um / 2, 2)
                self.offers.append(Offer(float(x_um), float(y_um), score, radius_nm))
                self._fates.append(self._draw(name, kind, rng))
        order = rng.permutation(len(self.offers))
        self.offers = [self.offers[k] for k in order]
        self._fates = [self._fates[k] for k in order]

    def _draw(self, name: str, kind: Kind, rng: np.random.Generator) -> Fate:
        models = self.models
        answered = bool(rng.random() < kind.answered)
        reachable = answered and bool(rng.random() < kind.reachable)
        aligned = reachable and bool(rng.random() < kind.aligned)
        median, p95 = models.end_deg
        end_deg = median * math.exp(math.log(p95 / median) / 1.645 * float(rng.normal()))
        quality = models.resolution.scatter * float(rng.normal())
        if rng.random() < models.resolution.unreadable:
            quality = math.inf
        patterns = 1 if answered else models.patterns_unread
        reading = Reading(answered, reachable, patterns)
        return Fate(name, reading, end_deg if aligned else None, quality)

    def read(self, number: int) -> Reading:
        """What patterns of crystal `number` tell."""
        return self._fates[number].reading

    def end_deg(self, number: int) -> float | None:
        """Angle between its axis and the beam in the end; None where it does not come onto it."""
        return self._fates[number].end_deg

    def resolution_A(self, number: int, fluence_e_per_A2: float) -> float | None:
        """Of a scan with that fluence; None where no lattice stands out."""
        model, quality = self.models.resolution, self._fates[number].quality
        if not math.isfinite(quality):
            return None

        def effect(fluence: float) -> float:
            return math.log(fluence) - fluence / (2 * model.critical_e_per_A2)

        shift = model.slope * (effect(fluence_e_per_A2) - effect(120.0))
        return model.at_120_A * math.exp(shift + quality + self._unlike)

    def kind(self, number: int) -> str:
        """What is there: for judging, never for deciding."""
        return self._fates[number].kind
