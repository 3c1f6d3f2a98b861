"""Accounts of the console: a file of names, roles and argon2id hashes.  There is no default one."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from pydantic import Field, ValidationError

from controller.hardware.values import Frozen

LEAST_LETTERS = 10
UserRole = Literal["viewer", "operator", "scientist", "admin"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{1,32}$")]
_HASHER = PasswordHasher()
_NOBODY = _HASHER.hash(secrets.token_hex(16))
"""Checked where there is no such account, so that a name costs as much time as a password."""


class Account(Frozen):
    """One person."""

    name: Name
    role: UserRole
    argon2id: str


class Token(Frozen):
    """A program's or a screen's way in: looks only, hashed, for a limited time."""

    name: Name
    sha256: str
    until_utc: datetime


class AccountFile(Frozen):
    """What the file holds."""

    format: Literal["lodestem/accounts/1"] = "lodestem/accounts/1"
    accounts: tuple[Account, ...] = ()
    tokens: tuple[Token, ...] = ()


class AccountError(ValueError):
    """Accounts that cannot be used, or a change that is refused."""


class Accounts:
    """The accounts of one file; read anew for every sign-in, so a removal holds at once."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def read(self) -> AccountFile:
        """All accounts; none where there is no file.

        Raises
        ------
        AccountError
            The file is damaged.
        """
        if self.path is None or not self.path.exists():
            return AccountFile()
        try:
            return AccountFile.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError) as error:
            raise AccountError(f"{self.path} holds no accounts: {error}") from error

    @property
    def is_empty(self) -> bool:
        """Whether nobody has an account."""
        return not self.read().accounts

    def check(self, name: str, password: str) -> Account | None:
        """The account, if name and password fit; takes as long if they do not."""
        found = next((a for a in self.read().accounts if a.name == name), None)
        try:
            _HASHER.verify(_NOBODY if found is None else found.argon2id, password)
        except (VerificationError, InvalidHashError):
            return None
        return found

    def check_token(self, token: str, now: datetime) -> Token | None:
        """The token, if it is one and still holds."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        for known in self.read().tokens:
            if secrets.compare_digest(known.sha256, digest) and now < known.until_utc:
                return known
        return None

    def add(self, name: str, role: str, password: str) -> Account:
        """A new account, or another password and role for one.

        Raises
        ------
        AccountError
            A name, role or password that will not do.
        """
        if len(password) < LEAST_LETTERS:
            raise AccountError(
                f"a password of {len(password)} characters; at least {LEAST_LETTERS} are wanted"
            )
        try:
            account = Account.model_validate(
                {"name": name, "role": role, "argon2id": _HASHER.hash(password)}
            )
        except ValidationError as error:
            wrong = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())
            raise AccountError(f"no such account: {wrong}") from error
        file = self.read()
        others = tuple(a for a in file.accounts if a.name != name)
        self._write(file.replace(accounts=(*others, account)))
        return account

    def remove(self, name: str) -> None:
        """Take an account away.

        Raises
        ------
        AccountError
            There is none of that name.
        """
        file = self.read()
        left = tuple(a for a in file.accounts if a.name != name)
        if len(left) == len(file.accounts):
            raise AccountError(f"there is no account {name!r}")
        self._write(file.replace(accounts=left))

    def add_token(self, name: str, days: float) -> str:
        """A new token that looks only; it is shown once and kept as a hash."""
        secret = secrets.token_urlsafe(24)
        token = Token(
            name=name,
            sha256=hashlib.sha256(secret.encode()).hexdigest(),
            until_utc=datetime.now(UTC) + timedelta(days=days),
        )
        file = self.read()
        others = tuple(t for t in file.tokens if t.name != name)
        self._write(file.replace(tokens=(*others, token)))
        return secret

    def _write(self, file: AccountFile) -> None:
        if self.path is None:
            raise AccountError("no file was named for the accounts")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".part")
        document = json.dumps(file.model_dump(mode="json"), indent=2)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(document + "\n")
        fresh.replace(self.path)
