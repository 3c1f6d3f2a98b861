"""Merlin's frames of every counter depth, finished and raw, come back as counts."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.backends.detectors.merlin.frames import FrameReader
from controller.backends.detectors.merlin.framing import MpxReader
from controller.hardware.errors import ProtocolError
from tests.controller.backends.detectors.merlin_bytes import frame, header, raw_frame


def body(wrapped: bytes) -> bytes:
    reader = MpxReader(1 << 20)
    reader.feed(wrapped)
    taken = reader.take()
    assert taken is not None
    return taken


@pytest.mark.parametrize("depth", [1, 6, 12, 24])
@pytest.mark.parametrize("make", [frame, raw_frame])
def test_every_counter_depth_comes_back(depth: int, make: object, rng: np.random.Generator) -> None:
    reader = FrameReader()
    for number in (1, 2, 3):
        counts = rng.integers(0, 2**depth, (12, 64))
        got = reader.read(body(make(number, counts, depth)))  # type: ignore[operator]
        assert got.number == number - 1
        np.testing.assert_array_equal(got.decode(), counts)


def test_a_number_of_more_than_six_digits_is_read() -> None:
    whole = body(frame(1_234_567, np.ones((2, 4), np.uint16)))
    assert FrameReader().read(whole).number == 1_234_566


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (header(2, 4, 3, "U16", 12) + bytes(24), "somebody changed the detector"),
        (header(2, 4, 2, "U08", 6) + bytes(8), "somebody changed the detector"),
        (header(2, 4, 2, "U16", 12) + bytes(15), "has 399 bytes, its header says 384 \\+ 16"),
        (b"MQ1", "somebody changed the detector"),
        (b"", "somebody changed the detector"),
    ],
)
def test_a_frame_unlike_the_first_is_refused(second: bytes, said: str) -> None:
    reader = FrameReader()
    reader.read(body(frame(1, np.ones((2, 4), np.uint16))))
    with pytest.raises(ProtocolError, match=f"(?i){said}"):
        reader.read(second)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"HDR,",
        b"MQ1,000001,99999,01,0004,0002,U16,1x1,01,",
        b"MQ1,000001,00000,01,0004,0002,U16,1x1,01,",
        header(1, 4, 2, "F32", 12),
        b"MQ1,000001,00384,xx,0004,0002,U16,1x1,01,",
    ],
)
def test_a_first_frame_that_is_none_is_refused(first: bytes) -> None:
    with pytest.raises(ProtocolError, match="nothing was written"):
        FrameReader().read(first)


@settings(max_examples=300)
@given(st.data(), st.sampled_from([1, 6, 12, 24]), st.booleans())
def test_damage_is_an_error_or_an_image_never_a_crash(
    data: st.DataObject, depth: int, raw: bool
) -> None:
    make = raw_frame if raw else frame
    whole = bytearray(body(make(1, np.ones((4, 64), np.uint32), depth)))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, 200))] = data.draw(
            st.sampled_from([*b"0123456789-,", 0, 255])
        )
    with suppress(ProtocolError):
        assert FrameReader().read(bytes(whole)).decode().ndim == 2
