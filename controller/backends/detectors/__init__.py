"""External 4D-STEM detectors beside a column: armed, confirmed, triggered, received, checked.

A column's driver moves, deflects and blanks; the detector is another machine with a protocol of
its own.  ``contract`` says what one promises, ``dectris`` and ``merlin`` speak to two, and
``external.with_external_detector`` joins one to any adapter so that the rest sees one instrument.
"""

from controller.backends.detectors.config import (
    DectrisConfig,
    DetectorConfig,
    MerlinConfig,
    read_detector_config,
)
from controller.backends.detectors.contract import Detector4D, StreamReport
from controller.backends.detectors.external import ExternallyDetected, with_external_detector
from controller.backends.detectors.opening import open_detector

__all__ = [
    "DectrisConfig",
    "Detector4D",
    "DetectorConfig",
    "ExternallyDetected",
    "MerlinConfig",
    "StreamReport",
    "open_detector",
    "read_detector_config",
    "with_external_detector",
]
