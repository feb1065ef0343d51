"""What commands share that change something: who does it, keys, names of orgs and users."""

from __future__ import annotations

import getpass
import os
from typing import Annotated
from uuid import uuid4

import typer

from faregate.runtime.cli.base import BadUsage, subject_argument

KeyOption = Annotated[
    str | None,
    typer.Option("--idempotency-key", help="The same key and content happen once."),
]
OrgArgument = Annotated[str, typer.Argument(metavar="ORG", help="<id> or org:<id>")]
UserArgument = Annotated[str, typer.Argument(metavar="USER", help="<id> or user:<id>")]


def me() -> str:
    """Give the name of who is at the keyboard, for the audit log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid {os.getuid()}"


def new_key(key: str | None) -> str:
    """Give the key of the act: what the caller chose, else one that is new."""
    return key or str(uuid4())


def org_argument(text: str) -> str:
    """Read the name of an org: `acme` or `org:acme`."""
    return _named("org", text)


def user_argument(text: str) -> str:
    """Read the name of a user: `ada` or `user:ada`."""
    return _named("user", text)


def _named(kind: str, text: str) -> str:
    prefix, colon, name = text.partition(":")
    other = {"org": "user", "user": "org"}[kind]
    bare = name if colon and prefix == kind else text
    if not bare or (colon and prefix == other):
        raise BadUsage(f"{text!r} names no {kind}: write <id> or {kind}:<id>")
    return subject_argument(f"{kind}:{bare}")
