"""Structures: what is shipped, how a user's file is refused, how a crystal is turned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_microscope.structures import (
    SHIPPED_STRUCTURES,
    load_structure,
    rotation_by_vector,
    rotation_for_zone,
    zone_misorientation_mrad,
)


def test_unit_cells_hold_their_formulas() -> None:
    """Framework atoms per cell, as in the papers (H omitted where the CIF says so)."""
    expected = {
        "UiO-66": {40: 24, 8: 128, 6: 192, 1: 96},
        "ZIF-8": {30: 12, 7: 48, 6: 96, 1: 48},
        "MFI": {14: 96, 8: 192},
        "SrTiO3": {38: 1, 22: 1, 8: 3},
        "Au": {79: 4},
    }
    for name, formula in expected.items():
        assert load_structure(name).composition == pytest.approx(formula), name


@pytest.mark.parametrize("name", SHIPPED_STRUCTURES)
def test_every_crystal_is_closed_and_dense(name: str) -> None:
    structure = load_structure(name)
    normals, distance = structure.habit()

    assert 0.3 < structure.density_g_per_cm3 < 20
    assert (distance > 0).all()
    # closed: in every direction some face looks that way
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    assert ((axes @ normals.T).max(axis=1) > 0.3).all()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)


def test_habits_are_the_textbook_ones() -> None:
    assert len(load_structure("UiO-66").facets) == 8  # octahedron
    assert len(load_structure("ZIF-8").facets) == 12  # rhombic dodecahedron
    assert len(load_structure("NU-1000").facets) == 8  # hexagonal prism
    assert len(load_structure("SrTiO3").facets) == 6  # cube


def test_unknown_name_lists_what_is_shipped() -> None:
    with pytest.raises(ValueError, match=r"'UiO-67'.*UiO-66, ZIF-8.*\.cif"):
        load_structure("UiO-67")


def test_broken_files_are_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.cif does not exist; nothing was loaded"):
        load_structure(tmp_path / "absent.cif")
    cell = "".join(f"_cell_length_{x} 5\n" for x in "abc") + "".join(
        f"_cell_angle_{x} 90\n" for x in ("alpha", "beta", "gamma")
    )
    atoms = (
        "loop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n"
        "_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_occupancy\n"
    )
    group = "_space_group_name_H-M_alt 'P 1'\n"
    for text, message in (
        ("data_x\n" + group + atoms + "C1 C 0 0 0 1\n", "no unit cell"),
        ("data_x\n" + cell + group, "no atoms"),
        ("data_x\n" + cell + atoms + "C1 C 0 0 0 1\n", "no space group"),
        ("data_x\n" + cell + group + atoms + "Q1 Qq 0 0 0 1\n", "Q1.*no known element"),
        ("data_x\n" + cell + group + atoms + "C1 C 0 0 0 1.5\n", "C1.*occupancy 1.5"),
        ("data_x\n loop_\n_a\n_b\n 1 2 3\n", "cannot be read as CIF"),
    ):
        path = tmp_path / "mine.cif"
        path.write_text(text)
        with pytest.raises(ValueError, match=message) as refused:
            load_structure(path)
        assert "mine.cif" in str(refused.value)


def test_a_users_file_loads_with_its_symmetry(tmp_path: Path) -> None:
    source = Path(load_structure.__code__.co_filename).with_name("Au.cif").read_text()
    path = tmp_path / "gold.cif"
    path.write_text(source)

    gold = load_structure(path)

    assert (gold.name, gold.composition) == ("gold", {79: 4.0})


@given(
    st.sampled_from(["UiO-66", "MFI", "NU-1000"]),
    st.sampled_from([(0, 0, 1), (1, 1, 0), (1, 1, 1), (-1, 2, 3)]),
    st.floats(-180, 180),
    st.tuples(st.floats(-300, 300), st.floats(-300, 300)),
)
def test_zone_axis_lies_where_it_was_asked_for(
    name: str, zone: tuple[int, int, int], in_plane: float, tilt: tuple[float, float]
) -> None:
    structure = load_structure(name)
    r = rotation_for_zone(structure, zone, in_plane_deg=in_plane, tilt_mrad=tilt)

    np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(r) == pytest.approx(1)
    assert zone_misorientation_mrad(structure, r, zone) == pytest.approx(tilt, abs=1e-7)
    # the correction of the alignment convention brings the zone onto the beam
    corrected = rotation_by_vector([tilt[1] * 1e-3, -tilt[0] * 1e-3, 0]) @ r
    np.testing.assert_allclose(corrected @ structure.direction(zone), [0, 0, 1], atol=1e-9)
