"""The Settings screen: what the run lives by, with value, unit, age and who said so.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from controller.console.night import Night
from controller.hardware.values import Axis


@dataclass(frozen=True)
class Value:
    """One line."""

    name: str
    value: str
    sigma: str = ""
    source: str = ""


@dataclass(frozen=True)
class SettingsView:
    """The screen."""

    calibration: tuple[Value, ...]
    limits: tuple[Value, ...]
    budgets: tuple[Value, ...]
    detectors: tuple[Value, ...]
    models: tuple[Value, ...]


def settings_view(night: Night) -> SettingsView | None:
    """What the run was started with; None before that."""
    run, plan = night.started, night.plan
    if run is None or plan is None:
        return None
    cal = run.calibration
    by = f"{cal.method or 'the instrument'}, {cal.date or 'no date'}"
    return SettingsView(
        calibration=(
            Value(
                "tilt axis azimuth",
                f"{cal.tilt_axis_azimuth_deg:.2f}°",
                f"± {cal.azimuth_sigma_deg:.2f}°",
                by,
            ),
            Value("image rotation", f"{cal.image_rotation_deg:.2f}°", "", by),
            Value("diffraction mirrored", "yes" if cal.diffraction_mirrored else "no", "", by),
            Value(
                "camera constant factor",
                f"{cal.camera_constant_factor:.4f}",
                f"± {100 * cal.camera_constant_relative_sigma:.1f} %",
                by,
            ),
            Value(
                "gain of α, β",
                f"{cal.alpha_gain:.4f}, {cal.beta_gain:.4f}",
                f"± {cal.gain_sigma:.4f}",
                by,
            ),
            Value("beam tilt", "matrix of 4", f"± {100 * cal.beam_tilt_sigma:.1f} %", by),
        ),
        limits=tuple(
            Value(
                axis.value,
                f"{low:g} … {high:g} {'°' if axis in (Axis.ALPHA, Axis.BETA) else 'µm'}",
                "",
                "vendor, holder, site and plan",
            )
            for axis, (low, high) in run.stage_limits.ranges.items()
        ),
        budgets=(
            Value("specimen", f"{plan.budget.specimen_e_per_A2 or 0:g} e/Å²", "", "plan"),
            Value("before the scan", f"{plan.alignment.budget_e_per_A2:g} e/Å²", "", "plan"),
            Value("scan", f"{plan.scan.fluence_e_per_A2:g} e/Å²", "", "plan"),
            Value("time", f"{plan.budget.time_h:g} h", "", "plan"),
            Value(
                "an approval waits",
                f"{plan.approval.wait_s / 60:g} min, then {plan.approval.on_silence}",
                "",
                "plan",
            ),
        ),
        detectors=tuple(
            Value(d.name, f"{d.shape[0]} × {d.shape[1]}", d.kind, run.capabilities.model)
            for d in run.capabilities.detectors
        ),
        models=(
            Value("region picker", run.model_hash[:16], "", f"lodestem {run.program_version}"),
            Value("plan", run.plan_fingerprint[:16], "", run.name),
        ),
    )
