"""DECTRIS's compression: what HDF5 packs we unpack, and damaged lengths are refused unread."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from controller.backends.detectors.dectris.compression import decompress
from controller.hardware.errors import ProtocolError
from tests.controller.backends.detectors.bslz4 import pack

IMAGES = st.sampled_from(["u1", "<u2", "<u4"]).flatmap(
    lambda dtype: st.tuples(st.integers(1, 70), st.integers(1, 97)).flatmap(
        lambda shape: arrays(dtype, shape)
    )
)


@settings(max_examples=60)
@given(IMAGES, st.sampled_from(["bslz4", "lz4"]))
def test_what_hdf5_packs_is_unpacked(image: np.ndarray, algorithm: str) -> None:
    """Any shape, also ones that are no multiple of eight pixels."""
    got = decompress(pack(image, algorithm), algorithm, image.shape, image.dtype)
    np.testing.assert_array_equal(got, image)


@given(st.lists(st.integers(0, 65535), min_size=2, max_size=6))
def test_one_image_never_leaves_a_trace_in_the_next(values: list[int]) -> None:
    for value in values:
        image = np.full((16, 24), value, "<u2")
        np.testing.assert_array_equal(
            decompress(pack(image), "bslz4", image.shape, image.dtype), image
        )


def test_blocks_of_another_size_are_unpacked(rng: np.random.Generator) -> None:
    image = rng.poisson(0.2, (64, 96)).astype("<u2")
    got = decompress(pack(image, block=512), "bslz4", image.shape, image.dtype)
    np.testing.assert_array_equal(got, image)


def test_zeros_in_place_of_the_lengths_mean_the_announced_shape(rng: np.random.Generator) -> None:
    """LiberTEM-live's mocked frames carry twelve zero bytes there."""
    image = rng.poisson(0.2, (128, 128)).astype("<u2")
    packed = bytes(12) + pack(image)[12:]
    np.testing.assert_array_equal(decompress(packed, "bslz4", image.shape, image.dtype), image)


@settings(max_examples=200)
@given(st.data())
def test_damage_is_refused_or_gives_an_image_never_a_crash(data: st.DataObject) -> None:
    image = np.arange(24 * 40, dtype="<u2").reshape(24, 40) % 7
    packed = bytearray(pack(image))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    packed = packed[: data.draw(st.integers(0, len(packed)))]
    try:
        got = decompress(bytes(packed), "bslz4", image.shape, image.dtype)
    except ProtocolError:
        return
    assert got.shape == image.shape


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p[:8], "too few for a header"),
        (lambda p: struct.pack(">Q", 1 << 60) + p[8:], "it says 1152921504606846976 bytes"),
        (lambda p: p[:8] + struct.pack(">I", 12) + p[12:], "blocks of 12 bytes"),
        (lambda p: p[:-1], "its blocks end at byte"),
        (lambda p: p + b"x", "its blocks end at byte"),
        (lambda p: p[:12], "ends before its 1 blocks"),
    ],
)
def test_a_contradiction_is_said(change: object, said: str) -> None:
    packed = pack(np.ones((24, 40), "<u2"))
    with pytest.raises(ProtocolError, match=said):
        decompress(change(packed), "bslz4", (24, 40), np.dtype("<u2"))  # type: ignore[operator]
