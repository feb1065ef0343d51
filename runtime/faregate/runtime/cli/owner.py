"""A connection as the owner of the database, for what the application's role must not do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from faregate.ledger.database import SERVER_LIMITS
from faregate.runtime import servers
from faregate.runtime.cli.base import Refused
from faregate.runtime.settings import load


@asynccontextmanager
async def owner(name: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect as whom FAREGATE_DATABASE names. Raises Refused when the owner's rights are needed."""
    connection = await asyncpg.connect(
        servers.database(load()),
        timeout=10,
        server_settings={"application_name": f"faregate {name}", **SERVER_LIMITS},
    )
    try:
        yield connection
    except asyncpg.InsufficientPrivilegeError as error:
        message = f"this needs the rights of the database's owner ({error})"
        fix = "let FAREGATE_DATABASE name the owner, as for: faregate migrate"
        raise Refused("not_the_owner", message, fix) from error
    finally:
        connection.terminate()
