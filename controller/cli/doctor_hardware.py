"""``lodestem doctor --hardware``: whether the instrument behind a server is fit for a night.

Reads, compares and, if asked, takes one dark frame; moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from controller.cli.doctor import Finding
from controller.hardware.errors import MicroscopeError
from controller.hardware.values import Calibration, Capabilities, Condition, StagePose
from controller.server.client import RemoteMicroscope

FRESH_S = 10.0
"""A health reading that is older is not trusted, as in `safety.interlocks`."""
OLD_CALIBRATION = "measure it with `lodestem calibrate` on a standard before the first night"


def hardware_checks(microscope: RemoteMicroscope, *, dark_frame: bool) -> Iterator[Finding]:
    """One finding each; what an operator has to do before the first night is its remedy."""
    made = microscope.capabilities
    yield Finding(
        "instrument",
        True,
        f"{made.vendor} {made.model} through {made.api}, driver {made.adapter_version}"
        f"{' (SIMULATOR)' if made.simulated else ''}; you are {microscope.name}, {microscope.role}",
    )
    yield from _axes(made, microscope)
    yield from _detectors(made)
    yield from _guards(made)
    yield _calibration(microscope.calibration)
    yield from _health(microscope)
    yield _budgets(microscope)
    for quirk in sorted(made.quirks):
        yield Finding("quirk", True, quirk)
    if dark_frame:
        yield _dark_frame(made, microscope)


def _axes(made: Capabilities, microscope: RemoteMicroscope) -> Iterator[Finding]:
    pose = microscope.stage.pose()
    for axis, (low, high) in microscope.stage.limits().ranges.items():
        info = made.axes[axis]
        here = pose.get(axis)
        inside = low <= here <= high
        yield Finding(
            f"axis {axis.value}",
            inside,
            f"{low:g} .. {high:g}, now {here:.3g}; repeatability {info.repeatability:g}, "
            f"backlash {info.backlash:g}{'' if info.reads_back else ', NO READ-BACK'}"
            f"{'' if info.can_stop else ', CANNOT BE STOPPED'}",
            "the stage is outside its limits: bring it back by hand, or correct the site's limits",
        )
    yield _second_look(pose, microscope)


def _second_look(pose: StagePose, microscope: RemoteMicroscope) -> Finding:
    again = microscope.stage.pose()
    away = max(abs(again.x_um - pose.x_um), abs(again.y_um - pose.y_um))
    return Finding(
        "stage at rest",
        away < 0.5,
        f"x and y differ by {away:.3g} um between two readings",
        "somebody moves the stage by hand, or it drifts: wait, or take the panel out of use",
    )


def _detectors(made: Capabilities) -> Iterator[Finding]:
    for info in made.detectors:
        use = "scans" if info.can_scan else "frames"
        yield Finding(
            f"detector {info.name}",
            True,
            f"{info.shape[0]} x {info.shape[1]}, {info.kind}, {use}, "
            f"{info.min_exposure_s:g} .. {info.max_exposure_s:g} s, gain {info.gain:g}, "
            f"offset {info.offset:g}, {len(info.bad_pixels)} bad pixels",
        )
    can = any(info.can_scan for info in made.detectors) and made.scan is not None
    yield Finding(
        "4D-STEM",
        can,
        "a detector follows the scan" if can else "no detector follows a scan",
        "alignment and survey work; for scans add an external detector (docs/detectors.md)",
    )


def _guards(made: Capabilities) -> Iterator[Finding]:
    blank = made.blank
    yield Finding(
        "blanker",
        blank.kind != "none" and blank.readable,
        f"{blank.kind}, {1e3 * blank.latency_s:g} ms, "
        f"{'read back' if blank.readable else 'NOT READ BACK'}, "
        f"{'independent of moves' if blank.independent else 'QUEUES BEHIND MOVES'}",
        "have the service engineer give access to an electrostatic blanker that can be read",
    )
    yield Finding(
        "dead man",
        made.simulated or made.dead_man == "independent",
        {
            "independent": "the server blanks when its client is silent, the watchdog when it dies",
            "server": "the server blanks when its client is silent; NOBODY when the server dies",
            "none": "nobody blanks when this program dies",
        }[made.dead_man],
        "set up the watchdog in the configuration of the server; unattended runs need it",
    )


def _calibration(calibration: Calibration) -> Finding:
    made = bool(calibration.date)
    detail = f"of {calibration.date}, {calibration.method}" if made else "never made"
    return Finding("calibration", made, detail, OLD_CALIBRATION)


def _health(microscope: RemoteMicroscope) -> Iterator[Finding]:
    health = microscope.column.health()
    for name, reading in health.readings().items():
        good = reading.condition is Condition.GOOD and reading.age_s <= FRESH_S
        yield Finding(
            name.replace("_", " "),
            good,
            f"{reading.condition.value}, {reading.age_s:.1f} s old {reading.detail}".rstrip(),
            "see to it at the column; every exposure is refused until it is good and fresh",
        )
    if health.dewar_remaining_s is not None:
        hours = health.dewar_remaining_s / 3600
        yield Finding(
            "dewar", hours > 1, f"{hours:.1f} h left", "refill before the night, then let it settle"
        )


def _budgets(microscope: RemoteMicroscope) -> Finding:
    limits = {k: v for k, v in microscope.budgets().items() if isinstance(v, float)}
    text = ", ".join(f"{name.removesuffix('_e_per_A2')} {v:g} e/Å²" for name, v in limits.items())
    return Finding("dose budgets", True, text)


def _dark_frame(made: Capabilities, microscope: RemoteMicroscope) -> Finding:
    mode = microscope.optics.state().mode
    name = next((d.name for d in made.detectors if mode in d.modes), None)
    if name is None:
        return Finding("dark frame", False, f"no detector in mode {mode.value}", "change the mode")
    try:
        with microscope.drive():
            check = microscope.verify_blanker(name)
    except MicroscopeError as problem:
        return Finding("dark frame", False, str(problem), "see to it before anything is exposed")
    return Finding(
        "dark frame",
        check.verified,
        f"{check.electrons_per_pixel:.3g} electrons per pixel with the beam blanked, an open one "
        f"would give {check.open_electrons_per_pixel:.3g}",
        "the frame proves nothing: raise the current or the time, or check the blanker by hand",
    )
