"""The program ``lodestem``: one verb per capability.

Modules of the verbs are imported when a verb runs, so that ``--help`` is instant.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

# Small matrices by the thousand: BLAS threads that wait for each other cost more than they bring.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

app = typer.Typer(
    name="lodestem",
    help="Low-dose STEM by itself: survey, align, scan and reconstruct beam-sensitive crystals.",
    epilog="Start with `lodestem demo`. Every command takes --help.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Make, check and explain plan files.", no_args_is_help=True)
app.add_typer(config_app, name="config")
calibrate_app = typer.Typer(
    help="Measure tilt axes, camera and beam tilt on a standard, and store them with their date.",
    no_args_is_help=True,
)
app.add_typer(calibrate_app, name="calibrate")

EXTRAS = {
    "torch": "all",
    "scipy": "all",
    "gemmi": "align",
    "matplotlib": "report",
    "jinja2": "report",
    "PIL": "report",
    "tifffile": "models",
    "mrcfile": "models",
    "hdf5plugin": "recon",
    "numba": "align",
}
"""Which extra brings a package that the base install does without."""


def _verb(module: str, name: str) -> Callable[..., None]:
    """The function behind a verb; a missing extra is named instead of a traceback."""
    try:
        found: Callable[..., None] = getattr(import_module(f"controller.cli.{module}"), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        typer.echo(
            f"error: this command needs {package}, which the base install does without\n"
            f"hint: pip install 'lodestem[{EXTRAS[package]}]'",
            err=True,
        )
        raise typer.Exit(2) from None
    return found


Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No words on stderr.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lodestem {version('lodestem')}")
        raise typer.Exit


@app.callback()
def _root(
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="More words; -vv for debugging.")
    ] = 0,
    log_file: Annotated[Path | None, typer.Option(help="Write the log here too.")] = None,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if log_file is not None:
        handlers.append(logging.FileHandler(log_file))
    logging.basicConfig(
        level=level, handlers=handlers, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


@app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another night.")] = 1,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = Path("runs/demo"),
    headless: Annotated[bool, typer.Option(help="Do not open the report.")] = False,
    scenario: Annotated[str, typer.Option(help="Scenario of the simulator.")] = "typical",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a small night on the simulated microscope, from survey to report.

    Needs no instrument, no GPU and no plan; takes some minutes on two cores.
    """
    demo_command = _verb("night", "demo_command")

    demo_command(
        seed=seed, out=out, headless=headless, scenario=scenario, as_json=as_json, quiet=quiet
    )


@app.command()
def run(
    plan: Annotated[Path, typer.Argument(help="Plan file (YAML).")],
    out: Out = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the plan and print its forecast only.")
    ] = False,
    rehearse: Annotated[
        bool, typer.Option(help="Carry the plan out on the simulator instead.")
    ] = False,
    scenario: Annotated[str, typer.Option(help="Scenario of the rehearsal.")] = "typical",
    supervised: Annotated[
        bool, typer.Option(help="Ask before every tilt, exposure and scan.")
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the plan's.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Carry out a plan: unattended, supervised, or rehearsed on the simulator.

    Examples: `lodestem run night.yaml --dry-run`, `lodestem run night.yaml --supervised`.
    Exits 0 when the goals are met, 5 when they are not, 6 when stopped by a person.
    """
    run_command = _verb("night", "run_command")

    run_command(
        plan,
        out=out,
        dry_run=dry_run,
        rehearse=scenario if rehearse else None,
        supervised=supervised,
        seed=seed,
        as_json=as_json,
        quiet=quiet,
    )


@app.command()
def simulate(
    scenario: Annotated[str, typer.Argument(help="Shipped scenario, or a YAML file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the data.")],
    seed: Annotated[int, typer.Option(min=0)] = 1,
    fault: Annotated[
        list[str] | None, typer.Option(help="NAME@T: inject a fault; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write images, patterns, scans and truth of a scenario, for whoever wants data."""
    simulate_command = _verb("files", "simulate_command")

    simulate_command(scenario, out=out, seed=seed, faults=tuple(fault or ()), as_json=as_json)


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
    align_command = _verb("files", "align_command")
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
    as_json: Json = False,
) -> None:
    """Find usable crystals in survey pictures.

    Example: `lodestem segment survey.tif --pixel-size-nm 10 --mode BF --out regions --overlay`.
    """
    segment_command = _verb("files", "segment_command")

    segment_command(
        inputs,
        pixel_size_nm=pixel_size_nm,
        mode=mode,
        gain=gain,
        offset=offset,
        out=out,
        overlay=overlay,
        as_json=as_json,
    )


@app.command()
def reconstruct(
    data: Annotated[
        Path | None,
        typer.Argument(help="Scan file, .npy, HDF5, EMPAD .raw, .mib, DECTRIS master, EMD."),
    ] = None,
    params: Annotated[Path | None, typer.Option(help="Parameters (YAML).")] = None,
    out: Out = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
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
    `lodestem reconstruct --compare first second --out comparison`.
    """
    reconstruct_command = _verb("reconstruct", "reconstruct_command")

    reconstruct_command(
        data,
        params=params,
        out=out,
        device=device,
        vacuum=vacuum,
        export=export or [],
        compare=compare,
        as_json=as_json,
        quiet=quiet,
    )


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="Run folder.")],
    open_it: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    as_json: Json = False,
) -> None:
    """Build the report of a run anew, also of one that was stopped or still goes on."""
    report_command = _verb("night", "report_command")

    report_command(run_dir, open_it=open_it, as_json=as_json)


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for checkpoints and weights.")],
    config: Annotated[Path | None, typer.Option(help="Training configuration (YAML).")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train, evaluate and export the region model; resumes from a checkpoint in the folder."""
    train_command = _verb("files", "train_command")

    train_command(config=config, out=out, seed=seed, as_json=as_json, quiet=quiet)


@app.command()
def doctor(
    recover: Annotated[
        Path | None, typer.Option(help="Recover a scan file after a crash, in place.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Calibration file to check for age and contradictions.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check the installation and a calibration file, or recover a scan file.

    Exits 0 when all is well, 5 with findings.
    """
    doctor_command = _verb("doctor", "doctor_command")

    doctor_command(recover=recover, calibration=calibration, as_json=as_json)


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

    command = _verb("calibrate", "calibrate_command")
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

    command = _verb("calibrate", "calibrate_command")
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

    command = _verb("calibrate", "calibrate_command")
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
    show_command = _verb("calibrate", "show_command")

    show_command(path, as_json=as_json)


@config_app.command("init")
def config_init(
    path: Annotated[Path, typer.Argument(help="New plan file.")] = Path("plan.yaml"),
) -> None:
    """Write a commented plan to start from; never overwrites."""
    init_command = _verb("config", "init_command")

    init_command(path)


@config_app.command("validate")
def config_validate(
    path: Annotated[Path, typer.Argument(help="Plan file.")], as_json: Json = False
) -> None:
    """Check a plan without an instrument; all problems at once. Exits 2 with any."""
    validate_command = _verb("config", "validate_command")

    validate_command(path, as_json=as_json)


@config_app.command("show")
def config_show(
    path: Annotated[Path, typer.Argument(help="Plan file.")], as_json: Json = False
) -> None:
    """Print every value of a plan and where it comes from."""
    show_command = _verb("config", "show_command")

    show_command(path, as_json=as_json)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of plans, for editors."""
    schema_command = _verb("config", "schema_command")

    schema_command()


def run_program() -> None:
    """Entry point."""
    app()
