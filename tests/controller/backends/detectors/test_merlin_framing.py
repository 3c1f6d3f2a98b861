"""TCP cuts anywhere; Merlin's messages come out whole, in order, whatever the cuts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.backends.detectors.merlin.framing import MpxReader, wrap
from controller.hardware.errors import ProtocolError

BODIES = st.lists(st.binary(max_size=40), max_size=8)


def test_the_length_counts_its_comma() -> None:
    """18 bytes and the comma before them."""
    assert wrap(b"GET,DETECTORSTATUS") == b"MPX,0000000019,GET,DETECTORSTATUS"


@given(BODIES, st.data())
def test_bodies_survive_any_cuts(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(wrap, bodies))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader, got = MpxReader(64), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.feed(stream[begin:end])
        got += list(reader.bodies())
    assert got == bodies
    assert reader.clear() == 0


@given(st.binary(max_size=200), BODIES, st.data())
def test_everything_before_the_acquisition_header_is_skipped(
    old: bytes, bodies: list[bytes], data: st.DataObject
) -> None:
    """Also half a frame of an earlier acquisition, cut anywhere."""
    stream = old + b"".join(map(wrap, [b"HDR,\tours", *bodies]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader, found, got = MpxReader(64), False, []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.feed(stream[begin:end])
        found = found or reader.skip_to_acquisition()
        if found:
            got += list(reader.bodies())
    assert got == [b"HDR,\tours", *bodies]


@pytest.mark.parametrize(
    "start", [b"MPX,0000000999,", b"MPX,-000000001,", b"XPM,0000000003,", b"GARBAGEGARBAGEG"]
)
def test_what_is_no_frame_is_refused_and_takes_no_memory(start: bytes) -> None:
    reader = MpxReader(64)
    reader.feed(wrap(b"good") + start)
    assert reader.take() == b"good"
    with pytest.raises(ProtocolError, match="is no start of a Merlin message of at most 64 bytes"):
        reader.take()
