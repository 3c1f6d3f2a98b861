"""``lodestem assist`` and ``lodestem users``: the operator's console, and who may use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.cli.app import Json, app, verb

users_app = typer.Typer(
    help="Accounts of the console; there is no default one.", no_args_is_help=True
)
app.add_typer(users_app, name="users")
AccountsFile = Annotated[Path, typer.Option("--accounts", help="File of the accounts.")]
DEFAULT_ACCOUNTS = Path("accounts.json")


@app.command()
def assist(
    plan: Annotated[
        Path | None, typer.Argument(help="Plan file; without one the demo on the simulator.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = Path("runs/assist"),
    replay: Annotated[
        Path | None, typer.Option(help="Show the night in this folder as if it were live.")
    ] = None,
    attach: Annotated[
        Path | None, typer.Option(help="Show the run that is under way in this folder.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    accounts: AccountsFile = DEFAULT_ACCOUNTS,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="No TLS off loopback: simulators only.")
    ] = False,
    known_as: Annotated[
        list[str] | None, typer.Option(help="Host name that browsers use; may be repeated.")
    ] = None,
    root_path: Annotated[str, typer.Option(help="Prefix under which a proxy serves it.")] = "",
    proxy: Annotated[
        list[str] | None, typer.Option(help="Address of a proxy whose header is believed.")
    ] = None,
    proxy_header: Annotated[
        str, typer.Option(help="Header in which that proxy names who is signed in.")
    ] = "",
    speed: Annotated[float, typer.Option(min=0.1, max=1000, help="Of a simulator's time.")] = 1.0,
    headless: Annotated[bool, typer.Option(help="Do not open a browser.")] = False,
    as_json: Json = False,
) -> None:
    """Supervise a night in the browser: see what it sees, approve what it does, stop it at once.

    Simulators are served by a process of their own; instruments by `lodestem serve`, whose address
    the plan names. Closing the browser stops nothing. Exits 2 where it may not listen.
    """
    assist_command = verb("assist", "assist_command")
    wanted = verb("assist", "Wanted")(
        plan=plan,
        out=out,
        replay=replay,
        attach=attach,
        host=host,
        port=port,
        accounts=accounts,
        tls_cert=tls_cert,
        tls_key=tls_key,
        insecure=insecure,
        known_as=tuple(known_as or ()),
        root_path=root_path,
        proxies=tuple(proxy or ()),
        proxy_header=proxy_header,
        speed=speed,
        headless=headless,
    )

    assist_command(wanted, as_json=as_json)


@users_app.command("add")
def users_add(
    name: Annotated[str, typer.Argument(help="Letters, digits, _ . @ -")],
    role: Annotated[str, typer.Option(help="viewer, operator, scientist or admin.")],
    accounts: AccountsFile = DEFAULT_ACCOUNTS,
    as_json: Json = False,
) -> None:
    """Make an account, or give one another role and password; asks for the password."""
    password = typer.prompt("password", hide_input=True, confirmation_prompt=True, err=True)
    add_user_command = verb("users", "add_user_command")

    add_user_command(name, role=role, password=password, accounts=accounts, as_json=as_json)


@users_app.command("remove")
def users_remove(
    name: Annotated[str, typer.Argument()],
    accounts: AccountsFile = DEFAULT_ACCOUNTS,
    as_json: Json = False,
) -> None:
    """Take an account away; it holds at once for new sign-ins."""
    remove_user_command = verb("users", "remove_user_command")

    remove_user_command(name, accounts=accounts, as_json=as_json)


@users_app.command("list")
def users_list(accounts: AccountsFile = DEFAULT_ACCOUNTS, as_json: Json = False) -> None:
    """Print names and roles."""
    list_users_command = verb("users", "list_users_command")

    list_users_command(accounts=accounts, as_json=as_json)


@users_app.command("token")
def users_token(
    name: Annotated[str, typer.Argument(help="Of the screen that looks on.")],
    days: Annotated[float, typer.Option(min=0.01, max=400)] = 30.0,
    accounts: AccountsFile = DEFAULT_ACCOUNTS,
    as_json: Json = False,
) -> None:
    """Make a token for the wall view: it looks on, may STOP, and ends by itself."""
    token_command = verb("users", "token_command")

    token_command(name, days=days, accounts=accounts, as_json=as_json)
