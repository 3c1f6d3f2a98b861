"""Messages of Stream V2 as a detector would write them (DECTRIS's public description)."""

from __future__ import annotations

import cbor2
import numpy as np
from numpy.typing import NDArray

from tests.controller.backends.detectors.bslz4 import pack

TAGS = {"u1": 64, "<u2": 69, "<u4": 70}


def array(data: NDArray[np.generic], packing: str = "none") -> cbor2.CBORTag:
    stored: object = data.tobytes()
    if packing != "none":
        item = data.dtype.itemsize if packing == "bslz4" else 0
        stored = cbor2.CBORTag(56500, [packing, item, pack(data, packing)])
    letter = data.dtype.newbyteorder("<").str.replace("|", "")
    return cbor2.CBORTag(40, [list(data.shape), cbor2.CBORTag(TAGS[letter], stored)])


def start(series: int, shape: tuple[int, int], n_images: int) -> bytes:
    return cbor2.dumps(
        {
            "type": "start",
            "series_id": series,
            "series_unique_id": f"unique-{series}",
            "channels": ["threshold_1"],
            "detector_description": "of paper",
            "image_dtype": "uint16",
            "image_size_x": shape[1],
            "image_size_y": shape[0],
            "number_of_images": n_images,
            "pixel_mask": {"threshold_1": array(np.zeros(shape, "<u4"))},
        }
    )


def image(series: int, number: int, data: NDArray[np.generic], packing: str = "none") -> bytes:
    return cbor2.dumps(
        {
            "type": "image",
            "series_id": series,
            "series_unique_id": f"unique-{series}",
            "image_id": number,
            "real_time": [1, 1000],
            "start_time": [number, 1000],
            "stop_time": [number + 1, 1000],
            "data": {"threshold_1": array(data, packing)},
        }
    )


def end(series: int) -> bytes:
    return cbor2.dumps({"type": "end", "series_id": series, "series_unique_id": f"unique-{series}"})
