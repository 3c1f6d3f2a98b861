"""The places of the direct beam that a fit tries, likeliest first, and when to stop trying.

The likeliest comes alone, with the camera constant of the lattice about it; others follow only
where it explains too little.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.background import radial_background
from controller.perception.alignment.centre import rank_hidden
from controller.perception.alignment.lattice import fit_lattice
from controller.perception.alignment.scale import match_lattice
from controller.perception.alignment.spots import find_spots, spot_mask
from controller.perception.alignment.task import Task

Array = NDArray[np.float64]

CONVINCING = 0.6
"""Part of the attainable gain below which centres other than the likeliest are tried."""
_PASSABLE = 0.38
"""The same once the next likely ones were tried."""
_HIDDEN_BEAMS, _DARK_BEAMS = 5, 3
"""Nodes tried behind a stop, and beside the spots that can be the direct beam."""
_SAME_PLACE_PX = 2.0
_LATTICE_SPOTS = 16
"""Spots from which a lattice of them is no chance."""


def centre_batches(task: Task) -> Iterator[tuple[list[tuple[Task, float]], float]]:
    """The likeliest centre, then others, and the quality of fit that makes more needless."""
    leader, sigma = next(_centres(task))
    calibrated = _self_calibrated(leader)
    yield [(calibrated, sigma)], CONVINCING
    others = list(_centres(task))[1:]
    likely = [*others[:3], (leader, sigma)] if calibrated.match else others[:3]
    for some in (likely, others[3:]):
        if some:
            yield some, _PASSABLE


def _self_calibrated(task: Task) -> Task:
    """The task with the camera constant that the lattice of the spots gives, if it gives one."""
    spots = task.spots
    lattice = fit_lattice(
        spots.x_px, spots.y_px, spots.counts, spots.centre_px,
        centre_is_node=spots.direct is not None,
    )  # fmt: skip
    if lattice is None:
        return task
    match = match_lattice(lattice, task.structure, task.zone_uvw, task.inv_A_per_px)
    if match is None:
        return task
    return replace(task, inv_A_per_px=task.inv_A_per_px * match.factor, match=match)


def _centres(task: Task) -> Iterator[tuple[Task, float]]:
    """The task with each place of the direct beam worth trying, and its uncertainty in px."""
    spots = task.spots
    if task.prior is not None and task.prior.centre_px is not None:
        yield task, 0.5
        return
    if spots.direct is not None:
        yield task, 0.03
        for rival in spots.rivals:
            yield _moved(task, rival), 0.03
        # of a thick crystal so little may be left in it that it is no spot at all
        tried = np.stack([spots.x_px, spots.y_px], 1)[[spots.direct, *spots.rivals]]
        for place in _likely_nodes(task, _DARK_BEAMS + len(tried)):
            if np.hypot(*(tried - place).T).min() > _SAME_PLACE_PX:
                yield _centred(task, place), 0.6
        return
    nodes = [(place, 0.6) for place in _likely_nodes(task, _HIDDEN_BEAMS)]
    middle = np.array(spots.centre_px)
    shifts = np.array([(0, 0), (2.5, 0), (-2.5, 0), (0, 2.5), (0, -2.5)])
    order, _ = rank_hidden(task.pattern, _masked(task), middle + shifts)
    around = [(middle + shifts[k], 1.5) for k in order] or [(middle, 1.5)]
    # a few spots lie on some lattice by chance: then what was seen of the stop says more
    places = (
        [*nodes, *around[:2]] if len(nodes) and len(spots) >= _LATTICE_SPOTS else around + nodes
    )
    for place, sigma in places:
        yield _centred(task, place), sigma


def _likely_nodes(task: Task, most: int) -> list[Array]:
    """Nodes of the spots' lattice where the direct beam can be, likeliest first; none without."""
    spots = task.spots
    lattice = fit_lattice(
        spots.x_px, spots.y_px, spots.counts, spots.centre_px, centre_is_node=False
    )
    if lattice is None or lattice.score < 10.0:
        return []
    i, j = (v.ravel() for v in np.meshgrid(np.arange(-12, 13), np.arange(-12, 13)))
    nodes = np.array(lattice.origin_px) + np.stack([i, j], 1) @ lattice.basis_px
    order, score = rank_hidden(task.pattern, _masked(task), nodes)
    return [
        nodes[k]
        for k, value in zip(order[:most], score[:most], strict=True)
        if value > score[0] - 12.0
    ]


def _masked(task: Task) -> NDArray[np.bool_]:
    return spot_mask(task.pattern.shape, task.spots)


def _moved(task: Task, spot: int) -> Task:
    """The task with another spot as the direct beam."""
    spots = task.spots
    centre = (float(spots.x_px[spot]), float(spots.y_px[spot]))
    # a background that is radial about the wrong place makes spots of the halo: look again
    again = find_spots(task.pattern, centre_px=centre)
    if again.direct is None:
        return _centred(task, np.array(centre))
    return replace(task, spots=again)


def _centred(task: Task, centre: Array) -> Task:
    place = (float(centre[0]), float(centre[1]))
    background = radial_background(task.pattern, place, _masked(task))
    return replace(task, spots=replace(task.spots, centre_px=place, background=background))
