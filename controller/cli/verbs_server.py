"""``lodestem serve``, ``keys``, ``stop``, ``status``: the instrument as a server, and its users."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.cli.app import Json, app, verb

keys_app = typer.Typer(
    help="CURVE keys of the hardware server and its clients.", no_args_is_help=True
)
app.add_typer(keys_app, name="keys")

Hardware = Annotated[
    str, typer.Option("--hardware", help="Address of the server, tcp://HOST:PORT or ipc://PATH.")
]
KeyFile = Annotated[
    Path | None, typer.Option("--key", help="This client's NAME.key_secret; none for a simulator.")
]
ServerKey = Annotated[Path | None, typer.Option(help="Public key of the server, SERVER.key.")]
Folder = Annotated[Path, typer.Option("--dir", help="Folder of the keys.")]
DEFAULT_URL = "tcp://127.0.0.1:7464"


@app.command()
def serve(
    config: Annotated[Path, typer.Argument(help="Configuration of the server (YAML).")],
    check: Annotated[bool, typer.Option(help="Check the configuration only.")] = False,
    as_json: Json = False,
) -> None:
    """Serve the instrument: limits, dose ledger, lease, watchdog. Ends with Ctrl-C, beam blanked.

    Needs nothing but the base install and the instrument's driver. See docs/server.md.
    """
    serve_command = verb("server", "serve_command")

    serve_command(config, check=check, as_json=as_json)


@app.command()
def stop(
    hardware: Hardware = DEFAULT_URL,
    key: KeyFile = None,
    server_key: ServerKey = None,
    why: Annotated[str, typer.Option(help="For the log.")] = "stopped from a shell",
    as_json: Json = False,
) -> None:
    """STOP: blank the beam, halt the stage, abort the exposure. Every role may."""
    stop_command = verb("server", "stop_command")

    stop_command(hardware, key=key, server_key=server_key, why=why, as_json=as_json)


@app.command()
def status(
    hardware: Hardware = DEFAULT_URL,
    key: KeyFile = None,
    server_key: ServerKey = None,
    watch: Annotated[bool, typer.Option(help="A line a second, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Say in one line who drives, where the stage is, and whether the column is fit."""
    status_command = verb("server", "status_command")

    status_command(hardware, key=key, server_key=server_key, watch=watch, as_json=as_json)


@app.command()
def ledger(
    path: Annotated[Path, typer.Argument(help="Run folder, or a ledger.sqlite.")],
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a table here.")] = None,
    as_json: Json = False,
) -> None:
    """Say what every area was charged, and export every exposure; also while a run goes on."""
    ledger_command = verb("ledger", "ledger_command")

    ledger_command(path, csv_file=csv_file, as_json=as_json)


@keys_app.command("new")
def keys_new(
    name: Annotated[str, typer.Argument(help="Whose: a machine or a person.")],
    folder: Folder = Path("keys"),
    as_json: Json = False,
) -> None:
    """Make a key pair; the secret file stays where it is used and goes nowhere."""
    new_key_command = verb("server", "new_key_command")

    new_key_command(name, folder=folder, as_json=as_json)


@keys_app.command("allow")
def keys_allow(
    key: Annotated[Path, typer.Argument(help="Public key of the client, NAME.key.")],
    role: Annotated[str, typer.Option(help="viewer, operator, scientist, admin or agent.")],
    allowed: Annotated[Path, typer.Option("--list", help="List of the server.")] = Path(
        "keys/allowed.yaml"
    ),
    name: Annotated[str | None, typer.Option(help="Default: the name of the file.")] = None,
    as_json: Json = False,
) -> None:
    """Put a client on the server's list, or give it another role."""
    allow_command = verb("server", "allow_command")

    allow_command(key, role=role, allowed=allowed, name=name, as_json=as_json)


@keys_app.command("revoke")
def keys_revoke(
    name: Annotated[str, typer.Argument(help="As listed.")],
    allowed: Annotated[Path, typer.Option("--list", help="List of the server.")] = Path(
        "keys/allowed.yaml"
    ),
    as_json: Json = False,
) -> None:
    """Take a client off the list; it holds from the next start of the server."""
    revoke_command = verb("server", "revoke_command")

    revoke_command(name, allowed=allowed, as_json=as_json)
