"""How an external detector is reached and set: YAML, one file per detector.

Nothing here opens a connection; `opening.open_detector` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from controller.backends.registry import OptionValue
from controller.hardware.values import Frozen, Positive

DETECTOR_FILE = "detector_file"
"""The option of a session, server or plan that names the YAML of an external detector."""

Port = Annotated[int, Field(ge=1, le=65535)]
Pixels = Annotated[int, Field(ge=1, le=16384)]


class DetectorSettings(Frozen):
    """What every external detector needs."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")]
    """Under which exposures ask for it; must differ from the column's own detectors."""
    host: Annotated[str, Field(min_length=1, max_length=253)]
    """Address of the detector's control computer; a dedicated link, see docs/detectors.md."""
    shape: tuple[Pixels, Pixels]
    """(rows, columns) of a frame as sent; compared with what the detector says."""
    trigger: Literal["frame", "line", "software"] = "frame"
    """What the scan engine sends: a pulse per position, per line, or nothing (no synchrony)."""
    scan_with: str | None = None
    """The column's own detector in whose name its scan engine is armed; None: the first one that
    can scan."""
    counts_per_electron: Positive = 1.0
    min_exposure_s: Positive = 1e-6
    max_exposure_s: Positive = 100.0
    bad_pixels: tuple[tuple[int, int], ...] = ()
    """(row, column) of pixels that never tell the truth."""
    batch_frames: Annotated[int, Field(ge=1, le=4096)] = 4096
    """Frames that are committed together at most (and no more than about 4 MB of electrons, nor
    later than 0.1 s after the first)."""
    reply_timeout_s: Positive = 5.0
    """How long a question to the detector may take."""
    arm_timeout_s: Positive = 30.0
    """How long arming may take until the detector confirms."""

    @model_validator(mode="after")
    def _exposure_range_is_not_empty(self) -> Self:
        if not self.min_exposure_s <= self.max_exposure_s:
            raise ValueError(
                f"min_exposure_s = {self.min_exposure_s:g} is above max_exposure_s = "
                f"{self.max_exposure_s:g}; exchange them"
            )
        return self

    @model_validator(mode="after")
    def _bad_pixels_lie_on_the_detector(self) -> Self:
        for row, column in self.bad_pixels:
            if not (0 <= row < self.shape[0] and 0 <= column < self.shape[1]):
                raise ValueError(
                    f"bad pixel ({row}, {column}) lies outside {self.shape[0]} x {self.shape[1]} "
                    f"pixels; give (row, column)"
                )
        return self


class DectrisConfig(DetectorSettings):
    """An EIGER2-family detector (ARINA, QUADRO, ELA, SINGLA) behind a SIMPLON interface."""

    kind: Literal["dectris"]
    api_port: Port = 80
    api_version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")] = "1.8.0"
    stream: Literal["v1", "v2"] = "v2"
    """v2 (CBOR) since release 2022.1; v1 for older detectors."""
    stream_port: Port | None = None
    """None: 9999 for v1, 31001 for v2."""
    channel: str | None = None
    """Which threshold channel is recorded (v2); None: the first one named at the start."""
    series_from: Literal["arm-reply", "start-message"] = "arm-reply"
    """Where the number of the armed series is taken from.  The start message only for emulators
    whose reply names another one: a stale start message would then be believed."""

    @property
    def zmq_port(self) -> int:
        """Port of the stream."""
        return self.stream_port or (9999 if self.stream == "v1" else 31001)


class MerlinConfig(DetectorSettings):
    """A Quantum Detectors Merlin (Medipix3) with its TCP interface."""

    kind: Literal["merlin"]
    control_port: Port = 6341
    data_port: Port = 6342
    counter_depth: Literal[1, 6, 12, 24] = 12
    """Bits of the counters; 24 cannot be read out continuously."""
    raw: bool = False
    """Ask for the counters as the chips send them (R64): less traffic at 1 and 6 bits."""


DetectorConfig = Annotated[DectrisConfig | MerlinConfig, Field(discriminator="kind")]
_ANY: TypeAdapter[DectrisConfig | MerlinConfig] = TypeAdapter(DetectorConfig)


def read_detector_config(path: Path) -> DectrisConfig | MerlinConfig:
    """Read the YAML of one detector.

    Raises
    ------
    ValueError
        No such file, no YAML, or a key that is unknown, missing or out of range; all are named.
    """
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ValueError(
            f"{path} cannot be read ({problem.strerror}); give a detector file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise ValueError(f"{path} is no YAML: {problem}") from problem
    try:
        return _ANY.validate_python(said)
    except ValidationError as problems:
        where = "; ".join(
            f"{'.'.join(map(str, e['loc'][1:] or e['loc'])) or 'file'}: {e['msg']}"
            for e in problems.errors()
        )
        raise ValueError(f"{path}: {where}. See docs/detectors.md for the keys") from problems


def detector_of(
    options: Mapping[str, OptionValue], given: DectrisConfig | MerlinConfig | None
) -> tuple[dict[str, OptionValue], DectrisConfig | MerlinConfig | None]:
    """The options without ``detector_file``, and the detector that it names, or the `given` one.

    Raises
    ------
    ValueError
        The file cannot be read, or both are there.
    """
    rest = dict(options)
    file = rest.pop(DETECTOR_FILE, None)
    if file is None:
        return rest, given
    if given is not None or not isinstance(file, str):
        raise ValueError(
            f"{DETECTOR_FILE} = {file!r} and another detector were given; one instrument takes one "
            f"external detector, in one YAML file"
        )
    return rest, read_detector_config(Path(file))
