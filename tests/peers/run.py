"""Install each peer in an environment of its own, run its tests there, and say what ran.

``python tests/peers/run.py [NAME ...]``; environments live in ``.peers``.  A peer that cannot be
installed is named with the reason and does not fail the run (with ``--all`` it does); a peer that
was installed has to pass.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / ".peers"
TESTING = ("pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100")
EMULATOR = "https://github.com/instamatic-dev/instamatic-TEM-emulator"
TIMEOUT_S = 1800


@dataclass(frozen=True)
class Peer:
    """What is installed, and which tests meet it."""

    name: str
    environment: str
    packages: tuple[str, ...]
    tests: str
    sources: dict[str, str] = field(default_factory=dict)
    """Environment variable of the tests by repository that is cloned for it."""


LIBERTEM = (
    "libertem-live[sim]==0.3.0",
    "libertem-dectris==0.3.2",
    "libertem-qd-mpx==0.3.2",
    "flask==3.1.3",
    "requests==2.34.2",
    "bitshuffle==0.5.2",
    "cbor2>=5.6",
    "hdf5plugin>=4",
)
# its simulator crashes on the frozen maps of cbor2 6
TICKIT = ("tickit-devices==0.4.1", "cbor2==5.9.0", "hdf5plugin>=4")

PEERS = (
    Peer("temscript", "temscript", ("temscript==2.1.0",), "test_temscript.py"),
    Peer("served", "temscript", ("temscript==2.1.0",), "test_served_temscript.py"),
    Peer("instamatic", "instamatic", ("instamatic==2.2.2",), "test_instamatic.py"),
    Peer(
        "tem-emulator",
        "instamatic",
        ("instamatic==2.2.2", "diffpy.structure", "diffsims", "orix", "tqdm"),
        "test_tem_emulator.py",
        {"LODESTEM_TEM_EMULATOR": EMULATOR},
    ),
    Peer(
        "usim",
        "nion",
        ("nionswift", "nionswift-instrumentation", "nionswift-usim==5.4.2"),
        "test_nion_usim.py",
    ),
    Peer("pytemscript", "pytemscript", ("pytemscript==3.0.1",), "test_pytemscript_client.py"),
    Peer("merlin", "libertem-live", LIBERTEM, "test_merlin_simulator.py"),
    Peer("dectris", "libertem-live", LIBERTEM, "test_dectris_simulator.py"),
    Peer("eiger", "tickit", TICKIT, "test_eiger_simulator.py"),
)


def main(arguments: list[str]) -> int:
    """Run the peers that are named, or all."""
    strict = "--all" in arguments
    names = [name for name in arguments if not name.startswith("-")]
    chosen = [peer for peer in PEERS if not names or peer.name in names]
    lines, failed = [], False
    for peer in chosen:
        try:
            python = install(peer)
            extra = fetch(peer)
        except (subprocess.SubprocessError, OSError) as problem:
            lines.append(f"NOT RUN  {peer.name}: {reason(problem)}")
            failed = failed or strict
            continue
        passed, summary = run(peer, python, extra)
        lines.append(f"{'passed ' if passed else 'FAILED '}  {peer.name}: {summary}")
        failed = failed or not passed
    print("\n".join(["", "peers:", *lines]))
    return int(failed)


def install(peer: Peer) -> Path:
    """Make the environment and return its Python."""
    folder = BUILD / peer.environment
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        call([sys.executable, "-m", "venv", str(folder)])
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call([*pip, *TESTING, *needed, *peer.packages])
    call([*pip, "--no-deps", "-e", str(ROOT)])
    return python


def fetch(peer: Peer) -> dict[str, str]:
    """Clone what is no package; a folder that the environment names already is used as it is."""
    found = {}
    for variable, url in peer.sources.items():
        if variable in os.environ:
            continue
        folder = BUILD / "sources" / url.rsplit("/", 1)[1]
        if not folder.exists():
            git = shutil.which("git")
            if git is None:
                raise OSError("git is missing")
            call([git, "clone", "--quiet", "--depth", "1", url, str(folder)])
        start = next(folder.rglob("start_server.py"))
        found[variable] = str(start.parent)
    return found


def run(peer: Peer, python: Path, extra: dict[str, str]) -> tuple[bool, str]:
    """Run the tests of one peer; whether they passed, and pytest's last line."""
    test = ROOT / "tests" / "peers" / peer.tests
    command = [str(python), "-m", "pytest", "-q", "-W", "default", "-m", "peers", str(test)]
    environment = {**os.environ, **extra}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    print(done.stdout[-4000:] if done.returncode else done.stdout[-200:], flush=True)
    last = [line for line in done.stdout.splitlines() if line.strip()][-1:]
    return done.returncode == 0, last[0] if last else f"exit code {done.returncode}"


def call(command: list[str]) -> None:
    """Run a command that has to succeed."""
    quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=600, env=quiet)


def reason(problem: Exception) -> str:
    """Last line of what a failed command said."""
    said = getattr(problem, "stderr", "") or str(problem)
    lines = [line for line in str(said).splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or [type(problem).__name__])[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
