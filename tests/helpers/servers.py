"""The Kafka and PostgreSQL that a test run shares, and a database of its own for each test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from faregate.ledger.database import APP_ROLE
from faregate.ledger.migrate import known, migrate
from faregate.runtime import stack

HOME_ENVIRONMENT = "FAREGATE_TEST_HOME"
_LOCK = "SELECT pg_advisory_lock(hashtextextended('faregate.tests.template', 0))"
_READY = "SELECT NOT datallowconn FROM pg_database WHERE datname = $1"


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the servers are. `database` is the URL of an administrator."""

    kafka: str
    database: str


@contextmanager
def shared_home() -> Iterator[None]:
    """Reserve the home of the run's servers; they end with this block.

    The first process of a run comes here (with xdist: the one that starts the workers). Nothing
    is started yet. If the process is killed, the next run cleans up after it.
    """
    if HOME_ENVIRONMENT in os.environ:
        yield
        return
    with stack.running(kafka=False, database=False) as info:
        os.environ[HOME_ENVIRONMENT] = str(info.home)
        try:
            yield
        finally:
            del os.environ[HOME_ENVIRONMENT]


def servers() -> Stack:
    """Give the servers named by FAREGATE_KAFKA and FAREGATE_DATABASE, else the run's own.

    Whoever comes first starts them; the others wait for its file lock.
    """
    kafka, database = os.environ.get("FAREGATE_KAFKA"), os.environ.get("FAREGATE_DATABASE")
    if kafka and database:
        return Stack(kafka, database)
    info = stack.up(Path(os.environ[HOME_ENVIRONMENT]), ephemeral=True)
    return Stack(info.kafka, info.database)


def with_database(url: str, name: str) -> str:
    """Give the URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def fresh_database(admin_url: str, *, template: str | None = None) -> str:
    """Make a migrated database (or a copy of `template`) and give its URL."""
    name = f"test_{uuid4().hex}"
    async with _administrator(admin_url) as admin:
        source = template or await _template(admin, admin_url)
        await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}"')
    return with_database(admin_url, name)


async def drop_database(admin_url: str, url: str) -> None:
    """Drop a database that `fresh_database` made, whoever is still connected to it."""
    async with _administrator(admin_url) as admin:
        await admin.execute(f'DROP DATABASE IF EXISTS "{database_name(url)}" WITH (FORCE)')


def database_name(url: str) -> str:
    """Give the name of the database in a URL."""
    return urlsplit(url).path.lstrip("/")


@asynccontextmanager
async def _administrator(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        yield connection
    finally:
        await connection.close()


async def _template(admin: asyncpg.Connection, admin_url: str) -> str:
    """Give the migrated template, made by whoever comes first.

    Its name follows from the migrations, so a changed one makes a new template; that it takes no
    connections says that it is complete.
    """
    digest = sha256("".join(name + sql for name, sql in known()).encode()).hexdigest()[:12]
    name = f"faregate_template_{digest}"
    if await admin.fetchval(_READY, name):
        return name
    await admin.execute(_LOCK)  # until this connection ends
    if not await admin.fetchval(_READY, name):
        await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await admin.execute(f'CREATE DATABASE "{name}"')
        await migrate(with_database(admin_url, name))
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    return name


@asynccontextmanager
async def with_role(url: str) -> AsyncIterator[str]:
    """Make a login that is a member of the application's role, for the length of the block.

    Gives the URL of the same database for it, as a process in production would have it.
    """
    name, password = f"login_{uuid4().hex[:12]}", uuid4().hex
    async with _administrator(url) as admin:
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}' IN ROLE {APP_ROLE}")
        try:
            place = urlsplit(url)
            yield urlunsplit(
                place._replace(netloc=f"{name}:{password}@{place.netloc.rpartition('@')[2]}")
            )
        finally:
            await admin.execute(f"DROP ROLE {name}")
