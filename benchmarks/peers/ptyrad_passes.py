"""Time passes of PtyRAD; run by an interpreter of its own environment, never by ours.

    PEER_PYTHON ptyrad_passes.py FOLDER PASSES THREADS BATCH

FOLDER holds what ``recon.export.ptyrad`` writes. Prints one JSON line: wall and CPU seconds of
every pass, as PtyRAD runs them (its own optimiser, losses, constraints and batches).
"""

import json
import os
import sys
import time


def main() -> None:
    """Run, with the clock on every pass."""
    folder, passes, threads, batch = sys.argv[1], *map(int, sys.argv[2:5])
    os.chdir(folder)
    import torch
    from ptyrad.params import load_params
    from ptyrad.solver import PtyRADSolver, reconstruction

    torch.set_num_threads(threads)
    params = load_params("params.yaml", validate=True)
    params["recon_params"]["NITER"] = passes
    params["recon_params"]["SAVE_ITERS"] = None
    params["recon_params"]["BATCH_SIZE"]["size"] = batch
    wall_s, cpu_s = [], []
    step = reconstruction.recon_step

    def timed(*args: object, **kwargs: object) -> object:
        wall, cpu = time.perf_counter(), time.process_time()
        out = step(*args, **kwargs)
        wall_s.append(time.perf_counter() - wall)
        cpu_s.append(time.process_time() - cpu)
        return out

    reconstruction.recon_step = timed
    PtyRADSolver(params, device="cpu", seed=1).run()
    print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s}))


main()
