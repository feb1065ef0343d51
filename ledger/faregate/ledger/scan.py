"""Reading the whole of the ledger in one state, a chunk at a time: for rebuild, export, simulate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import asyncpg

from faregate.ledger.queries import statements

SQL = statements("maintenance.sql")

PATIENCE_S = 3600.0
"""How long one statement over the whole ledger may take."""

CHUNK = 5_000

Progress = Callable[[int, int], None]
"""Takes what is done and how much there is in all."""

_LIMITS = {
    # Reading millions of rows outlives the limits for decisions; it locks nothing. A process that
    # has been stopped still ends.
    "transaction_timeout": "0",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
    "work_mem": "64MB",
    "cursor_tuple_fraction": "1.0",  # all rows are read, so the whole is to be cheap
}


@asynccontextmanager
async def one_state(
    connection: asyncpg.Connection, *, readonly: bool = True
) -> AsyncIterator[None]:
    """Read one state of the database throughout the block, without the limits for decisions."""
    async with connection.transaction(isolation="repeatable_read", readonly=readonly):
        for setting, value in _LIMITS.items():
            await connection.execute(f"SET LOCAL {setting} = '{value}'")
        yield


async def chunks(
    connection: asyncpg.Connection, statement: str, *arguments: object
) -> AsyncIterator[Sequence[asyncpg.Record]]:
    """Give the rows of a statement, some at a time, in bounded memory."""
    cursor = await connection.cursor(statement, *arguments, timeout=PATIENCE_S)
    while rows := await cursor.fetch(CHUNK, timeout=PATIENCE_S):
        yield rows
