"""``lodestem calibrate``: tilt axes, camera and beam tilt, each measured on a standard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.cli.app import Json, Quiet, app, verb

calibrate_app = typer.Typer(
    help="Measure tilt axes, camera and beam tilt on a standard, and store them with their date.",
    no_args_is_help=True,
)
app.add_typer(calibrate_app, name="calibrate")

Files = Annotated[
    list[Path] | None,
    typer.Option("--files", help="Recorded patterns instead of an instrument; may be repeated."),
]
Plan = Annotated[Path | None, typer.Option(help="Plan file that names the instrument.")]
Backend = Annotated[str | None, typer.Option(help="Driver, if there is no plan. Default: sim.")]
ScenarioOption = Annotated[str | None, typer.Option(help="Scenario of the simulator.")]
SeedOption = Annotated[int | None, typer.Option(min=0, help="Of the simulator.")]
At = Annotated[str | None, typer.Option(help="Specimen point x,y in um; default: where it is.")]
Store = Annotated[Path, typer.Option("--out", "-o", help="Calibration file; results are added.")]
Save = Annotated[Path | None, typer.Option(help="Keep the patterns here (HDF5).")]
RunFolder = Annotated[Path | None, typer.Option("--run", help="Folder of the dose ledger.")]
Sampling = Annotated[
    float, typer.Option("--detector-sampling-mrad", min=0.01, help="Nominal angle per pixel.")
]
Diameter = Annotated[float, typer.Option("--beam-diameter-nm", min=20, help="On the specimen.")]
Electrons = Annotated[float, typer.Option(min=1e3, help="Per pattern.")]
EnergyOption = Annotated[float | None, typer.Option("--energy-keV", help="Of files that lack it.")]
ScaleOption = Annotated[
    float | None, typer.Option("--inv-A-per-px", help="Nominal, of files that lack it.")
]
Zone = Annotated[str | None, typer.Option(help="Zone axis near the beam. Default: 0,0,1.")]
Cif = Annotated[Path | None, typer.Option(help="CIF of the crystal.")]


@calibrate_app.command("tilt-axes")
def calibrate_tilt_axes(
    files: Files = None,
    plan: Plan = None,
    backend: Backend = None,
    scenario: ScenarioOption = None,
    seed: SeedOption = None,
    at: At = None,
    structure: Cif = None,
    zone: Zone = None,
    step_deg: Annotated[float, typer.Option(min=0.3, max=10, help="Tilt to both sides.")] = 1.0,
    reading_sigma_deg: Annotated[
        float, typer.Option(min=0.001, max=1, help="One sigma of a goniometer reading.")
    ] = 0.01,
    beam_diameter_nm: Diameter = 400.0,
    electrons: Electrons = 2e5,
    detector_sampling_mrad: Sampling = 0.25,
    energy_keV: EnergyOption = None,
    inv_A_per_px: ScaleOption = None,
    out: Store = Path("calibration.yaml"),
    save: Save = None,
    run_folder: RunFolder = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Azimuth and handedness of alpha and beta on the camera, from small tilts of a crystal.

    Put a robust crystal, within two degrees of a zone axis, under the beam at eucentric height.
    Example: `lodestem calibrate tilt-axes --plan night.yaml --structure SrTiO3.cif --zone 0,0,1`.
    """
    from controller.cli.calibrate import Lighting, Source, Specimen

    command = verb("calibrate", "calibrate_command")
    command(
        "tilt-axes",
        source=Source(
            tuple(files or ()), energy_keV, inv_A_per_px, backend, scenario, seed, plan, at,
            run_folder, save,
        ),
        lighting=Lighting(beam_diameter_nm, electrons, detector_sampling_mrad, step_deg),
        specimen=Specimen(structure, zone, reading_sigma_deg),
        out=out,
        as_json=as_json,
        quiet=quiet,
    )  # fmt: skip


@calibrate_app.command("camera")
def calibrate_camera(
    files: Files = None,
    plan: Plan = None,
    backend: Backend = None,
    scenario: ScenarioOption = None,
    seed: SeedOption = None,
    at: At = None,
    standard: Annotated[Path | None, typer.Option(help="CIF of the standard. Default: Au.")] = None,
    beam_diameter_nm: Diameter = 500.0,
    electrons: Electrons = 1e6,
    detector_sampling_mrad: Sampling = 0.25,
    energy_keV: EnergyOption = None,
    inv_A_per_px: ScaleOption = None,
    out: Store = Path("calibration.yaml"),
    save: Save = None,
    picture: Annotated[Path | None, typer.Option(help="Draw rings and fit here (PNG).")] = None,
    run_folder: RunFolder = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Camera constant, ellipse and centre from the rings of a polycrystalline standard.

    Put the standard under the beam; three places are taken.
    Example: `lodestem calibrate camera --files rings.tif --energy-keV 300 --inv-A-per-px 0.0127`.
    """
    from controller.cli.calibrate import Lighting, Source, Specimen

    command = verb("calibrate", "calibrate_command")
    command(
        "camera",
        source=Source(
            tuple(files or ()), energy_keV, inv_A_per_px, backend, scenario, seed, plan, at,
            run_folder, save, picture,
        ),
        lighting=Lighting(beam_diameter_nm, electrons, detector_sampling_mrad),
        specimen=Specimen(standard),
        out=out,
        as_json=as_json,
        quiet=quiet,
    )  # fmt: skip


@calibrate_app.command("beam-tilt")
def calibrate_beam_tilt(
    files: Files = None,
    plan: Plan = None,
    backend: Backend = None,
    scenario: ScenarioOption = None,
    seed: SeedOption = None,
    at: At = None,
    structure: Cif = None,
    zone: Zone = None,
    step_mrad: Annotated[float, typer.Option(min=0.5, max=50, help="Tilt to both sides.")] = 12.0,
    beam_diameter_nm: Diameter = 400.0,
    electrons: Electrons = 2e5,
    detector_sampling_mrad: Sampling = 0.25,
    energy_keV: EnergyOption = None,
    inv_A_per_px: ScaleOption = None,
    out: Store = Path("calibration.yaml"),
    save: Save = None,
    run_folder: RunFolder = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What a beam tilt does: true angle of incidence, and walk of the direct beam.

    Needs a robust crystal near a zone axis, as `calibrate tilt-axes` does.
    Example: `lodestem calibrate beam-tilt --plan night.yaml --structure SrTiO3.cif --zone 0,0,1`.
    """
    from controller.cli.calibrate import Lighting, Source, Specimen

    command = verb("calibrate", "calibrate_command")
    command(
        "beam-tilt",
        source=Source(
            tuple(files or ()), energy_keV, inv_A_per_px, backend, scenario, seed, plan, at,
            run_folder, save,
        ),
        lighting=Lighting(beam_diameter_nm, electrons, detector_sampling_mrad, step_mrad),
        specimen=Specimen(structure, zone),
        out=out,
        as_json=as_json,
        quiet=quiet,
    )  # fmt: skip


@calibrate_app.command("show")
def calibrate_show(
    path: Annotated[Path, typer.Argument(help="Calibration file.")] = Path("calibration.yaml"),
    as_json: Json = False,
) -> None:
    """List what is stored and what is missing, stale or contradictory. Exits 5 with alarms."""
    show_command = verb("calibrate", "show_command")

    show_command(path, as_json=as_json)
