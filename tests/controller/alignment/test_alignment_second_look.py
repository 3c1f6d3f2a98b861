"""What the aligner does where its first top is doubtful, and the threads that it climbs on."""

import subprocess
import sys
from dataclasses import replace

import numpy as np

from benchmarks.alignment_corpus import DATA, corpus, draw_case, pattern_of
from controller.perception.alignment import estimate_tilt, structure_from_cif
from controller.perception.alignment.dynamical import summit, tops_around
from controller.perception.alignment.task import bloch_model_of
from tests.controller.alignment.test_alignment_indexing import scene, task_of, true_pose

FORKED = """
import os
from controller.perception.alignment.two_at_a_time import for_each
assert for_each(abs, [-1, -2, -3]) == [1, 2, 3]
child = os.fork()
if child == 0:
    os._exit(0 if for_each(abs, [-4, -5]) == [4, 5] else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_top_beside_the_right_one_is_left_for_it() -> None:
    """Gold, 81 nm, 1.4 deg off [110]: the climbs end 0.13 deg beside, at 126 nm."""
    cases = list(corpus(1, 278, electrons=(3e3, 1e4, 1e5), varied=True))
    case = cases[int(np.random.default_rng(278).permutation(len(cases))[16])]
    assert (case.structure, case.zone, round(case.tilt_deg, 2)) == ("Au", (1, 1, 0), 1.41)
    found = estimate_tilt(
        pattern_of(case),
        energy_keV=case.energy_keV,
        inv_A_per_px=case.nominal_inv_A_per_px,
        structure=structure_from_cif(DATA / "Au.cif"),
        target_zone_uvw=case.zone,
        beam_stop=case.beam_stop,
    )
    off_mrad = np.hypot(
        found.tilt_x_mrad - case.tilt_mrad[0], found.tilt_y_mrad - case.tilt_mrad[1]
    )
    assert found.answered, found.reason
    assert np.rad2deg(1e-3 * off_mrad) < 0.02
    assert abs(found.thickness_nm - case.thickness_nm) < 5


def test_relrods_that_fit_beside_the_right_top_do_not_hide_its_bloch_waves() -> None:
    """A second look from a kinematical top is taken with Bloch waves."""
    rng = np.random.default_rng(5)
    case = draw_case(rng, "ZrO2-baddeleyite", (1, 0, 0), (6.0, 8.0), 1e4, varied=False)
    structure = structure_from_cif(DATA / "ZrO2-baddeleyite.cif")
    seen, pose = scene(case, structure), true_pose(case, structure)
    model = bloch_model_of(task_of(case, structure), 1.4)
    beside = summit(seen, model, pose.rotated(np.array([1e-3, 5e-4, 0.0])), beams=80,
                    thorough=False)  # fmt: skip
    taken_for_thin = replace(beside, setting=(False, True))
    best = tops_around(seen, model, taken_for_thin, radius_rad=3e-3, step_rad=0.65e-3, most=6)[0]
    assert best.setting == (False, False)
    assert np.rad2deg(best.pose.apart_rad(pose)) < 0.05
    assert abs(0.1 * best.pose.thickness_A - case.thickness_nm) < 5


def test_a_forked_process_climbs_too() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], timeout=60, check=False)
    assert done.returncode == 0
