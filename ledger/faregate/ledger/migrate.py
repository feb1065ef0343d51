"""Migrations: numbered SQL files, applied once, in order, and never changed afterwards."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from importlib.resources import files
from random import random

import asyncpg

from faregate.ledger.database import APP_ROLE, SERVER_LIMITS

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('faregate.migrate', 0))"
_ROLE_ATTEMPTS = 20
_TABLE = """CREATE TABLE IF NOT EXISTS migrations (
    name text PRIMARY KEY, checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"""


class MigrationError(Exception):
    """The database cannot be brought to this version; the message says why."""


def known() -> list[tuple[str, str]]:
    """List the migrations of this version: (name, SQL), in order."""
    found = (f for f in files(__package__).joinpath("migrations").iterdir() if f.name[0].isdigit())
    return [(f.name, f.read_text()) for f in sorted(found, key=lambda f: f.name)]


async def migrate(url: str) -> list[str]:
    """Apply what is missing, as the owner in `url`, in one transaction; return the names.

    Safe to call from many processes at once. Raises MigrationError when an applied file has
    changed or the database is newer than this version.
    """
    connection = await asyncpg.connect(url, timeout=10)
    try:
        async with connection.transaction():
            await connection.execute(_LOCK)
            await connection.execute(_TABLE)
            rows = await connection.fetch("SELECT name, checksum FROM migrations")
            done = await _apply(connection, {r["name"]: r["checksum"] for r in rows})
        if done:
            await _limit_role(connection)
        return done
    finally:
        await connection.close()


async def _apply(connection: asyncpg.Connection, applied: dict[str, str]) -> list[str]:
    ours = known()
    newer = sorted(set(applied) - {name for name, _ in ours})
    if newer:
        raise MigrationError(f"the database has {newer[0]}, this version has not: upgrade Faregate")
    done = []
    for name, sql in ours:
        checksum = sha256(sql.encode()).hexdigest()
        if name not in applied:
            await connection.execute(sql)
            await connection.execute("INSERT INTO migrations VALUES ($1, $2)", name, checksum)
            done.append(name)
        elif applied[name] != checksum:
            raise MigrationError(f"{name} was changed after it had been applied: restore the file")
    return done


async def _limit_role(connection: asyncpg.Connection) -> None:
    """Set the role's limits, again if another database's migration does it at the same time.

    Roles are shared by all databases of a server, advisory locks are not.
    """
    for _ in range(_ROLE_ATTEMPTS):
        try:
            for setting, value in SERVER_LIMITS.items():
                await connection.execute(f"ALTER ROLE {APP_ROLE} SET {setting} = '{value}'")
        except asyncpg.InternalServerError:  # tuple concurrently updated
            await asyncio.sleep(random())  # noqa: S311 - so that two do not meet again
        else:
            return
    raise MigrationError(f"the limits of {APP_ROLE} cannot be set: run `faregate migrate` again")


async def pending(url: str) -> list[str]:
    """Name the migrations that this database still lacks."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        if await connection.fetchval("SELECT to_regclass('migrations')") is None:
            return [name for name, _ in known()]
        rows = await connection.fetch("SELECT name FROM migrations")
        return [name for name, _ in known() if name not in {r["name"] for r in rows}]
    finally:
        await connection.close()
