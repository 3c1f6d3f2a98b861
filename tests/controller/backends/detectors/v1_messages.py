"""Messages of Stream V1 as a detector would send them, part by part."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from tests.controller.backends.detectors.bslz4 import pack

ENCODINGS = {"none": "<", "lz4": "lz4<", "bslz4": "bs{bits}-lz4<"}


def start(series: int, **settings: object) -> list[bytes]:
    head = {"htype": "dheader-1.0", "header_detail": "basic", "series": series}
    parts = [json.dumps(head).encode()]
    return [*parts, json.dumps(settings).encode()] if settings else parts


def image(
    series: int, number: int, data: NDArray[np.generic], packing: str = "none"
) -> list[bytes]:
    stored = data.tobytes() if packing == "none" else pack(data, packing)
    about = {
        "htype": "dimage_d-1.0",
        "encoding": ENCODINGS[packing].format(bits=8 * data.dtype.itemsize),
        "shape": [data.shape[1], data.shape[0]],
        "size": len(stored),
        "type": data.dtype.name,
    }
    head = {"htype": "dimage-1.0", "frame": number, "hash": "", "series": series}
    times = {"htype": "dconfig-1.0", "start_time": 0, "stop_time": 1, "real_time": 1}
    return [
        json.dumps(head).encode(),
        json.dumps(about).encode(),
        stored,
        json.dumps(times).encode(),
    ]


def end(series: int) -> list[bytes]:
    return [json.dumps({"htype": "dseries_end-1.0", "series": series}).encode()]
