"""Pictures in full depth: values under the cursor, line profiles, power spectra, 16-bit files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from starlette.responses import JSONResponse, Response

from controller.console.console import Console
from controller.console.frames import smoothed, to_bytes
from controller.console.pictures import frame_named
from controller.console.rights import Right, needs

MOST_POINTS = 2048


def picture_routes(console: Console) -> APIRouter:  # noqa: C901  (a table of routes)
    """GET routes of pictures; asked of the journal's frames by name."""
    router = APIRouter(prefix="/frame")

    @router.get("/{name}/value")
    @needs(Right.LOOK)
    def value(name: str, x: int, y: int) -> Response:
        found = _frame(console, name)
        if found is None or not (0 <= y < found.shape[0] and 0 <= x < found.shape[1]):
            return _nothing()
        return JSONResponse({"electrons": float(found[y, x])})

    @router.get("/{name}/profile")
    @needs(Right.LOOK)
    def profile(name: str, x0: float, y0: float, x1: float, y1: float) -> Response:
        found = _frame(console, name)
        if found is None:
            return _nothing()
        return JSONResponse({"electrons": line_profile(found, (x0, y0), (x1, y1))})

    @router.get("/{name}/spectrum.png")
    @needs(Right.LOOK)
    def spectrum(name: str) -> Response:
        found = _frame(console, name)
        if found is None:
            return _nothing()
        grey, _, _ = to_bytes(power_spectrum(found), log=True)
        return _png(grey)

    @router.get("/{name}/8bit.png")
    @needs(Right.LOOK)
    def small(name: str, log: bool = False) -> Response:
        found = _frame(console, name)
        if found is None:
            return _nothing()
        grey, _, _ = to_bytes(smoothed(found, 1.3), log=log)
        return _png(grey)

    @router.get("/{name}/16bit.png")
    @needs(Right.LOOK)
    def deep(name: str) -> Response:
        found = _frame(console, name)
        if found is None:
            return _nothing()
        top = max(float(found.max()), 1.0)
        scaled = np.clip(found / top * 65535.0, 0.0, 65535.0).astype(np.uint16)
        answer = _png(scaled)
        answer.headers["x-electrons-at-65535"] = f"{top:.6g}"
        return answer

    return router


def line_profile(
    picture: NDArray[np.float32], start: tuple[float, float], end: tuple[float, float]
) -> list[float]:
    """Electrons along a line from (x, y) to (x, y), a point a pixel, between pixels linear."""
    length = int(min(np.hypot(end[0] - start[0], end[1] - start[1]) + 1, MOST_POINTS))
    xs = np.linspace(start[0], end[0], max(length, 2))
    ys = np.linspace(start[1], end[1], max(length, 2))
    values = ndimage.map_coordinates(picture, [ys, xs], order=1, mode="nearest")
    return [round(float(v), 4) for v in values]


def power_spectrum(picture: NDArray[np.float32]) -> NDArray[np.float64]:
    """|F|² with zero frequency in the middle, under a Hann window."""
    rows, cols = picture.shape
    window = np.hanning(rows)[:, None] * np.hanning(cols)[None, :]
    wave = np.fft.fftshift(np.fft.fft2((picture - picture.mean()) * window))
    return np.asarray(np.abs(wave) ** 2, dtype=np.float64)


def _frame(console: Console, name: str) -> NDArray[np.float32] | None:
    night = console.night
    found = None if night is None else frame_named(night, name)
    return None if found is None else found[1]


def _nothing() -> Response:
    return JSONResponse({"why": "no such picture in this run"}, status_code=404)


def _png(pixels: NDArray[Any]) -> Response:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return Response(out.getvalue(), media_type="image/png")
