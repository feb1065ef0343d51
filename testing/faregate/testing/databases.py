"""A migrated database of its own for each installation, copied from a template.

With `clock` its time can be moved (`clock.sql`): only databases that are made here have that, and
processes of the product refuse them unless `FAREGATE_TEST_CLOCK=1`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from importlib.resources import files
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from faregate.ledger.migrate import known, migrate
from faregate.testing.patience import patient

_LOCK = "SELECT pg_advisory_lock(hashtextextended('faregate.tests.template', 0))"
_READY = "SELECT NOT datallowconn FROM pg_database WHERE datname = $1"
_OWN_CLOCK = 'ALTER DATABASE "{}" SET search_path = public, pg_catalog'
"""What is in `public` comes before PostgreSQL's own functions of the same name."""


def with_database(url: str, name: str) -> str:
    """Give the URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def database_name(url: str) -> str:
    """Give the name of the database in a URL."""
    return urlsplit(url).path.lstrip("/")


async def fresh_database(
    admin_url: str, *, template: str | None = None, clock: bool = False
) -> str:
    """Make a migrated database (or a copy of `template`) and give its URL."""
    name = f"test_{uuid4().hex}"
    async with administrator(admin_url) as admin:
        source = template or await _template(admin, admin_url, clock=clock)
        await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}"')
        if clock:
            await admin.execute(_OWN_CLOCK.format(name))
    return with_database(admin_url, name)


async def drop_database(admin_url: str, url: str) -> None:
    """Drop a database that `fresh_database` made, whoever is still connected to it."""
    async with administrator(admin_url) as admin:
        await admin.execute(f'DROP DATABASE IF EXISTS "{database_name(url)}" WITH (FORCE)')


@asynccontextmanager
async def administrator(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect as who is named in `url`."""
    connection = await asyncpg.connect(url, timeout=patient(10))
    try:
        yield connection
    finally:
        await connection.close()


async def _template(admin: asyncpg.Connection, admin_url: str, *, clock: bool) -> str:
    """Give the migrated template, made by whoever comes first.

    Its name follows from the migrations, so a changed one makes a new template; that it takes no
    connections says that it is complete.
    """
    own_clock = files(__package__).joinpath("clock.sql").read_text() if clock else ""
    content = "".join(name + sql for name, sql in known()) + own_clock
    name = f"faregate_template_{sha256(content.encode()).hexdigest()[:12]}"
    if await admin.fetchval(_READY, name):
        return name
    await admin.execute(_LOCK)  # until this connection ends
    if not await admin.fetchval(_READY, name):
        await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await admin.execute(f'CREATE DATABASE "{name}"')
        url = with_database(admin_url, name)
        if clock:  # before the tables, so that their defaults take it too
            await admin.execute(_OWN_CLOCK.format(name))
            async with administrator(url) as owner:
                await owner.execute(own_clock)
        await migrate(url)
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    return name
