"""Stream V1: what a detector sends is understood, and nothing that is no message gets through."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.backends.detectors.dectris.messages import (
    DetectorSettingsSaid,
    SeriesEnd,
    SeriesImage,
    SeriesStart,
)
from controller.backends.detectors.dectris.stream_v1 import parse_v1
from controller.hardware.errors import ProtocolError
from tests.controller.backends.detectors.v1_messages import end, image, start


@pytest.mark.parametrize("packing", ["none", "lz4", "bslz4"])
@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
def test_images_come_back_rows_first(packing: str, dtype: str, rng: np.random.Generator) -> None:
    """V1 gives shapes as [columns, rows]."""
    data = rng.poisson(0.4, (33, 50)).astype(dtype)
    got = parse_v1(image(7, 3, data, packing))
    assert isinstance(got, SeriesImage)
    assert (got.series, got.number) == (7, 3)
    np.testing.assert_array_equal(got.decode(), data)


def test_settings_come_with_the_start_or_after_it() -> None:
    said = {"x_pixels_in_detector": 50, "y_pixels_in_detector": 33, "nimages": 2, "ntrigger": 6}
    together = parse_v1(start(7, **said))
    assert isinstance(together, SeriesStart)
    assert (together.frame_shape, together.n_images) == ((33, 50), 12)
    assert together.said["ntrigger"] == "6"
    alone = parse_v1(start(7))
    assert alone == SeriesStart(7, said=dict(alone.said))  # type: ignore[union-attr]
    after = parse_v1([json.dumps(said).encode()])
    assert isinstance(after, DetectorSettingsSaid)
    assert (after.frame_shape, after.n_images) == ((33, 50), 12)


def test_tables_are_left_out_of_the_words() -> None:
    got = parse_v1(start(7, flatfield=[[1.0] * 99] * 99, software_version="1.8.0"))
    assert isinstance(got, SeriesStart)
    assert "flatfield" not in got.said
    assert got.said["software_version"] == "1.8.0"


def test_the_end_is_read() -> None:
    assert parse_v1(end(7)) == SeriesEnd(7)


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=40), max_size=5))
def test_noise_is_no_message(parts: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        parse_v1(parts)


@settings(max_examples=300)
@given(st.data())
def test_damage_is_an_error_or_a_message_never_a_crash(data: st.DataObject) -> None:
    parts = [
        bytearray(part) for part in image(7, 3, np.arange(12, dtype="<u2").reshape(3, 4), "bslz4")
    ]
    part = parts[data.draw(st.integers(0, 3))]
    part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = parse_v1([bytes(p) for p in parts[: data.draw(st.integers(0, 4))]])
        if isinstance(got, SeriesImage):
            assert got.decode().ndim == 2
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    ("about", "blob"),
    [
        ({"encoding": "bs16-lz4>", "shape": [2, 2], "type": "uint16"}, b""),
        ({"encoding": "zip", "shape": [2, 2], "type": "uint16"}, b""),
        ({"encoding": "<", "shape": [2, 2], "type": "float32"}, bytes(16)),
        ({"encoding": "<", "shape": [1 << 20, 1 << 20], "type": "uint16"}, b""),
        ({"encoding": "<", "shape": [2, 2], "type": "uint16"}, bytes(7)),
        ({"encoding": "<", "shape": "wide", "type": "uint16"}, bytes(8)),
    ],
)
def test_an_image_that_cannot_be_is_refused(about: dict[str, object], blob: bytes) -> None:
    head, _, _, times = image(7, 3, np.zeros((2, 2), "<u2"))
    got = parse_v1([head, json.dumps(about).encode(), blob, times])
    assert isinstance(got, SeriesImage)
    with pytest.raises(ProtocolError, match="what came before is kept"):
        got.decode()
