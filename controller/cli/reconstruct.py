"""``lodestem reconstruct``: one data set, or two results side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from controller.cli.files import all_exist, fraction_bar
from controller.cli.output import InputError, Output, command

if TYPE_CHECKING:
    from recon.export import ExportFormat


def reconstruct_command(  # noqa: PLR0913  (one per flag)
    data: Path | None,
    *,
    params: Path | None,
    out: Path | None,
    device: str,
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
        if data is None:
            raise InputError("no data set is given", "name one, or two results with --compare A B")
        all_exist([data, *([vacuum] if vacuum else [])])
        _reconstruct(output, data, params=params, out=out, device=device, vacuum=vacuum,
                     exports=_formats(export))  # fmt: skip


def _formats(names: list[str]) -> tuple[ExportFormat, ...]:
    from recon.export import FORMATS

    wrong = [name for name in names if name not in FORMATS]
    if wrong:
        raise InputError(f"--export {wrong[0]} is not known", f"known are {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in names)


def _reconstruct(
    output: Output,
    data: Path,
    *,
    params: Path | None,
    out: Path | None,
    device: str,
    vacuum: Path | None,
    exports: tuple[ExportFormat, ...],
) -> None:
    from recon.errors import ReconError
    from recon.output import reconstruct_file
    from recon.params import ReconstructionParams

    devices = get_args(ReconstructionParams.model_fields["device"].annotation)
    if device not in devices:
        raise InputError(f"--device {device} is not {', '.join(devices[:-1])} or {devices[-1]}")
    out = out or data.with_name(f"{data.stem}-reconstruction")
    try:
        settings = ReconstructionParams.from_yaml(params) if params else ReconstructionParams()
        settings = settings.model_copy(update={"device": device})
        with fraction_bar(output) as tell:
            summary = reconstruct_file(
                data, out, settings, progress=tell, vacuum=vacuum, exports=exports
            )
    except ReconError as error:
        raise InputError(str(error)) from error
    _warn(output, summary)
    output.result(summary, f"{summary.get('verdict', '')}\n{out}")


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
