"""``torchrun --nproc-per-node N -m recon.distributed DATA --out DIR``: one scan, N processes.

Exit status: 0 done, 2 the request or the data cannot be used, 6 another process is gone (the
checkpoint is kept).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from recon.distributed.run import reconstruct_together
from recon.distributed.team import TeamError
from recon.errors import ReconError
from recon.params import ReconstructionParams


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, print: the summary on stdout by the first process only."""
    parser = argparse.ArgumentParser(prog="torchrun -m recon.distributed", description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="4D-STEM data; with --resume not needed")
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on from the checkpoint here")
    parser.add_argument("--params", type=Path, help="parameters (YAML)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--timeout-s", type=float, default=600.0, help="wait for the others")
    given = parser.parse_args(arguments)
    try:
        params = ReconstructionParams.from_yaml(given.params) if given.params else None
        summary = reconstruct_together(
            given.data,
            given.out,
            params,
            resume=given.resume,
            device=given.device,
            timeout_s=given.timeout_s,
        )
    except ReconError as problem:
        sys.stderr.write(f"{problem}\n")
        return 6 if isinstance(problem, TeamError) else 2
    if summary is not None:
        sys.stdout.write(json.dumps(summary, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
