"""What was done by hand, as the Python that would do it.  Pure."""

from __future__ import annotations

from typing import Any


def as_python(action: str, details: dict[str, Any], url: str | None) -> str:
    """The call behind a proposed step; empty for steps that are more than one call."""
    where = f'connect("{url}", name="notebook")' if url else 'connect("tcp://HOST:7464")'
    if action in ("Tilt", "UndoTilt"):
        pose = (
            f"x_um={details['x_um']:.4f}, y_um={details['y_um']:.4f}, "
            f"alpha_deg={details['alpha_deg']:.4f}, beta_deg={details['beta_deg']:.4f}"
        )
        names, call = (
            "Approach, PartialPose",
            (f"microscope.stage.move(PartialPose({pose}), approach=Approach.FROM_BELOW)"),
        )
    elif action == "SurveyTile":
        pose = f"x_um={details['x_um']:.4f}, y_um={details['y_um']:.4f}"
        names, call = "PartialPose", f"microscope.stage.move(PartialPose({pose}))"
    elif action == "MeasurePattern":
        names, call = (
            "Mode, OpticsChange",
            (
                "microscope.optics.apply(\n        OpticsChange(mode=Mode.DIFFRACTION, "
                f"beam_diameter_nm={details['beam_diameter_nm']:.1f})\n    )"
            ),
        )
    else:
        return ""
    return (
        f"from controller.hardware.values import {names}\n"
        "from controller.server.client import connect\n\n"
        f"with {where} as microscope, microscope.drive():\n    {call}\n"
    )
