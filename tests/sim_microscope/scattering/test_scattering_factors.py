"""The simulator's scattering factors against the two other tables."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from sim_microscope.scattering.scattering_factors import scattering_factor_A

# what frameworks and test crystals are made of
LIGHT = ["H", "C", "N", "O", "Al", "Si", "P", "S", "Cl"]
METALS = ["Ti", "Fe", "Co", "Ni", "Cu", "Zn", "Sr", "Zr", "Cs", "Ba", "Ce", "Hf", "Au", "Pb"]
ELEMENTS = [*LIGHT, *METALS, "Br", "I"]


@pytest.mark.parametrize("symbol", ELEMENTS)
def test_table_agrees_with_the_one_the_reconstruction_uses(symbol: str) -> None:
    """Lobato-Van Dyck against gemmi's c4322: within 4 % wherever a MOF diffracts."""
    g = np.linspace(0.05, 2.0, 40)
    element = gemmi.Element(symbol)
    other = [element.c4322.calculate_sf(float(x) ** 2 / 4) for x in g]

    np.testing.assert_allclose(scattering_factor_A(element.atomic_number, g), other, rtol=0.04)


@pytest.mark.parametrize("symbol", ["C", "Zr", "Au"])
def test_table_is_the_published_one(symbol: str) -> None:
    from abtem.parametrizations import LobatoParametrization

    g = np.linspace(0.01, 4.0, 50)
    f = LobatoParametrization().scattering_factor(symbol)

    expected = f(g**2)

    z = gemmi.Element(symbol).atomic_number
    np.testing.assert_allclose(scattering_factor_A(z, g), expected, rtol=2e-5)


def test_scattering_falls_with_angle_and_as_coulomb_at_last() -> None:
    """f_e -> Z / (2 pi² a0 g²) far beyond the electron cloud (Mott-Bethe)."""
    g = np.linspace(0.0, 12.0, 200)
    f = scattering_factor_A(14, g)

    assert (np.diff(f) < 0).all()
    assert f[-1] * g[-1] ** 2 == pytest.approx(14 / (2 * np.pi**2 * 0.529177), rel=0.03)


def test_unknown_element_is_refused_with_its_number() -> None:
    with pytest.raises(ValueError, match=r"atomic number 119.*1 to 103"):
        scattering_factor_A(119, 0.1)
