"""The Align screen: the pattern with its circle, the proposed move with its cost.  Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from controller.console.night import Night, last
from controller.console.views.python import as_python
from controller.console.views.shell import doing
from controller.decision.actions import EDITABLE
from controller.decision.belief import Target
from controller.decision.forecast import BOUND_OVER_PLANNED
from controller.decision.knowledge import holder_frame
from controller.hardware.values import Axis, PartialPose
from controller.perception.alignment.geometry import (
    goniometer_for_zone,
    predicted_tilt,
    zone_in_holder,
)
from controller.record.events import (
    Answered,
    FrameStored,
    Moved,
    Proposed,
    StepStarted,
    TiltFitted,
)
from controller.record.journal import Entry
from controller.record.report.patterns import laue_ellipse, wavenumber_inv_A

LEAST_CONFIDENCE = 0.6
"""Below this two fits disagree: both are drawn, and nothing is approved by one click."""
REASONS = ("wrong circle", "wrong spots", "too much dose", "bad region", "other")


@dataclass(frozen=True)
class Field:
    """A number of the proposal that may be edited."""

    name: str
    label: str
    value: float
    unit: str


@dataclass(frozen=True)
class Card:
    """The proposal in the operator's words."""

    id: str
    revision: int
    title: str
    action: str
    target: str
    rows: tuple[tuple[str, str], ...]
    fields: tuple[Field, ...]
    cost_e_per_A2: float
    used_e_per_A2: float
    limit_e_per_A2: float
    limits: str
    returned: str
    doubtful: str
    """Why nothing can be approved by one click; empty: it can."""
    short: str
    twin: str
    """The picture in words, for those who do not see it."""
    until_utc: str
    may_delegate: bool
    python: str
    """The same by a script; empty where that is more than a call."""

    @property
    def used_share(self) -> float:
        """Of the budget, 0 to 1."""
        return min(1.0, self.used_e_per_A2 / self.limit_e_per_A2)

    @property
    def next_share(self) -> float:
        """What this step adds, as far as there is room."""
        return min(1.0 - self.used_share, self.cost_e_per_A2 / self.limit_e_per_A2)


@dataclass(frozen=True)
class PastMove:
    """A move that was proposed: what was said, predicted and reached."""

    n: int
    what: str
    answer: str
    by: str
    predicted: str
    reached: str


@dataclass(frozen=True)
class AlignView:
    """The screen."""

    card: Card | None
    target: str
    moves: tuple[PastMove, ...]
    errors: tuple[tuple[int, float, float], ...]
    """(pattern, mrad off, sigma)."""
    alternatives: tuple[str, ...]
    delegation: dict[str, Any] | None
    delegation_ended: str
    trouble: tuple[str, tuple[str, ...]] | None
    """A pattern without an answer, and its likely causes."""
    reasons: tuple[str, ...] = REASONS


def align_view(night: Night) -> AlignView:
    """What the Align screen shows of a run."""
    target = _target(night)
    fits = () if target is None else target.fits
    desk = night.desk or {}
    return AlignView(
        card=card_of(night),
        target="" if target is None else target.name,
        moves=_moves(night, "" if target is None else target.name),
        errors=tuple(
            (n, round(math.hypot(*fit.tilt_mrad), 3), round(fit.sigma_mrad, 3))
            for n, fit in enumerate(fits, start=1)
            if fit.answered
        ),
        alternatives=() if not fits else _alternatives(fits[-1]),
        delegation=desk.get("delegation"),
        delegation_ended=str(desk.get("delegation_ended") or ""),
        trouble=_trouble(fits),
    )


def card_of(night: Night) -> Card | None:
    """The open proposal, or None."""
    proposal, plan = night.proposal, night.plan
    if proposal is None or plan is None:
        return None
    belief, details = night.belief, proposal["details"]
    target = belief.find(proposal["target"])
    is_scan = proposal["action"] == "AcquireScan"
    limit = (plan.budget.specimen_e_per_A2 or 1.0) if is_scan else plan.alignment.budget_e_per_A2
    spent = belief.spent_e_per_A2.get(proposal["target"] or "", 0.0)
    fit = None if target is None else target.last_answered
    doubtful = ""
    confidence = proposal["confidence"]
    if confidence is not None and confidence < LEAST_CONFIDENCE and proposal["action"] == "Tilt":
        doubtful = f"two fits disagree (confidence {confidence:.2f}): edit it, or reject it"
    return Card(
        id=proposal["id"],
        revision=proposal["state_revision"],
        title=doing(proposal["action"]),
        action=proposal["action"],
        target=proposal["target"] or "",
        rows=_rows(proposal, target, fit),
        fields=_fields(proposal["action"], details),
        cost_e_per_A2=proposal["cost_e_per_A2"],
        used_e_per_A2=spent,
        limit_e_per_A2=limit,
        limits=_limits(night),
        returned=proposal["returned"],
        doubtful=doubtful,
        short=proposal["id"][:7],
        twin=twin(fit),
        until_utc=proposal["until_utc"],
        may_delegate=not is_scan,
        python=as_python(proposal["action"], details, _url(night)),
    )


def twin(fit: TiltFitted | None) -> str:
    """A pattern in words."""
    if fit is None:
        return "no pattern was read yet"
    off = math.hypot(*fit.tilt_mrad)
    azimuth = math.degrees(math.atan2(fit.tilt_mrad[1], fit.tilt_mrad[0]))
    return (
        f"{len(fit.spots_px)} spots, circle centre {off:.2f} mrad off towards {azimuth:.0f}°, "
        f"± {fit.sigma_mrad:.2f} mrad"
    )


def overlay_of(night: Night, frame: str) -> dict[str, Any]:
    """What is drawn over a pattern, in its pixels; empty where nothing was read in it."""
    fitted = last(night.entries, TiltFitted, frame=frame)
    stored = last(night.entries, FrameStored, frame=frame)
    if fitted is None or stored is None:
        return {}
    fit, optics = fitted.event, stored.event.optics  # type: ignore[union-attr]
    if not isinstance(fit, TiltFitted):
        return {}
    spots = [[round(x, 1), round(y, 1)] for x, y in fit.spots_px]
    if not fit.answered:
        return {"spots": spots, "reason": fit.reason, "words": f"no answer: {fit.reason}"}
    K = wavenumber_inv_A(optics.energy_keV)
    drawn: dict[str, Any] = {
        "centre": list(fit.centre_px),
        "spots": spots,
        "circle": _ellipse(fit.tilt_mrad, fit, K),
        "sigma_px": 1e-3 * fit.sigma_mrad * K / fit.inv_A_per_px,
        "px_per_mrad": 1e-3 * K / fit.inv_A_per_px,
        "inv_A_per_px": fit.inv_A_per_px,
        "others": [
            _ellipse((a["tilt_x_mrad"], a["tilt_y_mrad"]), fit, K)
            for a in fit.alternatives[:2]
            if a.get("log_likelihood_gap", 0.0) < 3.0
        ],
        "words": twin(fit),
    }
    ghost = _ghost(night, fit)
    if ghost is not None:
        drawn["ghost"] = _ellipse(ghost, fit, K)
    return drawn


def tilt_of_drag(night: Night, x_px: float, y_px: float) -> tuple[float, float] | None:
    """The goniometer that a circle whose centre was dragged to (x, y) asks for, (alpha, beta)."""
    proposal = night.proposal
    target = night.belief.find(None if proposal is None else proposal["target"])
    fit = None if target is None else target.last_answered
    if target is None or fit is None or fit.setting is None:
        return None
    stored = last(night.entries, FrameStored, frame=fit.frame)
    if stored is None or not isinstance(stored.event, FrameStored):
        return None
    K = wavenumber_inv_A(stored.event.optics.energy_keV)
    dx, dy = (x_px - fit.centre_px[0], y_px - fit.centre_px[1])
    length = math.hypot(dx, dy) * fit.inv_A_per_px / K
    # the centre lies at K sin t cos t from the beam
    angle = 0.5 * math.asin(min(1.0, 2.0 * length))
    scale = 1e3 * angle / max(math.hypot(dx, dy), 1e-9)
    tilt = (dx * scale, dy * scale)
    frame = holder_frame(night.belief, target)
    zone = zone_in_holder(tilt, fit.setting.alpha_deg, fit.setting.beta_deg, frame)
    return goniometer_for_zone(zone)


@dataclass(frozen=True)
class Quote:
    """What an edited move would cost, and whether it may be carried out."""

    changes: dict[str, float]
    cost_e_per_A2: float
    refusal: str
    rows: tuple[tuple[str, str], ...]


def quote(night: Night, changes: dict[str, float]) -> Quote:
    """Recompute cost and limits of the open proposal with a person's changes."""
    proposal = night.proposal
    if proposal is None:
        return Quote(changes, 0.0, "nothing waits for an answer any more", ())
    details = {**proposal["details"], **changes}
    refusal = _edit_refusal(night, proposal["action"], changes, details)
    cost = float(proposal["cost_e_per_A2"])
    if "fluence_e_per_A2" in changes:
        cost = BOUND_OVER_PLANNED * changes["fluence_e_per_A2"]
    rows = _tilt_rows(details) if proposal["action"] == "Tilt" else ()
    return Quote(changes, cost, refusal, rows)


def _edit_refusal(
    night: Night, action: str, changes: dict[str, float], details: dict[str, Any]
) -> str:
    allowed = next((v for k, v in EDITABLE.items() if k.__name__ == action), frozenset())
    wrong = [name for name in changes if name not in allowed]
    if wrong:
        return f"{', '.join(wrong)} cannot be edited"
    if any(not math.isfinite(value) for value in changes.values()):
        return "not a finite number"
    if "fluence_e_per_A2" in changes and not changes["fluence_e_per_A2"] > 0:
        return "a fluence is a positive number"
    run = night.started
    if action != "Tilt" or run is None:
        return ""
    found = run.stage_limits.violation(
        PartialPose(alpha_deg=details["alpha_deg"], beta_deg=details["beta_deg"])
    )
    return found or ""


def _url(night: Night) -> str | None:
    plan = night.plan
    url = None if plan is None else plan.instrument.options.get("url")
    return None if url is None else str(url)


def _target(night: Night) -> Target | None:
    proposal = night.proposal
    name = (proposal or {}).get("target") or night.belief.active
    if name is None:
        for entry in reversed(night.entries):
            if isinstance(entry.event, TiltFitted):
                name = entry.event.target
                break
    return night.belief.find(name)


def _rows(
    proposal: dict[str, Any], target: Target | None, fit: TiltFitted | None
) -> tuple[tuple[str, str], ...]:
    details = proposal["details"]
    rows: list[tuple[str, str]] = []
    if proposal["action"] in ("Tilt", "UndoTilt"):
        rows += _tilt_rows(details)
    if proposal["action"] == "FindHeight":
        rows.append(
            ("α", f"{details['low_alpha_deg']:+.1f}° and {details['high_alpha_deg']:+.1f}°")
        )
    if proposal["action"] == "SurveyTile":
        rows.append(("to", f"x {details['x_um']:.2f}, y {details['y_um']:.2f} µm"))
    if "beam_diameter_nm" in details:
        rows.append(("beam", f"{details['beam_diameter_nm']:.0f} nm parallel"))
    rows.append(("why", proposal["reason"]))
    if fit is not None:
        confidence = proposal["confidence"]
        sure = "" if confidence is None else f", confidence {confidence:.2f}"
        rows.append(("fit", f"{len(fit.spots_px)} spots, ± {fit.sigma_mrad:.2f} mrad{sure}"))
        rows.append(("error", f"{math.hypot(*fit.tilt_mrad):.2f} mrad now"))
    if "predicted_deg" in details:
        after = math.radians(details["predicted_deg"]) * 1e3
        rows.append(("after", f"within {after:.2f} mrad expected (68 %)"))
    return tuple(rows)


def _tilt_rows(details: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            letter,
            f"{details[f'from_{axis}_deg']:+.2f}° → {details[f'{axis}_deg']:+.2f}°   "
            f"({details[f'{axis}_deg'] - details[f'from_{axis}_deg']:+.2f}°)",
        )
        for letter, axis in (("α", "alpha"), ("β", "beta"))
    )


_LABELS = {
    "alpha_deg": ("α", "°"),
    "beta_deg": ("β", "°"),
    "fluence_e_per_A2": ("fluence", "e/Å²"),
    "beam_diameter_nm": ("beam diameter", "nm"),
    "defocus_nm": ("defocus", "nm"),
}


def _fields(action: str, details: dict[str, Any]) -> tuple[Field, ...]:
    allowed = next((v for k, v in EDITABLE.items() if k.__name__ == action), frozenset())
    return tuple(
        Field(name, label, round(float(details[name]), 5), unit)
        for name, (label, unit) in _LABELS.items()
        if name in allowed
    )


def _limits(night: Night) -> str:
    run = night.started
    if run is None:
        return ""
    words = []
    for axis, letter in ((Axis.ALPHA, "α"), (Axis.BETA, "β")):
        if axis in run.stage_limits.ranges:
            low, high = run.stage_limits.ranges[axis]
            words.append(f"{letter} {low:+.0f}…{high:+.0f}°")
    return ", ".join(words)


def _moves(night: Night, target: str) -> tuple[PastMove, ...]:
    rows: list[PastMove] = []
    entries = night.entries
    for at, entry in enumerate(entries):
        event = entry.event
        if not isinstance(event, Proposed) or event.target != target:
            continue
        said = next(
            (
                e.event
                for e in entries[at:]
                if isinstance(e.event, Answered) and e.event.step == event.step
            ),
            None,
        )
        if not isinstance(said, Answered):
            continue
        rows.append(
            PastMove(
                n=len(rows) + 1,
                what=doing(event.action),
                answer=said.answer,
                by=said.by,
                predicted=_predicted(event),
                reached=_reached(entries[at:], event),
            )
        )
    return tuple(reversed(rows))


def _predicted(event: Proposed) -> str:
    if event.action != "Tilt":
        return ""
    d = event.details
    return f"α {d['alpha_deg']:+.2f}°, β {d['beta_deg']:+.2f}°"


def _reached(entries: Sequence[Entry], event: Proposed) -> str:
    began = False
    for entry in entries:
        found = entry.event
        if isinstance(found, StepStarted) and found.step > event.step:
            return ""
        began = began or (isinstance(found, StepStarted) and found.step == event.step)
        if not began:
            continue
        if event.action == "Tilt" and isinstance(found, Moved):
            pose = found.achieved
            return f"α {pose.alpha_deg:+.2f}°, β {pose.beta_deg or 0.0:+.2f}°"
        if event.action == "MeasurePattern" and isinstance(found, TiltFitted):
            if not found.answered:
                return "no answer"
            return f"{math.hypot(*found.tilt_mrad):.2f} ± {found.sigma_mrad:.2f} mrad"
    return ""


def _alternatives(fit: TiltFitted) -> tuple[str, ...]:
    return tuple(
        f"[{' '.join(map(str, a['zone_uvw']))}] "
        f"{math.hypot(a['tilt_x_mrad'], a['tilt_y_mrad']):.2f} mrad"
        + (
            f", {a['log_likelihood_gap']:.1f} less likely (log)"
            if "log_likelihood_gap" in a
            else ""
        )
        for a in fit.alternatives[:3]
    )


def _trouble(fits: Sequence[TiltFitted]) -> tuple[str, tuple[str, ...]] | None:
    if not fits or fits[-1].answered:
        return None
    fit = fits[-1]
    return (
        f"No tilt could be read: {fit.reason} ({fit.electrons:.0f} electrons counted)",
        (
            "the crystal has drifted out of the beam",
            "too few electrons: read again with more, what was counted is added",
            "a thick or bent place, or no crystal at all",
        ),
    )


def _ellipse(tilt_mrad: tuple[float, float], fit: TiltFitted, K: float) -> dict[str, float]:
    x, y, along, across, azimuth = laue_ellipse(tilt_mrad, fit.centre_px, K, fit.inv_A_per_px)
    return {"x": x, "y": y, "rx": along, "ry": across, "turn_deg": azimuth}


def _ghost(night: Night, fit: TiltFitted) -> tuple[float, float] | None:
    """Where the zone axis would lie after the proposed move, mrad."""
    proposal = night.proposal
    target = night.belief.find(fit.target)
    if proposal is None or target is None or proposal["action"] != "Tilt":
        return None
    if proposal["target"] != fit.target or fit.holder_zone is None:
        return None
    frame = holder_frame(night.belief, target)
    details = proposal["details"]
    return predicted_tilt(
        np.asarray(fit.holder_zone), details["alpha_deg"], details["beta_deg"], frame
    )
