"""Frames on disk: whole or not there, never overwritten, readable without the journal."""

from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from controller.hardware.values import Frame, Mode, OpticsState, StagePose
from controller.record.store import RunStore, read_frame


def frame(data: np.ndarray, *, valid: np.ndarray | None = None) -> Frame:
    return Frame(
        exposure_id=UUID(int=5),
        sequence=0,
        data=data,
        gain=11.0,
        offset=120.0,
        exposure_s=0.5,
        utc="2026-01-01T20:00:00+00:00",
        pose=StagePose(x_um=1.5, y_um=-2, z_um=0, alpha_deg=3, beta_deg=None),
        optics=OpticsState(
            mode=Mode.IMAGE,
            energy_keV=300,
            probe_current_pA=5,
            beam_diameter_nm=8000,
            convergence_semiangle_mrad=0.1,
            defocus_nm=0,
            pixel_size_nm=10,
        ),
        charged_e_per_A2=0.001,
        valid=valid,
    )


def test_a_frame_comes_back_as_electrons_with_its_readings(tmp_path: Path) -> None:
    electrons = np.arange(7 * 5).reshape(7, 5)
    store = RunStore(tmp_path)
    name, relative = store.save_frame(
        frame((electrons * 11 + 120).astype(np.uint16)), role="survey", target=None
    )
    back = read_frame(tmp_path / relative)
    assert name == "00000-survey"
    np.testing.assert_allclose(back.electrons, electrons, atol=1e-5)
    assert back.header["pose"]["x_um"] == 1.5
    assert back.header["exposure_id"] == str(UUID(int=5))
    assert back.header["role"] == "survey"


def test_bad_pixels_read_as_no_electrons(tmp_path: Path) -> None:
    valid = np.ones((4, 3), bool)
    valid[1, 2] = False
    data = np.full((4, 3), 65535, np.uint16)
    _, relative = RunStore(tmp_path).save_frame(frame(data, valid=valid), role="track", target="T1")
    assert read_frame(tmp_path / relative).electrons[1, 2] == 0


def test_a_resumed_run_goes_on_counting_and_overwrites_nothing(tmp_path: Path) -> None:
    data = np.zeros((3, 4), np.uint16)
    first = RunStore(tmp_path).save_frame(frame(data), role="survey", target=None)
    second = RunStore(tmp_path).save_frame(frame(data + 1), role="survey", target=None)
    assert first != second
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == [
        "00000-survey.h5",
        "00001-survey.h5",
    ]


def test_what_is_no_frame_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rubbish.h5"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"rubbish\.h5 is not a frame file of a run"):
        read_frame(path)
