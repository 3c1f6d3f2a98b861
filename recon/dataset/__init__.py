"""The native scan file and the counted 4D-STEM data set it holds. Never imports PyTorch.

``ScanHeader`` says how a scan was made, ``ScanFileWriter`` writes it crash-safe while the detector
runs, ``open_scan`` returns the committed part as a sparse ``Dataset4D``, ``recover_scan`` makes
a clean file of an interrupted one.
"""

from recon.dataset.events import Counted, Dataset4D, count_electrons, events_from_dense
from recon.dataset.header import ProcessStep, ScanHeader
from recon.dataset.reader import open_scan, recover_scan, sha256_of
from recon.dataset.vacuum import VacuumProbe
from recon.dataset.writer import ScanFileWriter

__all__ = [
    "Counted",
    "Dataset4D",
    "ProcessStep",
    "ScanFileWriter",
    "ScanHeader",
    "VacuumProbe",
    "count_electrons",
    "events_from_dense",
    "open_scan",
    "recover_scan",
    "sha256_of",
]
