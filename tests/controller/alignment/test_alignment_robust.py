"""What is no pattern of this crystal gets no answer; what only disturbs it changes nothing."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.alignment_corpus import (
    DATA,
    ELECTRONS,
    ZONES,
    Case,
    draw_case,
    pattern_of,
    reflections,
)
from benchmarks.alignment_patterns import Detector, expected_share, record
from controller.cli.main import app
from controller.perception.alignment import (
    CrystalStructure,
    PatternError,
    TiltEstimate,
    align_files,
    estimate_tilt,
    structure_from_cif,
)

Zone = tuple[int, int, int]
ONE_ELECTRON = (np.zeros((1, 2)), np.ones(1))
NAMES = tuple(dict.fromkeys(name for name, _ in ZONES))


@cache
def structure(name: str) -> CrystalStructure:
    return structure_from_cif(DATA / f"{name}.cif")


def measured(
    counts: np.ndarray,
    known: tuple[str, Zone] | None = None,
    *,
    energy_keV: float = 200,
    inv_A_per_px: float = 0.012,
    beam_stop: bool = False,
) -> TiltEstimate:
    return estimate_tilt(
        counts,
        energy_keV=energy_keV,
        inv_A_per_px=inv_A_per_px,
        structure=structure(known[0]) if known else None,
        target_zone_uvw=known[1] if known else None,
        beam_stop=beam_stop,
    )


def measured_case(case: Case, counts: np.ndarray, *, known: bool) -> TiltEstimate:
    return measured(
        counts,
        (case.structure, case.zone) if known else None,
        energy_keV=case.energy_keV,
        inv_A_per_px=case.nominal_inv_A_per_px,
        beam_stop=case.beam_stop,
    )


def error_deg(found: TiltEstimate, tilt_mrad: tuple[float, float]) -> float:
    off = np.hypot(found.tilt_x_mrad - tilt_mrad[0], found.tilt_y_mrad - tilt_mrad[1])
    return float(np.rad2deg(1e-3 * off))


def _halo(shape: str, electrons: float, stop: float = 0.0) -> np.ndarray:
    detector = Detector(
        centre_px=(133.0, 124.0), halo_fraction=0.7, halo_shape=shape, beam_stop_px=stop
    )  # type: ignore[arg-type]
    return record(*ONE_ELECTRON, detector, electrons, np.random.default_rng(5))


def no_crystals() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    hot = np.zeros((256, 256))
    hot.flat[rng.choice(hot.size, 30, replace=False)] = 500.0
    return {
        "blank": np.zeros((256, 256)),
        "faint noise": rng.poisson(0.05, (256, 256)),
        "bright noise": rng.poisson(100.0, (256, 256)),
        "read noise": rng.normal(0.5, 1.0, (256, 256)),
        "saturated": np.full((256, 256), 65535.0),
        "gradient": rng.poisson(np.arange(256)[None] * np.ones((256, 1)) / 50),
        "hot pixels": hot,
        "carbon film": _halo("ring", 1e5),
        "amorphous": _halo("exponential", 1e4),
        "amorphous behind a stop": _halo("ring", 1e4, stop=8.0),
    }


@pytest.mark.parametrize("name", no_crystals())
def test_what_is_no_crystal_gets_a_reason_without_a_structure(name: str) -> None:
    found = measured(no_crystals()[name], beam_stop=name.endswith("stop"))
    assert not found.answered
    assert found.reason


@pytest.mark.parametrize("known", [("UiO-66", (0, 0, 1)), ("Au", (1, 1, 0))])
def test_what_is_no_crystal_gets_a_reason_with_a_structure(known: tuple[str, Zone]) -> None:
    for name, counts in no_crystals().items():
        found = measured(counts, known, beam_stop=name.endswith("stop"))
        assert not found.answered, name
        assert found.reason, name


@pytest.mark.parametrize("known", [None, ("UiO-66", (0, 0, 1))])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_pixel_that_is_no_number_is_refused_by_name(
    known: tuple[str, Zone] | None, value: float
) -> None:
    counts = np.ones((128, 128))
    counts[17, 40] = value
    with pytest.raises(PatternError, match="1 of 16384 pixels are NaN or infinite"):
        measured(counts, known)


def test_files_of_no_pattern_end_in_reasons_and_not_in_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "hostile.h5"
    hostile = {k: v for k, v in no_crystals().items() if k in ("blank", "saturated", "gradient")}
    hostile["numberless"] = np.full((64, 64), np.nan)
    hostile["thin"] = np.ones((8, 300))
    with h5py.File(path, "w") as stack:
        stack["cif/UiO"] = (DATA / "UiO-66.cif").read_text()
        for name, counts in hostile.items():
            for mode in ("known", "free"):
                dataset = stack.create_dataset(f"patterns/{name} {mode}", data=counts)
                dataset.attrs["energy_eV"] = 200e3
                dataset.attrs["inv_A_per_px"] = 0.012
                if mode == "known":
                    dataset.attrs["structure"] = "UiO"
                    dataset.attrs["target_zone_uvw"] = (0, 0, 1)
    records = align_files([path])["patterns"]
    assert len(records) == 2 * len(hostile)
    for name, entry in records.items():
        assert entry["answered"] is False, name
        assert entry["reason"], name
    told = CliRunner().invoke(app, ["align", str(path), "--json"])
    assert told.exception is None or isinstance(told.exception, SystemExit)
    assert "Traceback" not in told.output


def pairs(rng: np.random.Generator, n: int) -> list[tuple[Case, str, Zone]]:
    """Patterns of one structure with the CIF of another, low and high tilts, all counts."""
    chosen = []
    while len(chosen) < n:
        name, zone = ZONES[int(rng.integers(len(ZONES)))]
        wrong, target = ZONES[int(rng.integers(len(ZONES)))]
        if wrong != name:
            limits = (0.0, 2.0) if rng.random() < 0.5 else (0.0, 15.0)
            count = float(rng.choice(ELECTRONS))
            case = draw_case(rng, name, zone, limits, count, varied=False)
            chosen.append((case, wrong, target))
    return chosen


def invented(chosen: list[tuple[Case, str, Zone]]) -> list[tuple[str, str, float]]:
    """Those that got an answer: structure, the CIF given, electrons."""
    answered = []
    for case, wrong, target in chosen:
        found = measured(
            pattern_of(case),
            (wrong, target),
            energy_keV=case.energy_keV,
            inv_A_per_px=case.nominal_inv_A_per_px,
        )
        if found.answered:
            answered.append((case.structure, wrong, case.electrons))
        else:
            assert found.reason
    return answered


def test_the_wrong_structure_gets_no_answer() -> None:
    assert invented(pairs(np.random.default_rng(21), 3)) == []


@pytest.mark.soak
def test_hardly_any_wrong_structure_gets_an_answer() -> None:
    """156 pairs of structures, drawn three hundred times."""
    answered = invented(pairs(np.random.default_rng(22), 300))
    assert len(answered) <= 6, answered


def near_zone(name: str, zone: Zone, seed: int, electrons: float = 3e4) -> Case:
    rng = np.random.default_rng(seed)
    return draw_case(rng, name, zone, (0.2, 0.8), electrons, varied=False)


@pytest.mark.parametrize("known", [False, True])
def test_hot_and_dead_pixels_hardly_move_the_answer(known: bool) -> None:
    case = near_zone("UiO-66", (0, 0, 1), 3)
    spoiled = pattern_of(
        replace(case, detector=replace(case.detector, hot_pixels=5, dead_pixels=20))
    )
    spoiled[:, 61] = 0.0
    found = measured_case(case, spoiled, known=known)
    assert found.answered, found.reason
    assert error_deg(found, case.tilt_mrad) < (0.05 if known else 0.15)


@pytest.mark.parametrize(
    ("name", "zone"), [("UiO-66", (1, 1, 1)), ("CsPbBr3", (1, 0, 1)), ("SiO2-quartz", (0, 0, 1))]
)
def test_a_mirrored_camera_mirrors_the_structure_free_answer(name: str, zone: Zone) -> None:
    """Achiral or chiral: without a structure nothing knows the hand."""
    case = near_zone(name, zone, 4, 1e5)
    counts = pattern_of(case)
    there, back = (measured_case(case, c, known=False) for c in (counts, np.fliplr(counts)))
    assert there.answered == back.answered, (there.reason, back.reason)
    off = np.hypot(back.tilt_x_mrad + there.tilt_x_mrad, back.tilt_y_mrad - there.tilt_y_mrad)
    assert off < 0.5 * there.sigma_mrad


@pytest.mark.parametrize(("name", "zone"), [("UiO-66", (0, 0, 1)), ("SiO2-quartz", (0, 0, 1))])
def test_a_mirrored_camera_gets_no_wrong_answer_with_a_structure(name: str, zone: Zone) -> None:
    case = near_zone(name, zone, 6, 1e5)
    found = measured_case(case, np.fliplr(pattern_of(case)), known=True)
    if found.answered:
        assert error_deg(found, (-case.tilt_mrad[0], case.tilt_mrad[1])) < 0.3


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_turned_pattern_turns_the_structure_free_answer(quarter_turns: int) -> None:
    case = near_zone("ZIF-8", (1, 1, 1), 8, 1e5)
    counts = pattern_of(case)
    there = measured_case(case, counts, known=False)
    turned = measured_case(case, np.rot90(counts, quarter_turns), known=False)
    x, y = there.tilt_x_mrad, there.tilt_y_mrad
    for _ in range(quarter_turns):
        x, y = y, -x  # a quarter turn takes +column to -row
    assert there.answered, there.reason
    assert turned.answered, turned.reason
    assert np.hypot(turned.tilt_x_mrad - x, turned.tilt_y_mrad - y) < 0.5 * there.sigma_mrad


def test_two_crystals_in_the_aperture_get_one_of_their_tilts_or_none() -> None:
    """Half and half, tilted by several degrees against each other, without a structure."""
    rng = np.random.default_rng(31)
    for name, zone in (("UiO-66", (0, 0, 1)), ("CsPbBr3", (0, 1, 0)), ("sanidine", (0, 0, 1))):
        one = draw_case(rng, name, zone, (0.0, 1.0), 1e5, varied=False)
        other = replace(
            draw_case(rng, name, zone, (3.0, 8.0), 1e5, varied=False),
            energy_keV=one.energy_keV,
            detector=one.detector,
        )
        mixed = sum(expected_share(*reflections(c), one.detector) for c in (one, other))
        found = measured_case(one, rng.poisson(5e4 * mixed).astype(float), known=False)
        if found.answered:
            nearest = min(error_deg(found, c.tilt_mrad) for c in (one, other))
            assert nearest < 0.5, (name, nearest)
