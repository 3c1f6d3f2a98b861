"""What crosses the wire arrives whole or not at all."""

from __future__ import annotations

import json
import math
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from controller.hardware import errors
from controller.hardware.errors import (
    BeamState,
    DoseState,
    MicroscopeError,
    NotReachedError,
    ProtocolError,
)
from controller.hardware.wire.failure import error_of, failure_of
from controller.hardware.wire.message import MAX_HEADER_BYTES, Reply, Request, decode, encode

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.text(max_size=20)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
pictures = hnp.arrays(
    dtype=st.sampled_from(["u1", "<u2", "<i4", "<f4", "?"]),
    shape=hnp.array_shapes(min_dims=1, max_dims=3, max_side=6),
    elements={"allow_nan": False},
)


def request(**fields: object) -> Request:
    return Request.model_validate({"id": uuid4(), "verb": "expose"} | fields)


@given(st.dictionaries(st.text(max_size=8), plain, max_size=4), st.lists(pictures, max_size=4))
def test_a_message_comes_back_as_it_was(args: dict[str, object], arrays: list[np.ndarray]) -> None:
    sent = request(args=args, seq=7, epoch=3)
    got, came = decode(Request, encode(sent, arrays))
    assert got.replace(parts=()) == sent
    assert len(came) == len(arrays)
    for one, other in zip(came, arrays, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@given(st.data())
def test_any_flipped_bit_of_a_picture_is_noticed(data: st.DataObject) -> None:
    frames = encode(request(), [np.arange(12, dtype=np.uint16).reshape(3, 4)])
    where = data.draw(st.integers(0, len(frames[1]) - 1))
    damaged = bytearray(frames[1])
    damaged[where] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ProtocolError, match="checksum"):
        decode(Request, [frames[0], bytes(damaged)])


@given(st.lists(st.binary(max_size=200), max_size=7))
def test_whatever_comes_is_understood_or_refused(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        decode(Request, frames)


@given(st.data())
def test_a_header_with_anything_else_in_it_is_refused(data: st.DataObject) -> None:
    fields = json.loads(encode(request())[0])
    name = data.draw(st.sampled_from(["v", "id", "verb", "seq", "args", "extra"]))
    fields[name] = data.draw(st.sampled_from([None, -1, 2, "x y", [], 1e400, "open.it.now"]))
    if name == "args":
        fields[name] = data.draw(st.sampled_from([None, 3, "x", [1]]))
    if name == "seq":
        fields[name] = data.draw(st.sampled_from([None, -1, "x", 0.5]))
    with pytest.raises(ProtocolError):
        decode(Request, [json.dumps(fields).encode()])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_not_sent(value: float) -> None:
    with pytest.raises(ProtocolError, match="cannot be sent"):
        encode(request(args={"target": {"alpha_deg": value}}))


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("f1", [1]), ("b4", [1]), ("<i1", [1]), ("f8", [0, 10**30]), ("O8", [1]), ("u1", [2**62, 4])],
)
def test_an_array_that_numpy_has_not_is_refused(dtype: str, shape: list[int]) -> None:
    fields = json.loads(encode(request())[0])
    fields["parts"] = [{"dtype": dtype, "shape": shape, "crc32": 0}]
    for body in (b"", b"\0"):
        with pytest.raises(ProtocolError):
            decode(Request, [json.dumps(fields).encode(), body])


def test_a_header_that_nobody_would_read_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="cannot be sent"):
        encode(request(args={"x": "y" * MAX_HEADER_BYTES}))


def test_an_oversized_header_is_refused_unread() -> None:
    with pytest.raises(ProtocolError, match="header of"):
        decode(Reply, [b"{" + b" " * MAX_HEADER_BYTES + b"}"])


def all_errors(root: type[MicroscopeError] = MicroscopeError) -> list[type[MicroscopeError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in all_errors(child))]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_an_error_keeps_its_class_and_the_state_it_leaves(kind: type[MicroscopeError]) -> None:
    state = {
        "beam_state": BeamState.OPEN,
        "dose_state": DoseState.UNKNOWN,
        "vendor_code": 17,
        "vendor_text": "Jammed",
        "snapshot": {"alpha_deg": 3.0},
    }
    extra = {"residual": {"alpha_deg": 0.4}} if issubclass(kind, NotReachedError) else {}
    made = kind("it went wrong", **extra, **state)  # type: ignore[arg-type]
    again = error_of(failure_of(made))
    assert type(again) is kind
    assert str(again) == "it went wrong"
    assert vars(again) == vars(made)


def test_other_errors_say_where_they_come_from() -> None:
    assert isinstance(error_of(failure_of(ValueError("no"))), ValueError)
    assert isinstance(error_of(failure_of(KeyboardInterrupt())), KeyboardInterrupt)
    inner = error_of(failure_of(ZeroDivisionError("oops")))
    assert isinstance(inner, errors.ProtocolError)
    assert "ZeroDivisionError: oops" in str(inner)
