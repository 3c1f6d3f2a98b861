"""The true dose: what every point of the specimen has really received.

Each opening of the beam leaves deposits: discs with a soft edge or scanned rectangles, in holder
coordinates at the true pose.  Fluence is per area of *specimen*: a tilted patch shows the beam
less of itself, so it receives the beam's fluence times the projected share of its area.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, erfc

Array = NDArray[np.float64]

ELECTRONS_PER_PA_S = 6.241509e6
"""Electrons per second in 1 pA."""


@dataclass(frozen=True, eq=False)
class Deposit:
    """Electrons left in one place while neither beam nor stage moved much.

    A point s of the holder lies at p = to_beam @ (s - centre) in the beam's own frame, µm; the
    fluence there is ``electrons`` times a density that integrates to one over p.
    """

    centre_um: tuple[float, float]
    to_beam: Array
    """(2, 2); for a scan its rows are the directions along columns and rows of the raster."""
    electrons: float
    edge_um: float
    """One sigma of the soft edge."""
    radius_um: float = 0.0
    """Of a disc; 0 for a rectangle."""
    size_um: tuple[float, float] = (0.0, 0.0)
    """Of a rectangle, along columns and rows of the raster."""
    exposure: int = 0
    from_s: float = 0.0
    to_s: float = 0.0

    def peak_e_per_A2(self) -> float:
        """Fluence in the middle, per Å² of specimen."""
        x, y = self.centre_um
        return float(self.fluence_e_per_A2(np.array([x]), np.array([y]))[0])

    def fluence_e_per_A2(self, x_um: Array, y_um: Array) -> Array:
        """Fluence at holder points, per Å² of specimen."""
        dx, dy = x_um - self.centre_um[0], y_um - self.centre_um[1]
        u = self.to_beam[0, 0] * dx + self.to_beam[0, 1] * dy
        v = self.to_beam[1, 0] * dx + self.to_beam[1, 1] * dy
        edge = np.sqrt(2) * max(self.edge_um, 1e-6)
        if self.radius_um > 0:
            area = np.pi * (self.radius_um**2 + self.edge_um**2)
            density = 0.5 * erfc((np.hypot(u, v) - self.radius_um) / edge) / area
        else:
            density = np.ones_like(u)
            for p, size in zip((u, v), self.size_um, strict=True):
                density = density * (
                    0.5 * (erf((p + size / 2) / edge) - erf((p - size / 2) / edge)) / size
                )
        foreshortening = abs(float(np.linalg.det(self.to_beam)))
        return np.asarray(self.electrons * density * foreshortening * 1e-8)

    def reach_um(self) -> float:
        """Distance from the centre beyond which next to nothing was left."""
        across = self.radius_um if self.radius_um > 0 else float(np.hypot(*self.size_um)) / 2
        return (across + 6 * self.edge_um) * float(np.linalg.norm(np.linalg.inv(self.to_beam), 2))


@dataclass
class TrueDose:
    """All deposits of a night."""

    deposits: list[Deposit] = field(default_factory=list)

    def add(self, deposit: Deposit) -> None:
        """Remember one deposit."""
        if deposit.electrons > 0:
            self.deposits.append(deposit)

    def fluence_at(self, x_um: Array, y_um: Array) -> Array:
        """Total fluence in e/Å² at holder points of any common shape."""
        x, y = np.broadcast_arrays(np.asarray(x_um, float), np.asarray(y_um, float))
        total = np.zeros(x.shape)
        if not x.size:
            return total
        middle = np.array([x.mean(), y.mean()])
        extent = float(np.hypot(x - middle[0], y - middle[1]).max())
        for deposit in self.deposits:
            distance = float(np.hypot(*(np.array(deposit.centre_um) - middle)))
            if distance <= deposit.reach_um() + extent:
                total += deposit.fluence_e_per_A2(x, y)
        return total

    def electrons(self) -> float:
        """All electrons that met the specimen."""
        return sum(deposit.electrons for deposit in self.deposits)

    def map(self, half_um: float, cell_um: float = 0.1) -> Array:
        """Mean fluence of square cells over [-half, half] in both axes, (row = y, col = x)."""
        fine = 3
        count = round(2 * half_um / cell_um)
        axis = (np.arange(count * fine) + 0.5) * cell_um / fine - half_um
        total = np.zeros((count * fine, count * fine))
        sample_A2 = (cell_um / fine * 1e4) ** 2
        for deposit in self.deposits:
            # at least the sample under the centre, however small the deposit is
            reach = max(deposit.reach_um(), 0.51 * cell_um / fine)
            columns = np.flatnonzero(np.abs(axis - deposit.centre_um[0]) <= reach)
            rows = np.flatnonzero(np.abs(axis - deposit.centre_um[1]) <= reach)
            if not (rows.size and columns.size):
                continue
            spread = deposit.fluence_e_per_A2(axis[columns][None, :], axis[rows][:, None])
            if max(np.abs(deposit.centre_um)) + reach < half_um:
                spread = _hold_all(spread, deposit.electrons / sample_A2)
            total[np.ix_(rows, columns)] += spread
        return np.asarray(total.reshape(count, fine, count, fine).mean(axis=(1, 3)))

    def peak_map(self, half_um: float, cell_um: float = 0.1) -> Array:
        """Largest fluence of each exposure inside each cell, added up over the exposures.

        A scan of some nanometres falls between the samples of any grid over the whole field, so
        every deposit is also looked at in its middle and near its corners.  (row = y, col = x)
        over [-half, half].
        """
        fine = 3
        count = round(2 * half_um / cell_um)
        axis = (np.arange(count * fine) + 0.5) * cell_um / fine - half_um
        total = np.zeros((count, count))
        exposures: dict[int, list[Deposit]] = {}
        for deposit in self.deposits:
            exposures.setdefault(deposit.exposure, []).append(deposit)
        for deposits in exposures.values():
            x, y = _samples(deposits, axis)
            inside = (np.abs(x) < half_um) & (np.abs(y) < half_um)
            x, y = x[inside], y[inside]
            fluence = sum((d.fluence_e_per_A2(x, y) for d in deposits), np.zeros(x.shape))
            peak = np.zeros_like(total)
            cells = (
                ((y + half_um) // cell_um).astype(int),
                ((x + half_um) // cell_um).astype(int),
            )
            np.maximum.at(peak, cells, fluence)
            total += peak
        return total


def _samples(deposits: list[Deposit], axis: Array) -> tuple[Array, Array]:
    """Points at which one exposure is looked at: a grid where it reaches, middles and corners."""
    centres = np.array([d.centre_um for d in deposits])
    reach = max(d.reach_um() for d in deposits)
    low, high = centres.min(axis=0) - reach, centres.max(axis=0) + reach
    columns = axis[(axis >= low[0]) & (axis <= high[0])]
    rows = axis[(axis >= low[1]) & (axis <= high[1])]
    grid_x, grid_y = np.meshgrid(columns, rows)
    half = 0.4 * np.array([d.size_um for d in deposits])
    corners = [
        centres + half * np.array(side) for side in ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
    ]
    points = np.concatenate([np.column_stack([grid_x.ravel(), grid_y.ravel()]), *corners])
    return points[:, 0], points[:, 1]


def _hold_all(sampled: Array, total: float) -> Array:
    """Samples scaled to add up to `total`: a deposit smaller than a sample is hit or missed."""
    found = float(sampled.sum())
    if found > 0:
        return np.asarray(sampled * (total / found))
    return np.full_like(sampled, total / sampled.size)
