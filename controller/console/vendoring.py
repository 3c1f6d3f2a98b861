"""The two JavaScript libraries that travel in the wheel: fetched once, locked by checksum.

``python -m controller.console.vendoring`` copies them from their npm packages by the npm client and
refuses files whose SHA-256 is not the one in ``vendor.lock.json``; ``--renew`` writes the lock
anew.  Nothing is fetched when the console runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).with_name("static") / "vendor"
LOCK = VENDOR / "vendor.lock.json"
WANTED = {
    "htmx.org": {"dist/htmx.min.js": "htmx.min.js", "LICENSE": "htmx.LICENSE"},
    "uplot": {
        "dist/uPlot.esm.js": "uplot.js",
        "dist/uPlot.min.css": "uplot.css",
        "LICENSE": "uplot.LICENSE",
    },
}
"""npm package, file in it, file here."""


def checksums() -> dict[str, str]:
    """SHA-256 of every vendored file as it lies here."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(VENDOR.iterdir())
        if path != LOCK
    }


def locked() -> dict[str, str]:
    """SHA-256 of every file as the lock has it."""
    lock = json.loads(LOCK.read_text(encoding="utf-8"))
    return {name: sha for package in lock["packages"] for name, sha in package["files"].items()}


def fetch(package: str, version: str, folder: Path) -> None:
    """Copy the wanted files of an npm package here."""
    subprocess.run(["npm", "pack", "--silent", f"{package}@{version}"], cwd=folder, check=True)
    (tarball,) = folder.glob("*.tgz")
    with tarfile.open(tarball) as archive:
        for inside, here in WANTED[package].items():
            member = archive.extractfile(f"package/{inside}")
            if member is None:
                raise FileNotFoundError(f"{package} {version} has no {inside}")
            (VENDOR / here).write_bytes(member.read())
    tarball.unlink()


def main() -> None:
    """Fetch, and compare with the lock or renew it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renew", action="append", default=[], metavar="PACKAGE=VERSION")
    renew = dict(pair.split("=", 1) for pair in parser.parse_args().renew)
    lock = json.loads(LOCK.read_text(encoding="utf-8")) if LOCK.exists() else {"packages": []}
    versions = {p["name"]: p["version"] for p in lock["packages"]} | renew
    VENDOR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for package in WANTED:
            fetch(package, versions[package], Path(scratch))
    found = checksums()
    if not renew:
        changed = sorted(name for name, sha in found.items() if locked().get(name) != sha)
        if changed:
            raise SystemExit(f"not what the lock says: {', '.join(changed)}")
        return
    packages = [
        {
            "name": package,
            "version": versions[package],
            "files": {here: found[here] for here in files.values()},
        }
        for package, files in WANTED.items()
    ]
    LOCK.write_text(json.dumps({"packages": packages}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
