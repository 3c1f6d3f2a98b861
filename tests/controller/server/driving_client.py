"""A client process that drives without pause, until it is killed: exposures, moves, optics."""

from __future__ import annotations

import random
import sys
import time
from uuid import UUID, uuid4

from controller.hardware.errors import MicroscopeError, ModeError
from controller.hardware.values import Exposure, OpticsChange, PartialPose, Purpose
from controller.server.client import RemoteMicroscope, connect


def main(url: str, seed: int) -> None:
    rng = random.Random(seed)
    with connect(url, name=f"driver {seed}", role="agent") as microscope:
        for _ in range(100):
            try:
                drive(microscope, rng)
            except ModeError as problem:
                if "earlier lease" not in str(problem):
                    raise
                time.sleep(0.1)  # whoever drove before has not come to rest


def drive(microscope: RemoteMicroscope, rng: random.Random) -> None:
    with microscope.drive():
        print("driving", flush=True)  # noqa: T201
        camera = microscope.capabilities.detectors[0].name
        while True:
            exposure_id: UUID = uuid4()
            try:
                if rng.random() < 0.75:
                    print(f"expose {exposure_id}", flush=True)  # noqa: T201
                    microscope.expose(
                        Exposure(
                            exposure_id=exposure_id,
                            area="S00",
                            purpose=Purpose.SURVEY,
                            detector=camera,
                            duration_s=rng.choice([0.05, 0.3, 1.5]),
                        )
                    )
                elif rng.random() < 0.5:
                    microscope.stage.move(PartialPose(x_um=rng.uniform(-2, 2)))
                else:
                    microscope.optics.apply(OpticsChange(defocus_nm=rng.uniform(-500, 500)))
            except MicroscopeError as problem:
                print(f"failed {type(problem).__name__}: {problem}", flush=True)  # noqa: T201
                time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
