"""Stream V2: our own CBOR round trip, and nothing that is no message gets through."""

from __future__ import annotations

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from controller.backends.detectors.dectris.messages import SeriesEnd, SeriesImage, SeriesStart
from controller.backends.detectors.dectris.stream_v2 import UNSIGNED, parse_v2
from controller.hardware.errors import ProtocolError
from tests.controller.backends.detectors.v2_messages import end, image, start

TAG_OF = {dtype: tag for tag, dtype in UNSIGNED.items() if tag != 68}
IMAGES = st.sampled_from(sorted(TAG_OF, key=str)).flatmap(
    lambda dtype: arrays(dtype, st.tuples(st.integers(1, 20), st.integers(1, 30)))
)


@settings(max_examples=80)
@given(IMAGES, st.booleans(), st.integers(0, 2**40), st.integers(0, 2**31))
def test_what_is_encoded_comes_back(
    data: np.ndarray, self_described: bool, series: int, number: int
) -> None:
    typed = cbor2.CBORTag(TAG_OF[data.dtype], data.tobytes())
    content = {"a": cbor2.CBORTag(40, [list(data.shape), typed])}
    message: object = {
        "type": "image",
        "series_id": series,
        "image_id": number,
        "data": content,
    }
    if self_described:
        message = cbor2.CBORTag(55799, message)
    got = parse_v2(cbor2.dumps(message))
    assert isinstance(got, SeriesImage)
    assert (got.series, got.number) == (series, number)
    np.testing.assert_array_equal(got.decode(), data)


@pytest.mark.parametrize("packing", ["none", "lz4", "bslz4"])
@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
def test_packed_images_come_back(packing: str, dtype: str, rng: np.random.Generator) -> None:
    data = rng.poisson(0.4, (33, 50)).astype(dtype)
    got = parse_v2(image(7, 3, data, packing))
    assert isinstance(got, SeriesImage)
    np.testing.assert_array_equal(got.decode(), data)


def test_start_and_end_are_read() -> None:
    got = parse_v2(start(7, (33, 50), 12))
    assert isinstance(got, SeriesStart)
    assert (got.series, got.frame_shape, got.n_images) == (7, (33, 50), 12)
    assert got.channels == ("threshold_1",)
    assert got.said["detector_description"] == "of paper"
    assert "pixel_mask" not in got.said
    assert parse_v2(end(7)) == SeriesEnd(7)


def test_the_channel_is_the_one_that_was_asked_for() -> None:
    two = {
        name: cbor2.CBORTag(40, [[1, 2], cbor2.CBORTag(64, bytes([value, value]))])
        for name, value in (("threshold_1", 1), ("threshold_2", 2))
    }
    message = cbor2.dumps({"type": "image", "series_id": 1, "image_id": 0, "data": two})
    for name, value in (("threshold_2", 2), (None, 1)):
        got = parse_v2(message, name)
        assert isinstance(got, SeriesImage)
        assert got.decode().tolist() == [[value, value]]
    absent = parse_v2(message, "threshold_3")
    assert isinstance(absent, SeriesImage)
    with pytest.raises(ProtocolError, match=r"no channel 'threshold_3'; there are \['threshold_1'"):
        absent.decode()


@settings(max_examples=300)
@given(st.binary(max_size=80))
def test_noise_is_no_message(noise: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_v2(noise)


@settings(max_examples=300)
@given(st.data())
def test_damage_is_an_error_or_a_message_never_a_crash(data: st.DataObject) -> None:
    whole = bytearray(image(7, 3, np.arange(12, dtype="<u2").reshape(3, 4), "bslz4"))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = parse_v2(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
        if isinstance(got, SeriesImage):
            assert got.decode().ndim == 2
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "content",
    [
        {"type": "image", "series_id": 1, "image_id": 0},
        {"type": "image", "series_id": "x", "image_id": 0, "data": {}},
        {"type": "start", "series_id": 1},
        {"type": "pause"},
        {"htype": "dheader-1.0"},
        [1, 2],
    ],
)
def test_a_message_that_lacks_something_is_refused(content: object) -> None:
    with pytest.raises(ProtocolError, match="Stream V2"):
        parse_v2(cbor2.dumps(content))


@pytest.mark.parametrize(
    "array",
    [
        "text",
        cbor2.CBORTag(40, [[1 << 20, 1 << 20], cbor2.CBORTag(69, b"")]),
        cbor2.CBORTag(40, [[2, 2], cbor2.CBORTag(85, bytes(16))]),
        cbor2.CBORTag(40, [[2, 2], cbor2.CBORTag(69, bytes(7))]),
        cbor2.CBORTag(40, 3),
        cbor2.CBORTag(40, [[2, 2], cbor2.CBORTag(69, cbor2.CBORTag(56500, cbor2.CBORTag(1, 1)))]),
        cbor2.CBORTag(40, [[2, 2], cbor2.CBORTag(69, cbor2.CBORTag(56500, ["zip", 2, b""]))]),
        cbor2.CBORTag(40, [[2, 2], cbor2.CBORTag(69, cbor2.CBORTag(56500, ["bslz4", 4, b""]))]),
    ],
)
def test_an_array_that_is_none_is_refused(array: object) -> None:
    message = {"type": "image", "series_id": 1, "image_id": 0, "data": {"a": array}}
    got = parse_v2(cbor2.dumps(message))
    assert isinstance(got, SeriesImage)
    with pytest.raises(ProtocolError, match="an image of Stream V2 holds"):
        got.decode()
