"""Images without iteration: centre of mass, single side band, virtual detectors; for live use.

``direct_phase(dataset, "icom")`` is the whole way from counts to a phase image in one call.
"""

from recon.direct.phase import DIRECT_ENGINES, DirectEngine, DirectImage, direct_phase

__all__ = ["DIRECT_ENGINES", "DirectEngine", "DirectImage", "direct_phase"]
