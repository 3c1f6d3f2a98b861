"""Damage: monotone, faster at high order, the same in diffraction and on the atoms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sim_microscope.damage import CRITICAL_FLUENCE, DamageModel, critical_fluence
from sim_microscope.scattering.specimen import ScanSpecimen
from sim_microscope.structures import SHIPPED_STRUCTURES, Structure, load_structure

FLUENCE = st.floats(0, 1e4)


@given(FLUENCE, FLUENCE, st.floats(0.05, 2))
def test_order_only_fades(first: float, more: float, g: float) -> None:
    model = DamageModel(256.0)
    before = model.bragg_factor(first, np.array([g]))
    after = model.bragg_factor(first + more, np.array([g]))

    assert 0 <= after <= before <= 1
    assert model.bragg_factor(first, np.array([2 * g])) <= before
    assert model.mass_loss(first) <= model.mass_loss(first + more) <= model.final_mass_loss
    assert model.shrinkage(first) <= model.shrinkage(first + more) <= model.final_shrinkage


def test_critical_fluence_is_where_the_order_of_3_6_angstrom_falls_to_one_in_e() -> None:
    model = DamageModel.of(load_structure("UiO-66"))

    assert model.bragg_factor(256.0, np.array([1 / 3.6]))[0] == pytest.approx(np.exp(-1))


def displacements(structure: Structure, disorder_A: float, low: NDArray, high: NDArray) -> NDArray:
    """How far each atom that is still in the box has moved."""
    still = ScanSpecimen(structure, np.eye(3), 6.0).atoms(low, high, seed=1)
    specimen = ScanSpecimen(structure, np.eye(3), 6.0, disorder_A=disorder_A)
    moved = specimen.atoms(low, high, seed=1)
    _, i, j = np.intersect1d(still.identity, moved.identity, return_indices=True)
    return moved.positions_A[j] - still.positions_A[i]


@pytest.mark.parametrize("fluence", [60.0, 250.0])
def test_displaced_atoms_fade_as_the_bragg_beams_do(fluence: float) -> None:
    """Mean of exp(2 pi i g . u) over the damaged atoms is the root of the intensity factor."""
    uio = load_structure("UiO-66")
    model = DamageModel.of(uio)
    low, high = np.array([-40.0, -40.0]), np.array([40.0, 40.0])
    by = displacements(uio, model.disorder_A(fluence), low, high)

    for g in (0.2, 0.5, 1.0):
        for axis in range(3):
            amplitude = np.cos(2 * np.pi * g * by[:, axis]).mean()
            expected = float(np.sqrt(model.bragg_factor(fluence, np.array([g]))[0]))
            assert amplitude == pytest.approx(expected, abs=0.02)


def test_the_same_atoms_move_on_as_the_dose_goes_on() -> None:
    zif = load_structure("ZIF-8")
    low, high = np.array([-20.0, -15.0]), np.array([20.0, 15.0])
    a, b = (displacements(zif, d, low, high) for d in (1e-5, 2e-5))

    small = np.linalg.norm(b, axis=1) < 0.01
    assert small.mean() > 0.9
    assert len(a) == len(b)
    np.testing.assert_allclose(b[small], 2 * a[small], atol=1e-9)


def test_flux_matters_only_if_asked() -> None:
    assert DamageModel(40.0).effective_fluence(10, 300) == 10
    assert DamageModel(40.0, rate_exponent=0.1).effective_fluence(10, 300) > 10


def test_every_shipped_structure_has_a_sourced_value() -> None:
    for name in SHIPPED_STRUCTURES:
        value = critical_fluence(load_structure(name))
        assert value is CRITICAL_FLUENCE[name]
        assert value.source


def test_no_critical_fluence_no_model() -> None:
    with pytest.raises(ValueError, match="nan e/Å² is not positive; no damage model was made"):
        DamageModel(float("nan"))
