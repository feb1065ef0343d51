"""`faregate users`: who can sign in by the embedded identity. The first admin is made here."""

from __future__ import annotations

import importlib.util
import re
import sys
from getpass import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faregate.runtime.cli.base import (
    BadUsage,
    JsonOption,
    Refused,
    examples,
    ledger,
    new_app,
    out,
    run_async,
    show,
)

if TYPE_CHECKING:
    from faregate.gateway.identity.users import User

app = new_app(
    "Who can sign in by the embedded identity.",
    "faregate users create ada@example.com --admin",
)

_EMAIL = re.compile(r"[^\s@]{1,64}@[^\s@]{1,189}")


@app.callback()
def users() -> None:
    """Say who can sign in."""


@app.command(
    epilog=examples(
        "faregate users create ada@example.com --admin",
        "faregate users create ada@example.com --password-stdin --json",
    )
)
def create(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="What they sign in with.")],
    *,
    admin: Annotated[bool, typer.Option("--admin", help="May do everything, as an admin.")] = False,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from stdin.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a user; without --password-stdin the password is asked for."""
    if not _EMAIL.fullmatch(email):
        raise BadUsage(f"{email!r} is not an e-mail address: write ada@example.com")
    _require_gateway()
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else _asked()
    run_async(_create(email, password, admin=admin, as_json=as_json))


def _asked() -> str:
    if not sys.stdin.isatty():
        raise BadUsage("nobody can be asked for a password here: say --password-stdin")
    password = getpass("Password: ")
    if getpass("Again: ") != password:
        raise BadUsage("the two passwords differ")
    return password


def _require_gateway() -> None:
    if importlib.util.find_spec("argon2") is None or importlib.util.find_spec("fastapi") is None:
        message = "the gateway's packages are not installed"
        raise Refused("not_installed", message, "pip install 'faregate[gateway]'")


async def _create(email: str, password: str, *, admin: bool, as_json: bool) -> None:
    from faregate.gateway.identity.passwords import MAX_CHARS, MIN_CHARS, Passwords
    from faregate.gateway.identity.users import Users
    from faregate.gateway.problems import Problem

    if not MIN_CHARS <= len(password) <= MAX_CHARS:
        raise BadUsage(f"a password has {MIN_CHARS} to {MAX_CHARS} characters")
    async with ledger() as (store, _):
        hashed = await Passwords().hash(password)
        try:
            user = await Users(store.pool).add(email, hashed, is_admin=admin)
        except Problem as problem:
            raise Refused(
                problem.reason, f"{email} is registered already", "sign in, or use another address"
            ) from None
    show(_value(user), as_json=as_json, render=lambda: _render(user))


def _value(user: User) -> dict[str, Any]:
    return {"user_id": user.user_id, "email": user.email, "is_admin": user.is_admin}


def _render(user: User) -> None:
    what = "an admin" if user.is_admin else "a user"
    out.print(f"{user.email} is {what} now: {user.user_id}", markup=False)
