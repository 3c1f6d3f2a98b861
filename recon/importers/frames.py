"""A list of detector frames on disk, read in blocks, and how they become a scan."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recon.errors import DataError
from recon.importers.fields import Layout

BLOCK_BYTES = 64 << 20
"""Size of the raw values held in memory at a time."""


@dataclass(frozen=True)
class Frames:
    """Raw frames (n, det_y, det_x) that ``read(start, stop)`` fetches, and what the file says.

    ``shapes`` are the scan shapes the file speaks of, with the place that says so, best first;
    ``masked`` (det_y, det_x) are pixels the detector declares unusable; ``void_value`` is what it
    writes where it has no value; ``saturation_value`` the largest count it can hold.
    """

    name: str
    n_frames: int
    frame_shape: tuple[int, int]
    bytes_per_frame: int
    read: Callable[[int, int], NDArray[Any]]
    shapes: tuple[tuple[str, tuple[int, int]], ...] = ()
    found: Mapping[str, object] = field(default_factory=dict)
    masked: NDArray[np.bool_] | None = None
    void_value: int | None = None
    saturation_value: float | None = None
    counting: Literal["electron", "thresholded", "simulated", "unknown"] = "unknown"
    raw_headers: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    start_time: str | None = None
    dwell_s: float | None = None


def choose_scan_shape(frames: Frames, layout: Layout) -> tuple[int, int]:
    """(scan_y, scan_x): the stated one, else the first of the file's that fits its frames.

    Raises
    ------
    DataError
        Nothing fits; the message lists what was tried.
    """
    available = frames.n_frames - layout.skip_frames
    if layout.as_list:
        return 1, available
    if layout.scan_shape is not None:
        _check_frames(frames, layout, layout.scan_shape)
        return layout.scan_shape
    for _, shape in frames.shapes:
        if shape[0] * (shape[1] + layout.flyback_frames) == available:
            return shape
    if frames.shapes and layout.incomplete:
        return frames.shapes[0][1]
    said = "; ".join(f"{where} says {ny} x {nx}" for where, (ny, nx) in frames.shapes)
    if frames.shapes:
        raise DataError(
            f"{frames.name}: {available} frames do not fill the scan ({said}). State scan_shape: "
            f"[scan_y, scan_x] in the YAML, with flyback_frames or skip_frames where frames belong "
            f"to no scan point, or `incomplete: true` if the scan was interrupted"
        )
    raise DataError(
        f"{frames.name}: a list of {available} frames, and nothing says how the scan ran"
        f"{_guess(available)}. State scan_shape: [scan_y, scan_x] in the YAML"
    )


def _guess(n: int) -> str:
    root = int(np.sqrt(n))
    return f" ({root} x {root} would fit)" if root * root == n else ""


def _check_frames(frames: Frames, layout: Layout, shape: tuple[int, int]) -> None:
    per_line = shape[1] + layout.flyback_frames
    needed = layout.skip_frames + shape[0] * per_line
    # the flyback of the last line is often not recorded
    if needed - layout.flyback_frames <= frames.n_frames <= needed:
        return
    if frames.n_frames < needed and layout.incomplete:
        return
    remedy = (
        "mark an interrupted scan with `incomplete: true`"
        if frames.n_frames < needed
        else "state flyback_frames (after every line) or skip_frames (before the first)"
    )
    flyback = f" with {layout.flyback_frames} of flyback" if layout.flyback_frames else ""
    raise DataError(
        f"{frames.name}: {frames.n_frames} frames, but scan_shape {list(shape)}{flyback} needs "
        f"{needed}; correct scan_shape, or {remedy}"
    )


def blocks(
    frames: Frames, layout: Layout, scan_shape: tuple[int, int]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Scan index of the first frame and raw values of each block, flyback left out."""
    ny, nx = scan_shape
    block = max(BLOCK_BYTES // max(frames.bytes_per_frame, 1), 1)
    if layout.flyback_frames == 0:
        last = min(frames.n_frames - layout.skip_frames, ny * nx)
        block = max(block // nx, 1) * nx if block >= nx else block
        runs = [(start, min(start + block, last)) for start in range(0, last, block)]
        for start, stop in runs:
            yield start, frames.read(start + layout.skip_frames, stop + layout.skip_frames)
        return
    for line in range(ny):
        first = layout.skip_frames + line * (nx + layout.flyback_frames)
        last = min(first + nx, frames.n_frames)
        for start in range(first, last, block):
            yield line * nx + start - first, frames.read(start, min(start + block, last))


Reader = Callable[[int, int], NDArray[Any]]


def joined(lengths: Sequence[int], readers: Sequence[Reader]) -> tuple[int, Reader]:
    """Total length and reader of parts that follow one another, as a scan in several files."""
    ends = np.cumsum(lengths)
    starts = ends - np.array(lengths)

    def read(start: int, stop: int) -> NDArray[Any]:
        blocks = [
            part(max(start - int(first), 0), min(stop, int(last)) - int(first))
            for part, first, last in zip(readers, starts, ends, strict=True)
            if first < stop and last > start
        ]
        return np.concatenate(blocks)

    return int(ends[-1]), read


def array_frames(array: Any, layout: Layout, name: str) -> Frames:  # noqa: ANN401
    """Frames of an array-like (HDF5 dataset, memory map) with three or four axes.

    Lines of the scan are read together, so that any order of the axes costs one pass.
    """
    if layout.as_list and array.ndim == 2:
        array = np.asarray(array)[None]
    axes = layout.axes or (
        ("frame", "det_y", "det_x")
        if array.ndim == 3 and (layout.scan_shape is not None or layout.as_list)
        else ("scan_y", "scan_x", "det_y", "det_x")
    )
    if array.ndim != len(axes):
        raise DataError(
            f"{name}: counts have shape {tuple(array.shape)}, expected "
            f"{'four' if len(axes) == 4 else 'three'} axes ({', '.join(axes)}); state scan_shape: "
            f"[scan_y, scan_x] for a list of frames, or axes: [...] for another order"
        )
    size = dict(zip(axes, array.shape, strict=True))
    shapes: tuple[tuple[str, tuple[int, int]], ...] = ()
    frame_shape = (size["det_y"], size["det_x"])
    if "frame" in size:
        order = tuple(axes.index(a) for a in ("frame", "det_y", "det_x"))
        where = axes.index("frame")

        def read(start: int, stop: int) -> NDArray[Any]:
            cut = tuple(slice(start, stop) if i == where else slice(None) for i in range(3))
            return np.asarray(array[cut]).transpose(order)

        n_frames = size["frame"]
    else:
        order = tuple(axes.index(a) for a in ("scan_y", "scan_x", "det_y", "det_x"))
        where = axes.index("scan_y")
        nx = size["scan_x"]

        def read(start: int, stop: int) -> NDArray[Any]:
            first, last = start // nx, -(-stop // nx)
            cut = tuple(slice(first, last) if i == where else slice(None) for i in range(4))
            lines = np.asarray(array[cut]).transpose(order).reshape(-1, *frame_shape)
            return lines[start - first * nx : stop - first * nx]

        n_frames = size["scan_y"] * nx
        scan = (size["scan_y"], nx)
        if layout.scan_shape not in (None, scan):
            raise DataError(
                f"{name}: scan_shape says {list(layout.scan_shape)}, the array {list(scan)} along "
                f"scan_y, scan_x; correct it, or state axes: [scan_x, scan_y, det_y, det_x]"
            )
        shapes = (("the array", scan),)
    return Frames(
        name=name,
        n_frames=n_frames,
        frame_shape=frame_shape,
        bytes_per_frame=frame_shape[0] * frame_shape[1] * array.dtype.itemsize,
        read=read,
        shapes=shapes,
    )
