"""A small night written by hand: a run folder as the loop leaves it, without a microscope."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import h5py
import numpy as np
import pytest

from controller.hardware.clock import VirtualClock
from controller.hardware.values import (
    Axis,
    AxisInfo,
    BlankInfo,
    Calibration,
    Capabilities,
    DetectorInfo,
    Frame,
    Mode,
    OpticsState,
    PartialPose,
    Purpose,
    ScanInfo,
    StageLimits,
    StagePose,
)
from controller.perception.view import View
from controller.record.events import (
    Answered,
    Event,
    ExposureMade,
    Fault,
    FrameStored,
    GoniometerSetting,
    Located,
    Moved,
    Pick,
    Proposed,
    Reconstructed,
    RegionsFound,
    RunEnded,
    RunStarted,
    ScanTaken,
    StepEnded,
    StepStarted,
    TargetEnded,
    TargetsChosen,
    TiltFitted,
)
from controller.record.journal import Journal
from controller.record.store import RunStore
from recon.dataset import ScanFileWriter, ScanHeader, sha256_of

K_INV_A = 50.8
INV_A_PER_PX = 0.0127
LABELLED = {"vacuum": 0.5, "support": 0.4, "crystal": 0.1}


class Night:
    """Writes a run folder event by event."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = VirtualClock()
        self.rng = np.random.default_rng(7)
        self.store = RunStore(folder)
        self.journal = Journal(folder / "journal.jsonl", self.clock)
        self.calibration = Calibration(image_rotation_deg=37.0, tilt_axis_azimuth_deg=-62.0)
        self.exposures = 0
        self.step = 0

    def say(self, event: Event, *, after_s: float = 1.0) -> None:
        self.clock.sleep(after_s)
        self.journal.append(event)

    def begin(self, action: str, target: str | None = None, reason: str = "") -> None:
        self.say(
            StepStarted(step=self.step, action=action, target=target, details={}, reason=reason)
        )

    def end(self, *, ok: bool = True, after_s: float = 20.0) -> None:
        self.say(StepEnded(step=self.step, ok=ok), after_s=after_s)
        self.step += 1

    def start(self, mode: str = "unattended") -> None:
        detector = DetectorInfo(
            name="camera", shape=(151, 131), kind="counting", modes=frozenset(Mode)
        )
        axis = AxisInfo(low=-30, high=30, speed_per_s=1, repeatability=0.01)
        capabilities = Capabilities(
            vendor="lodestem",
            model="fixture",
            api="none",
            adapter_version="1",
            simulated=True,
            axes=dict.fromkeys(Axis, axis),
            blank=BlankInfo(latency_s=0.001, readable=True, independent=True, kind="electrostatic"),
            current_from="gun",
            max_current_pA=300,
            detectors=(detector,),
            scan=ScanInfo(max_shape=(512, 512), min_dwell_s=1e-5),
            modes=frozenset(Mode),
        )
        plan = {
            "sample": {"material": "UiO-66"},
            "alignment": {"budget_e_per_A2": 0.5},
            "scan": {"fluence_e_per_A2": 120.0},
            "budget": {"specimen_e_per_A2": 230.0},
        }
        self.say(
            RunStarted(
                run_id="fixture-1",
                name="fixture",
                mode=mode,
                seed=1,
                plan=plan,
                plan_fingerprint="0" * 64,
                capabilities=capabilities,
                calibration=self.calibration,
                stage_limits=StageLimits(ranges={Axis.ALPHA: (-25, 25), Axis.BETA: (-15, 15)}),
                pose=pose(),
                optics=optics(Mode.IMAGE),
                blank_verified=True,
                program_version="0.1.0",
                model_hash="abc123",
                tiles=((0.0, 0.0),),
            )
        )

    def expose(self, area: str, purpose: Purpose, charged: float, state: str = "settled") -> None:
        self.exposures += 1
        name = str(UUID(int=self.exposures))
        for each in ("reserved", "opening", state):
            self.say(
                ExposureMade(
                    exposure_id=name,
                    area=area,
                    purpose=purpose,
                    detector="camera",
                    duration_s=0.5,
                    state=each,
                    charged_e_per_A2=charged,
                ),
                after_s=0.1,
            )

    def frame(
        self, data: np.ndarray, role: str, target: str | None, at: StagePose, mode: Mode
    ) -> str:
        frame = Frame(
            exposure_id=UUID(int=self.exposures),
            sequence=0,
            data=data,
            gain=1.0,
            offset=0.0,
            exposure_s=0.5,
            utc=self.clock.utc().isoformat(),
            pose=at,
            optics=optics(mode),
            charged_e_per_A2=0.03,
        )
        name, path = self.store.save_frame(frame, role=role, target=None)
        self.say(
            FrameStored(
                frame=name,
                path=path,
                role=role,
                target=target,
                pose=at,
                optics=optics(mode),
                electrons=float(data.sum()),
                charged_e_per_A2=0.03,
            )
        )
        return name

    def survey(self, places_px: list[tuple[float, float]], names: list[str]) -> None:
        self.begin("SurveyTile", reason="survey tile 1 of 1")
        rows, cols = np.indices((401, 361))
        mean = 4.0 - 1.2 * (np.hypot(rows - 200, cols - 80) < 70)
        labels = np.ones(mean.shape, np.uint8)
        for x, y in places_px:
            crystal = (np.abs(rows - y) < 14) & (np.abs(cols - x) < 19)
            mean[crystal] = 2.2
            labels[crystal] = 2
        self.expose("S00", Purpose.SURVEY, 0.0005)
        name = self.frame(
            self.rng.poisson(mean).astype(np.uint16), "survey", None, pose(), Mode.IMAGE
        )
        (self.folder / "regions").mkdir(exist_ok=True)
        with h5py.File(self.folder / "regions" / f"{name}.h5", "w") as file:
            file["labels"] = labels
        view = View((401, 361), 10.0, self.calibration, pose())
        picks = tuple(
            Pick(
                x_um=view.specimen_um(x, y)[0],
                y_um=view.specimen_um(x, y)[1],
                radius_nm=150.0,
                score=0.9 - 0.1 * index,
                diameter_nm=360.0,
                frame=name,
                x_px=x,
                y_px=y,
                reason="thin, alone",
            )
            for index, (x, y) in enumerate(places_px)
        )
        self.say(
            RegionsFound(
                tile=0,
                frame=name,
                picks=picks,
                class_fractions=LABELLED,
                labels_path=f"regions/{name}.h5",
            )
        )
        self.end()
        self.begin("ChooseTargets")
        self.say(
            TargetsChosen(
                targets=dict(zip(names, picks, strict=True)),
                rejected=(("tile 0, (3, 5)", "score 0.1 is below 0.3"),),
            )
        )
        self.end(after_s=0.1)

    def pattern(
        self,
        target: str,
        off_deg: float,
        at: StagePose,
        *,
        answered: bool = True,
        predicted: float | None = None,
    ) -> None:
        self.begin("MeasurePattern", target, "read the tilt")
        self.expose(target, Purpose.ALIGN, 0.03)
        tilt = np.deg2rad(off_deg) * 1e3 * np.array([math.cos(0.7), math.sin(0.7)])
        centre = (127.3, 130.1)
        image, spots = _pattern(self.rng, tilt, centre)
        name = self.frame(image, "pattern", target, at, Mode.DIFFRACTION)
        self.say(
            TiltFitted(
                target=target,
                frame=name,
                answered=answered,
                reason="" if answered else "too few spots",
                zone_uvw=(0, 0, 1) if answered else None,
                tilt_mrad=(float(tilt[0]), float(tilt[1])),
                sigma_mrad=0.6,
                misorientation_deg=off_deg,
                centre_px=centre,
                inv_A_per_px=INV_A_PER_PX,
                mode="structure",
                spots_px=spots if answered else (),
                predicted_deg=predicted,
                setting=GoniometerSetting(
                    alpha_deg=at.alpha_deg,
                    beta_deg=at.beta_deg or 0.0,
                    sigma_alpha_deg=0.01,
                    sigma_beta_deg=0.01,
                ),
            )
        )
        self.end()

    def tilt(self, target: str, alpha: float, beta: float) -> None:
        self.begin("Tilt", target, "the goniometer reaches it")
        self.say(
            Moved(
                target=target,
                requested=PartialPose(alpha_deg=alpha, beta_deg=beta),
                achieved=pose(alpha + 0.012, beta - 0.02),
                residual={"alpha_deg": 0.012, "beta_deg": -0.02},
            )
        )
        self.end()

    def lose(self, target: str) -> None:
        self.begin("Locate", target)
        self.expose(target, Purpose.TRACK, 0.001)
        image = self.rng.poisson(4.0, (151, 131)).astype(np.uint16)
        name = self.frame(image, "track", target, pose(), Mode.IMAGE)
        self.say(
            Located(
                target=target,
                frame=name,
                position_um=(0.1, -0.2),
                offset_um=(0.0, 0.0),
                correlation=0.11,
                found=False,
                recentred=False,
                reason="nothing like it in view",
            )
        )
        self.end(ok=False)

    def scan(self, target: str, *, positions: int | None = None) -> None:
        self.begin("AcquireScan", target, "on axis")
        self.expose(target, Purpose.DATA, 131.0)
        shape, frame = (23, 21), (32, 32)
        header = ScanHeader(
            energy_keV=300,
            convergence_semiangle_mrad=10,
            defocus_A=120,
            scan_step_A=1.05,
            detector_sampling_mrad=1.0,
            scan_shape=shape,
            frame_shape=frame,
            start_time="2026-01-01T20:00:00+00:00",
            run_uuid="fixture-1",
        )
        path = self.folder / "scans" / f"{len(list(self.folder.glob('scans/*')))}.h5"
        path.parent.mkdir(exist_ok=True)
        rows, cols = np.indices(frame)
        disc = np.hypot(rows - 16, cols - 16) < 10
        total = shape[0] * shape[1]
        count = total if positions is None else positions
        with ScanFileWriter(path, header) as writer:
            y, x = np.divmod(np.arange(count), shape[1])
            bright = 0.35 + 0.1 * np.cos(2 * np.pi * x / 7) * np.cos(2 * np.pi * y / 7)
            counts = self.rng.poisson(bright[:, None, None] * disc).astype(np.uint16)
            writer.append_dense(counts)
        self.say(
            ScanTaken(
                target=target,
                path=str(path.relative_to(self.folder)),
                frames_expected=total,
                frames_committed=count,
                complete=count == total,
                checksum_sha256=sha256_of(path),
                fluence_e_per_A2=120.0,
                charged_e_per_A2=131.0,
                pose=pose(),
                optics=optics(Mode.STEM),
            )
        )
        self.end(ok=count == total)

    def reconstruct(self, target: str, resolution_A: float) -> None:
        self.begin("Reconstruct", target)
        folder = self.folder / "reconstructions" / f"R{self.step}"
        folder.mkdir(parents=True)
        rows, cols = np.indices((61, 57)) * 0.5
        phase = np.cos(2 * np.pi * rows / 7.3) + np.cos(2 * np.pi * cols / 7.3)
        with h5py.File(folder / "reconstruction.h5", "w") as file:
            data = file.create_dataset("phase_rad", data=phase.astype(np.float32))
            data.attrs["pixel_size_A"] = 0.5
            data.attrs["scan_centre_px"] = [30.0, 28.0]
            file["resolution/frc_half_A"] = resolution_A
            q = np.linspace(0, 1, 40)
            file["curves/frc_q_inv_A"] = q
            file["curves/frc"] = np.exp(-((q * resolution_A) ** 2))
        self.say(
            Reconstructed(
                target=target,
                folder=str(folder.relative_to(self.folder)),
                resolution_A=resolution_A,
                frc_half_A=resolution_A,
                lattice_limit_A=resolution_A * 1.2,
                defocus_nm=12.3,
                thickness_nm=22.0,
                passes=8,
                stopped_because="held-out likelihood turned",
                verdict="lattice plainly visible",
                ok=True,
            )
        )
        self.end(after_s=60)

    def finish_target(
        self, target: str, status: str, reason: str, before: float = 0.31, scan: float = 0.0
    ) -> None:
        self.begin("EndTarget", target, reason)
        self.say(
            TargetEnded(
                target=target,
                status=status,
                reason=reason,
                dose_before_scan_e_per_A2=before,
                dose_scan_e_per_A2=scan,
            )
        )
        self.end(after_s=0.1)

    def fault(self, target: str | None, error: str = "NotReached", beam: str = "blanked") -> None:
        self.say(
            Fault(
                error=error,
                message="alpha settled 0.31 deg short of 12.20",
                action="Tilt",
                target=target,
                beam_state=beam,
                dose_state="none",
                handled="retry (rule NotReached, occurrence 1 of 2)",
            )
        )

    def propose(self, target: str | None, answer: str | None) -> None:
        self.say(
            Proposed(
                step=self.step,
                action="Tilt",
                target=target,
                details={"alpha_deg": 3.0},
                reason="off axis",
                cost_e_per_A2=0.0,
                state_revision=3,
            )
        )
        if answer is not None:
            self.say(
                Answered(
                    step=self.step,
                    action="Tilt",
                    target=target,
                    answer=answer,
                    by="A. Kim",
                    reason="looks right",
                ),
                after_s=40,
            )

    def finish(self, outcome: str = "goals_missed", *, blanked: bool = True) -> None:
        self.say(RunEnded(outcome=outcome, reason="the queue is empty", beam_blanked=blanked))
        self.journal.close()


def pose(alpha: float = 0.0, beta: float = 0.0) -> StagePose:
    return StagePose(x_um=0, y_um=0, z_um=0, alpha_deg=alpha, beta_deg=beta)


def optics(mode: Mode) -> OpticsState:
    return OpticsState(
        mode=mode,
        energy_keV=300,
        probe_current_pA=5,
        beam_diameter_nm=250,
        convergence_semiangle_mrad=10 if mode is Mode.STEM else 0.1,
        defocus_nm=12,
        pixel_size_nm=10.0 if mode is Mode.IMAGE else None,
        detector_sampling_mrad=None if mode is Mode.IMAGE else 0.25,
    )


def _pattern(
    rng: np.random.Generator, tilt_mrad: np.ndarray, centre: tuple[float, float]
) -> tuple[np.ndarray, tuple[tuple[float, float], ...]]:
    """A kinematical square-lattice pattern of a thin crystal, and its brightest spots."""
    mean = np.full((251, 263), 0.02)
    spots = []
    p = tilt_mrad * 1e-3
    for h, k in np.ndindex(49, 49):
        g = np.array([h - 24, k - 24]) * 0.0683
        g2 = float(g @ g)
        excitation = float(p @ g) - g2 / (2 * K_INV_A)
        x, y = centre[0] + g[0] / INV_A_PER_PX, centre[1] + g[1] / INV_A_PER_PX
        if not (4 < x < 258 and 4 < y < 246):
            continue
        direct = g2 == 0
        height = 900.0 if direct else 30.0 * np.sinc(excitation * 300.0) ** 2 * np.exp(-1.2 * g2)
        top, left = int(y) - 3, int(x) - 3
        rows, cols = np.indices((8, 8))
        spot = np.exp(-0.5 * ((cols + left - x) ** 2 + (rows + top - y) ** 2) / 1.1)
        mean[top : top + 8, left : left + 8] += height * spot
        if height > 3 and not direct:
            spots.append((round(float(x), 2), round(float(y), 2)))
    return rng.poisson(mean).astype(np.uint16), tuple(spots)


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    made = Night(tmp_path / "run")
    yield made
    made.journal.close()


def whole_night(night: Night) -> Night:
    """One of each: done, unreachable, unread, lost and never visited."""
    night.start()
    names = ["T01", "T02", "T03", "T04", "T05"]
    night.survey([(80, 90), (250, 70), (300, 200), (120, 300), (210, 330)], names)
    night.pattern("T01", 3.41, pose())
    night.tilt("T01", 2.2, -2.6)
    night.fault("T01")
    night.pattern("T01", 0.19, pose(2.21, -2.62), predicted=0.05)
    night.tilt("T01", 2.31, -2.5)
    night.pattern("T01", 0.04, pose(2.32, -2.52), predicted=0.04)
    night.scan("T01")
    night.reconstruct("T01", 1.08)
    night.finish_target("T01", "done", "1.08 A: lattice plainly visible", scan=131.0)
    night.pattern("T02", 14.2, pose())
    night.finish_target("T02", "skipped", "[0 0 1] is unreachable: beta_deg = 17 is outside")
    night.pattern("T03", 1.0, pose(), answered=False)
    night.finish_target("T03", "skipped", "no tilt could be read in 2 patterns (too few spots)")
    night.lose("T04")
    night.finish_target("T04", "failed", "lost: not found in two tracking pictures", before=0.02)
    night.finish()
    return night


@pytest.fixture(scope="session")
def _written_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_night(Night(tmp_path_factory.mktemp("night") / "run")).folder


@pytest.fixture
def a_night(_written_once: Path, tmp_path: Path) -> SimpleNamespace:
    """A copy of a whole night's run folder."""
    shutil.copytree(_written_once, tmp_path / "run")
    return SimpleNamespace(folder=tmp_path / "run")
