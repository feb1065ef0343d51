"""The Kafka and PostgreSQL that a test run shares, and a database of its own for each test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from faregate.ledger.database import APP_ROLE
from faregate.runtime import stack
from faregate.testing.databases import (
    administrator,
    database_name,
    drop_database,
    fresh_database,
    with_database,
)

__all__ = [
    "Stack",
    "database_name",
    "drop_database",
    "fresh_database",
    "servers",
    "shared_home",
    "with_database",
    "with_role",
]

HOME_ENVIRONMENT = "FAREGATE_TEST_HOME"


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


@asynccontextmanager
async def with_role(url: str) -> AsyncIterator[str]:
    """Make a login that is a member of the application's role, for the length of the block.

    Gives the URL of the same database for it, as a process in production would have it.
    """
    name, password = f"login_{uuid4().hex[:12]}", uuid4().hex
    async with administrator(url) as admin:
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}' IN ROLE {APP_ROLE}")
        try:
            place = urlsplit(url)
            yield urlunsplit(
                place._replace(netloc=f"{name}:{password}@{place.netloc.rpartition('@')[2]}")
            )
        finally:
            await admin.execute(f"DROP ROLE {name}")
