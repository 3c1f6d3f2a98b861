"""What ``lodestem users`` does."""

from __future__ import annotations

from pathlib import Path

from controller.cli.output import InputError, command
from controller.console.passwords import AccountError, Accounts


def add_user_command(name: str, *, role: str, password: str, accounts: Path, as_json: bool) -> None:
    """Make or change an account."""
    with command("users", as_json=as_json) as output:
        try:
            account = Accounts(accounts).add(name, role, password)
        except AccountError as error:
            raise InputError(str(error), "nothing was written") from error
        output.result(
            {"name": account.name, "role": account.role}, f"{account.name} is {account.role}"
        )


def remove_user_command(name: str, *, accounts: Path, as_json: bool) -> None:
    """Take an account away."""
    with command("users", as_json=as_json) as output:
        try:
            Accounts(accounts).remove(name)
        except AccountError as error:
            raise InputError(str(error), "nothing was written") from error
        output.result({"name": name}, f"{name} has no account any more")


def list_users_command(*, accounts: Path, as_json: bool) -> None:
    """Print names and roles."""
    with command("users", as_json=as_json) as output:
        try:
            known = Accounts(accounts).read().accounts
        except AccountError as error:
            raise InputError(str(error)) from error
        rows = [{"name": a.name, "role": a.role} for a in known]
        text = "\n".join(f"{row['name']:<34}{row['role']}" for row in rows) or "no accounts"
        output.result({"accounts": rows}, text)


def token_command(name: str, *, days: float, accounts: Path, as_json: bool) -> None:
    """Make a token for a screen that looks on."""
    with command("users", as_json=as_json) as output:
        try:
            token = Accounts(accounts).add_token(name, days)
        except ValueError as error:
            raise InputError(str(error), "nothing was written") from error
        output.say("it is shown once; open /wall?token=TOKEN on that screen")
        output.result({"name": name, "token": token}, token)
