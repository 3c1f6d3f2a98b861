"""Hand data and results to PtyRAD and py4DSTEM, in their conventions, so that they can be checked.

Both get the counts as the reconstruction saw them: detector flips undone, square frames, zero angle
on pixel [n//2, n//2]; and the measured calibration instead of the nominal one.
"""

from recon.export.writing import FORMATS, ExportFormat, export_result

__all__ = ["FORMATS", "ExportFormat", "export_result"]
