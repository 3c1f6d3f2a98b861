"""Verbs that work on files, without an instrument: align, segment, reconstruct, train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.cli.app import Json, Out, Quiet, app, verb


@app.command()
def align(
    inputs: Annotated[list[Path], typer.Argument(help="Images or pattern stacks.")],
    energy_keV: Annotated[float | None, typer.Option("--energy-keV")] = None,
    inv_A_per_px: Annotated[
        float | None, typer.Option("--inv-A-per-px", help="Camera constant, 1/A per pixel.")
    ] = None,
    structure: Annotated[Path | None, typer.Option(help="CIF file.")] = None,
    zone: Annotated[str | None, typer.Option(help="Target zone axis, e.g. 0,0,1.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Draw the fit here (PNG).")] = None,
    pose: Annotated[
        str | None, typer.Option(help="Goniometer reading alpha,beta in deg, e.g. --pose=3.2,-1.1.")
    ] = None,
    limits: Annotated[
        str | None, typer.Option(help="Reach alpha_lo,alpha_hi,beta_lo,beta_hi in deg.")
    ] = None,
    tilt_axis_azimuth_deg: Annotated[
        float | None,
        typer.Option("--tilt-axis-azimuth-deg", help="Alpha axis on the camera, +x towards +y."),
    ] = None,
    mirrored: Annotated[bool, typer.Option("--mirrored", help="The camera mirrors.")] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="Calibration file: azimuth and handedness from there.")
    ] = None,
    stereogram: Annotated[
        Path | None, typer.Option(help="Draw the zones within reach here (SVG, PNG, PDF).")
    ] = None,
    orientation: Annotated[
        Path | None, typer.Option(help="Export orientation and reading here (JSON, or .ub).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read the tilt of a crystal from diffraction patterns.

    Examples: `lodestem align pattern.tif --energy-keV 300 --inv-A-per-px 0.01 --overlay fit.png`;
    with `--pose=3.2,-1.1 --tilt-axis-azimuth-deg -62` it proposes a move.
    """
    align_command = verb("files", "align_command")
    from controller.cli.holder import HolderFlags

    align_command(
        inputs,
        energy_keV=energy_keV,
        inv_A_per_px=inv_A_per_px,
        structure=structure,
        zone=zone,
        overlay=overlay,
        holder=HolderFlags(pose, limits, tilt_axis_azimuth_deg, mirrored, calibration),
        stereogram=stereogram,
        orientation=orientation,
        as_json=as_json,
    )


@app.command()
def segment(
    inputs: Annotated[list[Path], typer.Argument(help="Images or image stacks.")],
    pixel_size_nm: Annotated[float | None, typer.Option("--pixel-size-nm")] = None,
    mode: Annotated[str | None, typer.Option(help="BF or HAADF.")] = None,
    gain: Annotated[float | None, typer.Option(help="Detector values per electron.")] = None,
    offset: Annotated[float | None, typer.Option(help="Detector value of no electron.")] = None,
    out: Out = None,
    overlay: Annotated[bool, typer.Option(help="Draw a PNG per image.")] = False,
    weights: Annotated[
        Path | None, typer.Option(help="Weights of `lodestem train` instead of the shipped ones.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="auto, onnx (needs no torch) or torch.")] = "auto",
    as_json: Json = False,
) -> None:
    """Find usable crystals in survey pictures.

    Example: `lodestem segment survey.tif --pixel-size-nm 10 --mode BF --out regions --overlay`.
    """
    segment_command = verb("files", "segment_command")

    segment_command(
        inputs,
        pixel_size_nm=pixel_size_nm,
        mode=mode,
        gain=gain,
        offset=offset,
        out=out,
        overlay=overlay,
        weights=weights,
        runtime=runtime,
        as_json=as_json,
    )


@app.command()
def reconstruct(
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Scan files: HDF5, .npy, EMPAD .raw, .mib, DECTRIS master, EMD."),
    ] = None,
    params: Annotated[Path | None, typer.Option(help="Parameters (YAML).")] = None,
    out: Out = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    engine: Annotated[
        str | None,
        typer.Option(help="multislice, or a direct method: parallax, icom, dpc, ssb."),
    ] = None,
    virtual: Annotated[
        str | None,
        typer.Option(help="Virtual images instead: bf,abf,adf,20-40,0-12@45-135 (mrad, deg)."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with an interrupted reconstruction in this folder.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Dask scheduler for many scans: local, or an address."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Local worker processes.", min=1)] = None,
    search: Annotated[
        int | None, typer.Option(help="Try so many settings, keep the best by likelihood.", min=2)
    ] = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="One of several processes under torchrun.")
    ] = False,
    vacuum: Annotated[
        Path | None, typer.Option(help="Pattern(s) without a specimen, same optics.")
    ] = None,
    export: Annotated[
        list[str] | None, typer.Option(help="Also write for ptyrad or py4dstem; may repeat.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Two results side by side instead of DATA.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn a 4D-STEM data set into a phase image and say how good it is.

    Example: `lodestem reconstruct scan.h5 --out result`. Two results side by side:
    `lodestem reconstruct --compare first second --out comparison`. Many scans:
    `lodestem reconstruct *.h5 --out results`; exits 5 if one of them failed.
    """
    alone = {"--vacuum": vacuum, "--export": export, "--compare": compare}
    many = scheduler is not None or (data is not None and len(data) > 1)
    if many or distributed or virtual is not None or search is not None:
        verb("reconstruct_ways", "refuse_mixture")(alone, as_json=as_json)
    one = data[0] if data else None
    if many:
        many_command = verb("reconstruct_ways", "many_command")
        many_command(
            data or [],
            out=out,
            params=params,
            changes={"device": device, "engine": engine},
            scheduler=scheduler or "local",
            workers=workers,
            as_json=as_json,
            quiet=quiet,
        )
        return
    if distributed:
        distributed_command = verb("reconstruct_ways", "distributed_command")
        distributed_command(
            one,
            out=out,
            params=params,
            changes={"device": device, "engine": engine},
            resume=resume,
            as_json=as_json,
            quiet=quiet,
        )
        return
    if virtual is not None:
        virtual_command = verb("reconstruct_ways", "virtual_command")
        virtual_command(one, virtual, out=out, as_json=as_json, quiet=quiet)
        return
    if search is not None:
        search_command = verb("reconstruct_ways", "search_command")
        search_command(
            one, search, out=out, params=params, device=device, as_json=as_json, quiet=quiet
        )
        return
    reconstruct_command = verb("reconstruct", "reconstruct_command")

    reconstruct_command(
        one,
        params=params,
        out=out,
        device=device,
        engine=engine,
        resume=resume,
        vacuum=vacuum,
        export=export or [],
        compare=compare,
        as_json=as_json,
        quiet=quiet,
    )


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for checkpoints and weights.")],
    config: Annotated[Path | None, typer.Option(help="Training configuration (YAML).")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train, evaluate and export the region model; resumes from a checkpoint in the folder."""
    train_command = verb("files", "train_command")

    train_command(config=config, out=out, seed=seed, as_json=as_json, quiet=quiet)


@app.command(name="fine-tune")
def fine_tune(
    corrections: Annotated[
        list[Path], typer.Argument(help="Image stacks with /images/<id> and /labels/<id>.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the new weights.")],
    weights: Annotated[
        Path | None, typer.Option(help="Weights to start from; the shipped ones by default.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1)] = 200,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Loss of IoU of any class on drawn scenes to accept.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn from corrected survey pictures; refused if any class gets worse on drawn scenes."""
    fine_tune_command = verb("files", "fine_tune_command")

    fine_tune_command(
        corrections,
        out=out,
        weights=weights,
        steps=steps,
        tolerance=tolerance,
        seed=seed,
        as_json=as_json,
        quiet=quiet,
    )
