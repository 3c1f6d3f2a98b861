"""What a DECTRIS detector would send: images packed by the HDF5 filters themselves."""

from __future__ import annotations

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray


def pack(image: NDArray[np.generic], algorithm: str = "bslz4", block: int = 0) -> bytes:
    """One image as the chunk that HDF5 would store."""
    if algorithm == "bslz4":
        filters = hdf5plugin.Bitshuffle(nelems=block, cname="lz4")
    else:
        filters = hdf5plugin.LZ4(nbytes=block)
    with h5py.File("packed", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset(
            "image", image.shape, image.dtype, chunks=image.shape, **filters
        )
        dataset[...] = image
        return bytes(dataset.id.read_direct_chunk((0, 0))[1])
