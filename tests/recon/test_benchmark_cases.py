"""Cases of the benchmark: drawn ones can be drawn again, any zone is the same crystal."""

import ase.io
import numpy as np
import pytest

from benchmarks.ptychography import RUNS, drawn
from benchmarks.ptychography_data import STRUCTURES, _seen_along


def test_a_drawn_case_can_be_drawn_again_and_is_as_wrong_as_promised() -> None:
    assert drawn(7, 3) == drawn(7, 3)
    for number in range(20):
        run = drawn(7, number)
        case = run.case
        assert case.rotation_deg + run.nominal.rotation_error_deg == 0.0
        assert abs(run.nominal.defocus_error_A) <= 200
        assert np.hypot(*case.tilt_mrad) <= 7.01
        assert np.linalg.norm(np.array(case.affine) - np.eye(2), 2) <= 0.0301
        assert 320 <= case.thickness_A <= 380
        assert run.nominal.thickness_A is None


def test_no_two_cases_share_a_simulation() -> None:
    keys = [run.case.key for run in RUNS.values()]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("name", "zone"),
    [("UiO-66", (1, 1, 0)), ("UiO-66", (1, 1, 1)), ("ZIF-8", (1, 1, 1)), ("MFI", (0, 1, 0))],
)
def test_a_crystal_seen_along_another_zone_is_the_same_crystal(
    name: str, zone: tuple[int, int, int]
) -> None:
    """Distances between neighbours and density stay; c is the beam, a and b are square to it."""
    crystal = ase.io.read(STRUCTURES / f"{name}.cif")
    turned = _seen_along(crystal, zone)
    assert len(turned) / turned.cell.volume == pytest.approx(len(crystal) / crystal.cell.volume)
    np.testing.assert_allclose(np.array(turned.cell)[[0, 1, 2, 2], [2, 2, 0, 1]], 0, atol=1e-9)
    first, second = (
        np.sort(atoms.get_distances(0, range(1, len(atoms)), mic=True))[:6]
        for atoms in (crystal, turned)
    )
    np.testing.assert_allclose(first, second, atol=1e-6)
