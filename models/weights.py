"""The shipped file: network, calibration and provenance in one ``.npz`` without pickle.

Arrays named ``network/...`` are the state of the U-Net (matrices in float16), ``calibration/...``
those of the score, the temperature and the out-of-distribution flag; ``about`` is a JSON text with
configuration, metrics and the hash of the network.  Reading never runs code.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = "lodestem-regions-1"
SHIPPED = Path(__file__).parent / "weights" / "regions.npz"
Arrays = dict[str, NDArray[Any]]


class WeightsError(ValueError):
    """A weights file is missing, damaged or of another format."""


@dataclass(frozen=True)
class Weights:
    """What a picker needs."""

    network: Arrays
    calibration: Arrays = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash of the network and the calibration, independent of compression."""
        digest = hashlib.sha256()
        for group in (self.network, self.calibration):
            for name in sorted(group):
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(group[name]).tobytes())
        return digest.hexdigest()


def save_weights(path: Path, weights: Weights) -> None:
    """Write a weights file; the directory is created."""
    network = {
        name: a.astype(np.float16) if a.ndim > 1 else a for name, a in weights.network.items()
    }
    rounded = Weights(network, weights.calibration, weights.about)
    about = {**weights.about, "format": FORMAT, "sha256": rounded.sha256}
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: Arrays = {f"network/{k}": v for k, v in network.items()}
    arrays |= {f"calibration/{k}": v for k, v in weights.calibration.items()}
    arrays["about"] = np.array(json.dumps(about))
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_weights(path: Path | None = None) -> Weights:
    """Read a weights file, the shipped one by default.

    Raises
    ------
    WeightsError
        The file is missing, damaged, holds pickled objects, or its hash does not match.
    """
    path = path or SHIPPED
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        about = json.loads(str(arrays.pop("about")))
    except FileNotFoundError:
        raise WeightsError(
            f"no weights at {path}; train them with `lodestem train --out DIR`, "
            f"or reinstall lodestem for the shipped ones"
        ) from None
    except (ValueError, KeyError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as problem:
        raise WeightsError(
            f"{path} is no lodestem weights file ({problem}); nothing was loaded. "
            f"Reinstall, or train again with `lodestem train`"
        ) from problem
    weights = Weights(
        network=_group(arrays, "network/"), calibration=_group(arrays, "calibration/"), about=about
    )
    if about.get("format") != FORMAT or about.get("sha256") != weights.sha256:
        raise WeightsError(
            f"{path} has format {about.get('format')!r} and a hash that "
            f"{'matches' if about.get('sha256') == weights.sha256 else 'does not match'} its "
            f"content; wanted {FORMAT!r} and a match. Nothing was loaded; reinstall or train again"
        )
    return weights


def _group(arrays: Arrays, prefix: str) -> Arrays:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
