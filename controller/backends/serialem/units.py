"""Units and signs of SerialEM: um, degrees, and defocus in um that is *negative* for underfocus."""

from __future__ import annotations

NM_PER_UM = 1000.0


def defocus_nm(reported_um: float, scale: float) -> float:
    """Our defocus; `scale` is true over reported."""
    return -reported_um * NM_PER_UM * scale + 0.0


def defocus_um(defocus_nm: float, scale: float) -> float:
    """SerialEM's value for our defocus."""
    return -defocus_nm / (NM_PER_UM * scale) + 0.0
