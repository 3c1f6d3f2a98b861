"""From a configuration to a detector; what a protocol needs is imported only for that one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from controller.backends.detectors.config import DectrisConfig, MerlinConfig
from controller.backends.detectors.contract import Detector4D
from controller.backends.detectors.external import ExternallyDetected, with_external_detector
from controller.hardware.clock import Clock
from controller.hardware.contract import Adapter


def open_detector(
    config: DectrisConfig | MerlinConfig, *, clock: Clock | None = None
) -> Detector4D:
    """Connect to a detector; it is not armed when this returns.

    Parameters
    ----------
    clock
        For deadlines; default the wall clock, since the network knows no other time.

    Raises
    ------
    LinkError
        It cannot be reached.
    ModeError
        It has another shape than the configuration says.
    ValueError
        The packages of the extra ``detectors`` are missing.
    """
    try:
        if isinstance(config, MerlinConfig):
            from controller.backends.detectors.merlin.detector import MerlinDetector

            return MerlinDetector(config, clock=clock)
        from controller.backends.detectors.dectris.detector import DectrisDetector

        return DectrisDetector(config, clock=clock)
    except ImportError as problem:
        raise ValueError(
            f"{config.name}: the package {problem.name} is missing; "
            f"pip install 'lodestem[detectors]'"
        ) from problem


@contextmanager
def attached_detector(
    column: Adapter, config: DectrisConfig | MerlinConfig
) -> Iterator[ExternallyDetected]:
    """`column` with the detector of `config`; at the end the detector is let go, not the column.

    Raises
    ------
    LinkError, ModeError, ValueError
        As `open_detector` and `with_external_detector` do; no connection is left open.
    """
    detector = open_detector(config)
    try:
        yield with_external_detector(column, detector, scan_with=config.scan_with)
    finally:
        detector.close()
