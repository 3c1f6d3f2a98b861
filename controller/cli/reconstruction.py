"""The other ways of ``lodestem reconstruct``: virtual images, many scans, a search of settings."""

from pathlib import Path

from controller.cli.output import InputError, command


def virtual_command(
    data: Path | None, detectors: str, *, out: Path | None, as_json: bool, quiet: bool
) -> None:
    """Images of virtual detectors instead of a reconstruction."""
    with command("reconstruct", as_json=as_json, quiet=quiet) as output:
        scan = existing(data)
        from recon.direct.virtual_images import virtual_images_of_file
        from recon.errors import ReconError

        out = out or scan.with_name(f"{scan.stem}-virtual")
        try:
            summary = virtual_images_of_file(scan, out, detectors.split(","))
        except ReconError as error:
            raise InputError(str(error)) from error
        output.result(summary, f"{summary['verdict']}\n{out}")


def existing(data: Path | None) -> Path:
    """Return the path of a scan that is there."""
    if data is None:
        raise InputError("no data", "give a scan")
    if not data.exists():
        raise InputError(f"{data} does not exist", "check the name")
    return data
