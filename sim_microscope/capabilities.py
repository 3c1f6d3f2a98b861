"""What the simulated instrument says it is and can do."""

from __future__ import annotations

import numpy as np

from controller.hardware.values import (
    BlankInfo,
    Capabilities,
    LongOperation,
    Mode,
    ScanInfo,
)
from sim_microscope.optics import BEAM_DIAMETER_NM, BEAM_TILT_MRAD
from sim_microscope.world import World

_MOVES_OF_A_NIGHT = 400
_LONG_MOVES = 200
"""Moves over which jumps, and kicks of drift, add up unseen: nothing re-registers the map yet."""
_KICK = 0.4
"""Root mean square of a kick in units of the largest."""
_UNSEEN_DRIFT_UM = 0.03
_PLAY_TO_SIGMA = 1 / np.sqrt(12)


def describe(world: World) -> Capabilities:
    """Capabilities of `world`, with uncertainties as honest as a service engineer's."""
    spec = world.scenario
    stage, film = spec.stage, spec.specimen.film
    wander_um = (
        max(stage.x.play, stage.y.play) * _PLAY_TO_SIGMA,
        max(stage.x.repeatability, stage.y.repeatability),
        stage.jump_um * np.sqrt(stage.jump_probability * _MOVES_OF_A_NIGHT),
        stage.drift_kick_nm_per_s * 1e-3 * stage.drift_decay_s * _KICK * np.sqrt(_LONG_MOVES),
        spec.optics.mode_offset_nm * 1e-3,
        _UNSEEN_DRIFT_UM,
    )
    return Capabilities(
        vendor="lodestem",
        model=f"simulated column ({spec.name})",
        api="in process",
        adapter_version="1",
        simulated=True,
        axes=world.stage.axes(),
        blank=BlankInfo(
            latency_s=spec.beam.blank_latency_s,
            readable=True,
            independent=True,
            kind="electrostatic",
        ),
        current_from="gun",
        current_relative_sigma=float(np.hypot(spec.beam.read_noise, spec.beam.current_noise)),
        max_current_pA=1.4 * spec.beam.max_current_pA,
        detectors=world.detectors.describe(),
        scan=ScanInfo(max_shape=(1024, 1024), min_dwell_s=1e-5),
        modes=frozenset(Mode),
        beam_diameter_nm=BEAM_DIAMETER_NM,
        beam_tilt_mrad=BEAM_TILT_MRAD,
        beam_tail_factor=1 + 4 * spec.beam.edge_share,
        position_sigma_nm=1e3 * float(np.linalg.norm(wander_um)),
        eucentric_sigma_um=float(np.hypot(film.height_sigma_um, film.height_offset_um)),
        long_operations=frozenset(LongOperation),
        dead_man="none",
        drift_nm_per_s=stage.drift_nm_per_s,
    )
