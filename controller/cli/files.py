"""``lodestem align | segment | simulate | train``: files in, files out."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress

from controller.cli.holder import HolderFlags, drawable, stage_given
from controller.cli.output import InputError, Output, command

SIMULATORS = "lodestem.simulators"
"""Entry points that write data sets of a scenario: the simulator is found, never imported."""


def align_command(  # noqa: PLR0913  (one per flag)
    inputs: list[Path],
    *,
    energy_keV: float | None,
    inv_A_per_px: float | None,
    structure: Path | None,
    zone: str | None,
    overlay: Path | None,
    holder: HolderFlags,
    stereogram: Path | None,
    orientation: Path | None,
    as_json: bool,
) -> None:
    """Read tilts from pattern files."""
    with command("align", as_json=as_json) as output:
        all_exist(inputs)
        from controller.perception.alignment import (
            AlignmentInputError,
            Calibration,
            Pictures,
            StructureError,
            align_files,
            structure_from_cif,
        )

        try:
            given = Calibration(
                energy_keV=energy_keV,
                inv_A_per_px=inv_A_per_px,
                structure=None if structure is None else structure_from_cif(structure),
                target_zone_uvw=parse_zone(zone),
            )
            result = align_files(
                inputs,
                given,
                stage=stage_given(holder, stereogram or orientation),
                pictures=Pictures(overlay, drawable(stereogram), orientation),
            )
        except (AlignmentInputError, StructureError) as error:
            raise InputError(str(error), "see `lodestem align --help`") from error
        for kind, wanted in (("stereograms", stereogram), ("orientations", orientation)):
            if wanted is not None and not result.get(kind):
                output.warn(
                    f"no {kind[:-1]} was written: it needs an answer with the structure known, and "
                    f"the goniometer's reading"
                )
        output.result(result, "\n".join(_tilt_line(k, r) for k, r in result["patterns"].items()))


def parse_zone(text: str | None) -> tuple[int, int, int] | None:
    """``0,0,1`` to (0, 0, 1).

    Raises
    ------
    InputError
        Not three integers, or all zero.
    """
    if text is None:
        return None
    try:
        h, k, m = (int(part) for part in text.replace(" ", ",").split(",") if part)
    except ValueError:
        raise InputError(f"--zone {text}: three integers are wanted", "e.g. --zone 0,0,1") from None
    if (h, k, m) == (0, 0, 0):
        raise InputError("--zone 0,0,0 is no direction", "e.g. --zone 0,0,1")
    return h, k, m


def _tilt_line(name: str, record: dict[str, Any]) -> str:
    if not record["answered"]:
        return f"{name}: no answer: {record['reason']}"
    line = (
        f"{name}: tilt ({record['tilt_x_mrad']:+.2f}, {record['tilt_y_mrad']:+.2f}) mrad "
        f"+- {record['sigma_mrad']:.2f}, {record['misorientation_deg']:.3f} deg, {record['mode']}"
    )
    move = record.get("move")
    if move is None:
        return line
    left = math.hypot(
        move["residual_misorientation_deg"], math.degrees(1e-3 * move["residual_sigma_mrad"])
    )
    beyond = "" if move["reachable"] else " (as near as the holder gets)"
    return (
        f"{line}; go to alpha {move['tilt_alpha_deg']:+.2f}, beta {move['tilt_beta_deg']:+.2f} deg"
        f"{beyond}: {left:.2f} deg expected"
    )


def segment_command(  # noqa: PLR0913  (one per flag)
    inputs: list[Path],
    *,
    pixel_size_nm: float | None,
    mode: str | None,
    gain: float | None,
    offset: float | None,
    out: Path | None,
    overlay: bool,
    weights: Path | None,
    runtime: str,
    as_json: bool,
) -> None:
    """Find regions in image files."""
    with command("segment", as_json=as_json) as output:
        all_exist([*inputs, *([weights] if weights else [])])
        from models.frames import ImageError
        from models.image_files import ImageFlags
        from models.network import Runtime, RuntimeMissingError
        from models.segment_files import segment_files
        from models.weights import WeightsError

        if runtime not in get_args(Runtime):
            raise InputError(f"--runtime is {runtime!r}", f"one of {', '.join(get_args(Runtime))}")
        if overlay and out is None:
            raise InputError("--overlay needs --out", "give the folder for the pictures")
        try:
            flags = ImageFlags.model_validate(
                {"mode": mode, "pixel_size_nm": pixel_size_nm, "gain": gain, "offset": offset}
            )
            with bar(output, "images") as advance:
                result = segment_files(
                    inputs,
                    out,
                    flags=flags,
                    weights=weights,
                    runtime=cast(Runtime, runtime),
                    overlay=overlay,
                    progress=advance,
                )
        except ValidationError as error:
            raise InputError(_flags(error), "see `lodestem segment --help`") from error
        except (ImageError, WeightsError, RuntimeMissingError) as error:
            raise InputError(str(error)) from error
        lines = []
        for name, field in result.items():
            best = field["picks"][0] if field["picks"] else None
            said = (
                f"abstains: {field['reason']}"
                if field["abstained"] or best is None
                else f"{len(field['picks'])} picks, best {best['score']:.2f} at "
                f"({best['x_px']:.0f}, {best['y_px']:.0f}) px"
            )
            lines.append(f"{name}: {said}")
        output.result({"images": result}, "\n".join(lines))


def simulate_command(
    scenario: str, *, out: Path, seed: int, faults: tuple[str, ...], as_json: bool
) -> None:
    """Write the data of a scenario."""
    with command("simulate", as_json=as_json) as output:
        found = {entry.name: entry for entry in entry_points(group=SIMULATORS)}
        if "sim" not in found:
            raise InputError("no simulator is installed", "pip install 'lodestem[sim]'")
        write_dataset: Callable[..., dict[str, Any]] = found["sim"].load()
        try:
            result = write_dataset(scenario, out, seed=seed, faults=faults)
        except ValueError as error:
            raise InputError(str(error), "nothing was written") from error
        output.result(result, str(out))


def train_command(
    *, config: Path | None, out: Path, seed: int | None, as_json: bool, quiet: bool
) -> None:
    """Train the region model."""
    with command("train", as_json=as_json, quiet=quiet) as output:
        from models.train import train
        from models.train_config import TrainConfig

        try:
            settings = TrainConfig.from_yaml(config) if config else TrainConfig()
            if seed is not None:
                settings = TrainConfig.model_validate(settings.model_dump() | {"seed": seed})
        except (ValidationError, OSError) as error:
            raise InputError(str(error), "see docs/regions.md") from error
        try:
            result = train(settings, out, progress=_tenths(output))
        except ValueError as error:
            raise InputError(str(error)) from error
        output.result(
            {"weights": str(result.weights), "model_card": str(result.model_card)},
            str(result.weights),
        )


def fine_tune_command(
    corrections: list[Path],
    *,
    out: Path,
    weights: Path | None,
    steps: int,
    tolerance: float,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Learn from corrected survey images."""
    with command("fine-tune", as_json=as_json, quiet=quiet) as output:
        all_exist([*corrections, *([weights] if weights else [])])
        from models.classes import CLASS_NAMES
        from models.corrections import read_corrections
        from models.fine_tune import FineTuning, fine_tune
        from models.weights import load_weights

        try:
            given = read_corrections(corrections)
            settings = FineTuning(steps=steps, tolerance=tolerance, seed=seed)
            done = fine_tune(load_weights(weights), given, out, settings, _tenths(output))
        except ValueError as error:  # images, weights, settings, and the refusal itself
            raise InputError(str(error)) from error
        iou = {
            name: {"before": before, "after": after}
            for name, before, after in zip(
                CLASS_NAMES, done.iou_before, done.iou_after, strict=True
            )
        }
        output.result(
            {
                "weights": str(done.weights),
                "right_before": done.right_before,
                "right_after": done.right_after,
                "iou": iou,
            },
            f"{done.weights}: {done.right_before:.3f} to {done.right_after:.3f} of the corrected "
            f"pixels right; no class lost on drawn scenes",
        )


def _tenths(output: Output) -> Callable[[str, int, int, float], None]:
    """One line per stage and tenth of it."""
    said: dict[str, int] = {}

    def tell(stage: str, done: int, total: int, value: float) -> None:
        tenth = 10 * done // max(total, 1)
        if said.get(stage) != tenth:
            said[stage] = tenth
            output.say(f"{stage}: {done} of {total}, {value:.4g}")

    return tell


class bar:  # noqa: N801  used like a function
    """A bar on stderr for n of m; silent where stderr is no terminal."""

    def __init__(self, output: Output, what: str) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            console=console, transient=True, disable=output.quiet or not console.is_terminal
        )
        self._task = self._progress.add_task(what)

    def __enter__(self) -> Callable[[int, int], None]:
        self._progress.start()
        return lambda done, total: self._progress.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def all_exist(paths: list[Path]) -> None:
    """Refuse names of files that are not there."""
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist", "check the name")


def _flags(error: ValidationError) -> str:
    return "; ".join(
        f"--{str(p['loc'][0]).replace('_', '-')} {p['input']}: {p['msg']}" for p in error.errors()
    )
