"""``lodestem reconstruct``: one data set, or two results side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from controller.cli.files import all_exist
from controller.cli.output import InputError, Output, command
from controller.cli.reconstruct_ways import live_bar

if TYPE_CHECKING:
    from recon.export import ExportFormat


def reconstruct_command(  # noqa: PLR0913  (one per flag)
    data: Path | None,
    *,
    params: Path | None,
    out: Path | None,
    device: str,
    engine: str | None,
    resume: Path | None,
    vacuum: Path | None,
    export: list[str],
    compare: tuple[Path, Path] | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Reconstruct one data set, or compare two results."""
    with command("reconstruct", as_json=as_json, quiet=quiet) as output:
        if compare is not None:
            if data is not None:
                raise InputError(
                    "--compare takes two results and no data set", "drop the data set or --compare"
                )
            _compare(output, compare, out)
            return
        if data is None and resume is None:
            raise InputError(
                "no data set is given",
                "name one, or two results with --compare A B, or --resume DIR to go on",
            )
        all_exist([path for path in (data, resume, vacuum) if path is not None])
        request = _Request(data, params, out, device, engine, resume, vacuum, _formats(export))
        _reconstruct(output, request)


@dataclass(frozen=True)
class _Request:
    """What was asked for, flag by flag."""

    data: Path | None
    params: Path | None
    out: Path | None
    device: str
    engine: str | None
    resume: Path | None
    vacuum: Path | None
    exports: tuple[ExportFormat, ...]


def _formats(names: list[str]) -> tuple[ExportFormat, ...]:
    from recon.export import FORMATS

    wrong = [name for name in names if name not in FORMATS]
    if wrong:
        raise InputError(f"--export {wrong[0]} is not known", f"known are {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in names)


def _reconstruct(output: Output, request: _Request) -> None:
    from recon.errors import ReconError
    from recon.output import reconstruct_file
    from recon.params import ReconstructionParams

    device, data, out = request.device, request.data, request.out
    devices = get_args(ReconstructionParams.model_fields["device"].annotation)
    if device not in devices:
        raise InputError(f"--device {device} is not {', '.join(devices[:-1])} or {devices[-1]}")
    if data is not None and request.resume is None:
        out = out or data.with_name(f"{data.stem}-reconstruction")
    try:
        settings = ReconstructionParams.from_yaml(request.params) if request.params else None
        if request.engine is not None:
            settings = (settings or ReconstructionParams()).updated(engine=request.engine)
        with live_bar(output) as tell:
            summary = reconstruct_file(
                data,
                out,
                settings,
                resume=request.resume,
                device=device,
                progress=tell,
                vacuum=request.vacuum,
                exports=request.exports,
            )
    except ReconError as error:
        raise InputError(str(error)) from error
    _warn(output, summary)
    output.result(summary, f"{summary.get('verdict', '')}\n{request.resume or out}")


def _compare(output: Output, compare: tuple[Path, Path], out: Path | None) -> None:
    from recon.compare import compare_files
    from recon.errors import ReconError

    all_exist(list(compare))
    try:
        summary = compare_files(*compare, out)
    except ReconError as error:
        raise InputError(str(error)) from error
    _warn(output, summary)
    output.result(summary, f"{summary['verdict']}\n{summary['outputs']['page']}")


def _warn(output: Output, summary: dict[str, Any]) -> None:
    for text in summary.get("warnings") or ():
        output.warn(str(text))
