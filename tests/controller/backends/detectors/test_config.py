"""A detector's file refuses nonsense and names the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from controller.backends.detectors.config import (
    DectrisConfig,
    MerlinConfig,
    detector_of,
    read_detector_config,
)

MERLIN = """\
kind: merlin
name: merlin
host: 192.168.1.4
shape: [256, 256]
counter_depth: 6
trigger: line
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "merlin.yaml"
    path.write_text(MERLIN)
    return path


def test_a_file_is_read(file: Path) -> None:
    config = read_detector_config(file)
    assert isinstance(config, MerlinConfig)
    assert (config.shape, config.counter_depth, config.control_port) == ((256, 256), 6, 6341)


def test_streams_have_their_own_ports() -> None:
    said = {"kind": "dectris", "name": "arina", "host": "h", "shape": (192, 192)}
    assert DectrisConfig.model_validate(said).zmq_port == 31001
    assert DectrisConfig.model_validate(said | {"stream": "v1"}).zmq_port == 9999
    assert DectrisConfig.model_validate(said | {"stream_port": 5}).zmq_port == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("trigger: line", "triger: line"), "triger: Extra inputs"),
        (("counter_depth: 6", "counter_depth: 8"), "counter_depth: Input should be 1, 6, 12 or 24"),
        (("[256, 256]", "[256]"), r"shape\.1: Field required"),
        (("kind: merlin", "kind: medipix"), "'medipix' found using 'kind' does not match"),
        (("name: merlin", "name: my detector"), "name: String should match pattern"),
        (("trigger: line", "bad_pixels: [[256, 0]]"), r"bad pixel \(256, 0\) lies outside"),
        (("trigger: line", "min_exposure_s: 200"), "min_exposure_s = 200 is above"),
        (("kind: merlin", "- kind"), "is no YAML"),
    ],
)
def test_a_mistake_is_named(file: Path, change: tuple[str, str], said: str) -> None:
    file.write_text(MERLIN.replace(*change))
    with pytest.raises(ValueError, match=said):
        read_detector_config(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent.yaml cannot be read \(No such file"):
        read_detector_config(tmp_path / "absent.yaml")


def test_a_session_finds_the_file_among_its_options(file: Path) -> None:
    rest, config = detector_of({"seed": 3, "detector_file": str(file)}, None)
    assert rest == {"seed": 3}
    assert isinstance(config, MerlinConfig)
    assert detector_of({"seed": 3}, config) == ({"seed": 3}, config)
    with pytest.raises(ValueError, match="takes one external detector"):
        detector_of({"detector_file": str(file)}, config)


def test_settings_do_not_change() -> None:
    config = MerlinConfig(kind="merlin", name="m", host="h", shape=(4, 4))
    with pytest.raises(ValidationError):
        config.host = "other"  # type: ignore[misc]
