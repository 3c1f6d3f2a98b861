"""Domain strategies for Hypothesis: poses, optics, scans, exposures."""

from __future__ import annotations

from hypothesis import strategies as st

from controller.hardware.values import Exposure, Mode, OpticsState, Purpose, Scan, StagePose


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Finite floats of a closed range."""
    return st.floats(low, high, allow_nan=False, allow_infinity=False)


def poses(reach_um: float = 2.0, max_tilt_deg: float = 60.0) -> st.SearchStrategy[StagePose]:
    """Measured poses near the origin, tilted."""
    return st.builds(
        StagePose,
        x_um=numbers(-reach_um, reach_um),
        y_um=numbers(-reach_um, reach_um),
        z_um=numbers(-10, 10),
        alpha_deg=numbers(-max_tilt_deg, max_tilt_deg),
        beta_deg=st.none() | numbers(-min(30.0, max_tilt_deg), min(30.0, max_tilt_deg)),
    )


def scans(max_side: int = 40) -> st.SearchStrategy[Scan]:
    """Rasters of odd and non-square shapes."""
    return st.builds(
        Scan,
        shape=st.tuples(st.integers(1, max_side), st.integers(1, max_side)),
        step_A=numbers(0.5, 100),
        dwell_s=numbers(1e-4, 1e-2),
        flyback_s=numbers(0, 1e-3),
    )


def optics(mode: st.SearchStrategy[Mode] | None = None) -> st.SearchStrategy[OpticsState]:
    """Plausible read-backs of the optics."""
    return st.builds(
        OpticsState,
        mode=mode or st.sampled_from(Mode),
        energy_keV=st.sampled_from([80.0, 200.0, 300.0]),
        probe_current_pA=numbers(0.05, 50),
        beam_diameter_nm=numbers(50, 3000),
        convergence_semiangle_mrad=numbers(0.1, 30),
        defocus_nm=numbers(-300, 300),
        pixel_size_nm=numbers(0.5, 50),
        detector_sampling_mrad=numbers(0.05, 2),
        beam_shift_nm=st.tuples(numbers(-500, 500), numbers(-500, 500)),
        scan_rotation_deg=numbers(-180, 180),
    )


def exposures(scan: st.SearchStrategy[Scan | None] | None = None) -> st.SearchStrategy[Exposure]:
    """Exposures whose time covers their scan."""

    def build(
        identifier: object, area: str, purpose: Purpose, seconds: float, s: Scan | None
    ) -> Exposure:
        return Exposure.model_validate(
            {
                "exposure_id": identifier,
                "area": area,
                "purpose": purpose,
                "detector": "camera" if s is None else "pixels",
                "duration_s": seconds if s is None else max(seconds, s.duration_s),
                "scan": s,
            }
        )

    return st.builds(
        build,
        st.uuids(),
        st.sampled_from(["S00", "T07"]),
        st.sampled_from(Purpose),
        numbers(1e-3, 3),
        st.none() if scan is None else scan,
    )
