"""Connections to PostgreSQL: the application's role, and limits that the server enforces.

Rule 11: the time-outs are the server's, so they hold for a client that has been stopped, too.
"""

from __future__ import annotations

import asyncpg

APP_ROLE = "faregate_app"

SERVER_LIMITS = {
    "idle_in_transaction_session_timeout": "5s",
    "transaction_timeout": "15s",
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "jit": "off",
}
"""Set for each session when it starts; the migration sets the same for the role itself."""


class Unavailable(Exception):
    """The database cannot answer now; nothing was decided (rule 8). Try again later."""


class TurnedAway(Unavailable):
    """There is no room to wait in: nothing was decided, and nothing of it will be."""


TRANSIENT: tuple[type[BaseException], ...] = (
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver loses its place when a server ends in mid-answer
    asyncpg.InvalidCachedStatementError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.UniqueViolationError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InvalidTransactionStateError,
    OSError,
    TimeoutError,
    Unavailable,
)
"""What a retry of the whole transaction can mend. A unique violation is one: the second look sees
the row that was in the way, and the command is a duplicate or a conflict."""


async def _tidy(connection: asyncpg.Connection) -> None:
    """Reset a connection only if it comes back in the middle of something.

    Whoever sets something on a session (the relay, one question of the command line) resets it or
    ends with it, and asking the server to forget nothing costs a round trip for each batch.
    """
    if connection.is_in_transaction():
        await connection.reset()


async def make_pool(url: str, *, name: str, size: int = 4) -> asyncpg.Pool:
    """Open a pool as the application role. Raises the driver's errors when the server is away."""
    return await asyncpg.create_pool(
        url,
        min_size=1,
        max_size=size,
        command_timeout=30,
        timeout=10,
        reset=_tidy,
        server_settings={"role": APP_ROLE, "application_name": f"faregate {name}", **SERVER_LIMITS},
    )
