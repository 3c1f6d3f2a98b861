"""What people ask of the queue while a run is under way, carried out between two steps."""

from __future__ import annotations

from controller.decision.belief import Belief, Target
from controller.decision.rig import Rig
from controller.record.events import Pick, QueueChanged, TargetEnded
from controller.record.inbox import Inbox, QueueRequest

ADDED_RADIUS_NM = 150.0
"""Of a place that a person points at: what is looked for around it."""


def attend(inbox: Inbox, belief: Belief, rig: Rig) -> bool:
    """Deal with the oldest request, if there is one; journals what was done or why not."""
    waiting = inbox.waiting()
    if not waiting:
        return False
    path, request = waiting[0]
    if isinstance(request, str):
        rig.emit(QueueChanged(what="refused", by="?", reason=request[:300]))
    else:
        _carry_out(request, belief, rig)
    inbox.put_away(path)
    return True


def _carry_out(request: QueueRequest, belief: Belief, rig: Rig) -> None:
    refusal = _refusal(request, belief)
    if refusal:
        rig.emit(QueueChanged(what="refused", by=request.by, target=request.target, reason=refusal))
        return
    changed = QueueChanged(
        what=request.what, by=request.by, target=request.target, reason=request.reason
    )
    if request.what == "add":
        changed = _added(request, changed, belief, rig)
    rig.emit(changed)
    target = belief.find(request.target)
    if request.what == "skip" and target is not None and target.status == "queued":
        rig.emit(_ended(target, request, rig))


def _refusal(request: QueueRequest, belief: Belief) -> str:
    """Why it cannot be done, or empty."""
    if request.target is None:
        if request.what == "add" and not belief.chosen:
            return "the survey is not over: add crystals once the queue is there"
        return ""
    target = belief.find(request.target)
    if target is None:
        known = ", ".join(belief.targets) or "none yet"
        return f"there is no crystal {request.target}; there are {known}"
    if target.status not in ("queued", "active"):
        return f"{target.name} is {target.status} already"
    if target.status == "active" and request.what in ("first", "last"):
        return f"{target.name} is being worked on"
    return ""


def _added(request: QueueRequest, changed: QueueChanged, belief: Belief, rig: Rig) -> QueueChanged:
    """A crystal at a place that a person points at, in the tile that shows it."""
    dx_um, dy_um = belief.map_shift_um
    x_um, y_um = (request.x_um or 0.0) - dx_um, (request.y_um or 0.0) - dy_um
    for frame in belief.tile_frames.values():
        picture, view = rig.stored_frame(frame)
        rows, cols = picture.electrons.shape
        x_px, y_px = view.pixel(x_um, y_um)
        if 0 <= x_px < cols and 0 <= y_px < rows:
            number = 1 + sum(name.startswith("P") for name in belief.targets)
            pick = Pick(
                x_um=x_um,
                y_um=y_um,
                radius_nm=ADDED_RADIUS_NM,
                score=1.0,
                diameter_nm=2 * ADDED_RADIUS_NM,
                frame=frame,
                x_px=x_px,
                y_px=y_px,
                reason=f"pointed at by {request.by}",
            )
            return changed.replace(target=f"P{number:02d}", pick=pick)
    return changed.replace(
        what="refused", reason=f"({x_um:.2f}, {y_um:.2f}) um lies in no tile of the survey"
    )


def _ended(target: Target, request: QueueRequest, rig: Rig) -> TargetEnded:
    dose = rig.microscope.dose(target.x_um, target.y_um)
    why = f": {request.reason}" if request.reason else ""
    return TargetEnded(
        target=target.name,
        status="skipped",
        reason=f"{request.by} took it off the queue{why}",
        dose_before_scan_e_per_A2=dose.before_scan_e_per_A2,
        dose_scan_e_per_A2=dose.total_e_per_A2 - dose.before_scan_e_per_A2,
    )
