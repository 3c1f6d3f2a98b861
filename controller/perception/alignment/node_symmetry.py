"""Which nodes of a two-dimensional lattice scatter alike when the beam lies along the zone.

The pattern of a zone has one of six symmetries that include the half turn: 2, 2mm, 4, 4mm, 6 and
6mm (2mm on several pairs of axes).  The metric of the lattice says which are possible; whether
the intensities have them is for the likelihood to say.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

_METRIC_TOLERANCE = 0.02


def symmetry_groups(basis_px: Array) -> list[Integers]:
    """Groups of index operations that the metric of the lattice allows, the half turn first.

    Parameters
    ----------
    basis_px
        Reduced basis, rows a and b, (2, 2).

    Returns
    -------
    list of (order, 2, 2)
        Row vectors of indices transform as ``index @ operation``.
    """
    metric = basis_px @ basis_px.T
    scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    rotations: list[Integers] = []
    mirrors: list[Integers] = []
    for entries in itertools.product((-1, 0, 1), repeat=4):
        op = np.array(entries, dtype=np.int64).reshape(2, 2)
        sense = round(float(np.linalg.det(op)))
        if abs(sense) != 1:
            continue
        if (np.abs(op @ metric @ op.T - metric) < _METRIC_TOLERANCE * scale).all():
            (rotations if sense == 1 else mirrors).append(op)
    half_turn = [np.eye(2, dtype=np.int64), -np.eye(2, dtype=np.int64)]
    groups = [np.stack(half_turn)]
    done: set[bytes] = set()
    for mirror in mirrors:
        if mirror.tobytes() not in done:
            groups.append(np.stack([*half_turn, mirror, -mirror]))
            done |= {mirror.tobytes(), (-mirror).tobytes()}
    if len(rotations) in (4, 6):
        groups.append(np.stack(rotations))
        if len(mirrors) == len(rotations):
            groups.append(np.stack(rotations + mirrors))
    return groups


def orbits(index: Integers, group: Integers) -> Integers:
    """The same number for all nodes that the group takes into each other, (n,)."""
    images = np.einsum("ni,oij->noj", index, group)
    # one integer per image, its maximum names the orbit
    names = (images[..., 0] * 4096 + images[..., 1]).max(axis=1)
    _, number = np.unique(names, return_inverse=True)
    return np.asarray(number.ravel(), dtype=np.int64)
