"""The program ``lodestem``: one verb per capability, here those of a night and its plan."""

from __future__ import annotations

import logging
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from controller.cli.app import Json, Out, Quiet, app, verb

config_app = typer.Typer(help="Make, check and explain plan files.", no_args_is_help=True)
app.add_typer(config_app, name="config")


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
    demo_command = verb("night", "demo_command")

    demo_command(
        seed=seed, out=out, headless=headless, scenario=scenario, as_json=as_json, quiet=quiet
    )


@app.command()
def run(
    plan: Annotated[Path | None, typer.Argument(help="Plan file (YAML).")] = None,
    out: Out = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder instead of a plan.")
    ] = None,
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
    desk: Annotated[
        bool, typer.Option("--desk", help="With --supervised: ask a console, not the terminal.")
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the plan's.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Carry out a plan: unattended, supervised, or rehearsed on the simulator.

    Examples: `lodestem run night.yaml --dry-run`, `lodestem run night.yaml --supervised`,
    `lodestem run --resume runs/night` after a crash, a stop or a hold.
    Exits 0 when the goals are met, 5 when they are not, 6 when stopped by a person.
    """
    run_command = verb("night", "run_command")

    run_command(
        plan,
        out=out,
        resume=resume,
        dry_run=dry_run,
        rehearse=scenario if rehearse else None,
        supervised=supervised,
        desk=desk,
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
    listen: Annotated[
        str | None,
        typer.Option(help="Serve the microscope here instead: tcp://127.0.0.1:PORT, ipc://PATH."),
    ] = None,
    speed: Annotated[float, typer.Option(min=0.1, max=1000, help="Of its time, if served.")] = 1.0,
    column: Annotated[
        str | None, typer.Option(help="Hold on to this running column instead of a new one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write images, patterns, scans and truth of a scenario, or serve its microscope.

    With --listen the simulated microscope answers on the protocol of a real one, its column in a
    process of its own, with a watchdog; --out gets its ledger and scans.
    """
    if listen is not None:
        serve_simulated_command = verb("server", "serve_simulated_command")

        serve_simulated_command(
            scenario,
            listen=listen,
            run_dir=out,
            seed=seed,
            faults=tuple(fault or ()),
            speed=speed,
            column=column,
            as_json=as_json,
        )
        return
    simulate_command = verb("files", "simulate_command")

    simulate_command(scenario, out=out, seed=seed, faults=tuple(fault or ()), as_json=as_json)


@app.command()
def faults(as_json: Json = False) -> None:
    """List the faults that can be injected into the simulator, and how each is answered.

    Examples: `lodestem simulate typical --out data --fault valve-closes@10min`; in a plan,
    `instrument.options.faults`.
    """
    faults_command = verb("faults", "faults_command")

    faults_command(as_json=as_json)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="Run folder.")],
    open_it: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    as_json: Json = False,
) -> None:
    """Build the report of a run anew, also of one that was stopped or still goes on."""
    report_command = verb("night", "report_command")

    report_command(run_dir, open_it=open_it, as_json=as_json)


@app.command()
def doctor(
    recover: Annotated[
        Path | None, typer.Option(help="Recover a scan file after a crash, in place.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Calibration file to check for age and contradictions.")
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="Address of a hardware server to look at instead.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="This client's NAME.key_secret.")] = None,
    server_key: Annotated[Path | None, typer.Option(help="Public key of the server.")] = None,
    dark_frame: Annotated[
        bool, typer.Option("--dark-frame", help="Also prove by a dark frame that it blanks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check the installation and a calibration file, an instrument, or recover a scan file.

    Exits 0 when all is well, 5 with findings. With --hardware nothing is moved; --dark-frame takes
    the lease and one frame with the beam blanked.
    """
    doctor_command = verb("doctor", "doctor_command")

    doctor_command(
        recover=recover,
        calibration=calibration,
        hardware=None if hardware is None else (hardware, key, server_key, dark_frame),
        as_json=as_json,
    )


@config_app.command("init")
def config_init(
    path: Annotated[Path, typer.Argument(help="New plan file.")] = Path("plan.yaml"),
) -> None:
    """Write a commented plan to start from; never overwrites."""
    init_command = verb("config", "init_command")

    init_command(path)


@config_app.command("validate")
def config_validate(
    path: Annotated[Path, typer.Argument(help="Plan file.")], as_json: Json = False
) -> None:
    """Check a plan without an instrument; all problems at once. Exits 2 with any."""
    validate_command = verb("config", "validate_command")

    validate_command(path, as_json=as_json)


@config_app.command("show")
def config_show(
    path: Annotated[Path, typer.Argument(help="Plan file.")], as_json: Json = False
) -> None:
    """Print every value of a plan and where it comes from."""
    show_command = verb("config", "show_command")

    show_command(path, as_json=as_json)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of plans, for editors."""
    schema_command = verb("config", "schema_command")

    schema_command()


# they register themselves, after the verbs that --help should name first
from controller.cli import (  # noqa: E402
    verbs_calibrate,  # noqa: F401
    verbs_console,  # noqa: F401
    verbs_files,  # noqa: F401
    verbs_server,  # noqa: F401
    verbs_watch,  # noqa: F401
)


def run_program() -> None:
    """Entry point."""
    app()
