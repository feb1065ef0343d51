"""Accounts that somebody else has locked, and who waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

_LOCK = """
SELECT 1 FROM accounts
WHERE id IN (SELECT account_id FROM subjects WHERE subject = ANY ($1)) FOR UPDATE"""
_WAITING = """
SELECT count(*) FROM pg_locks waiting JOIN pg_stat_activity session USING (pid)
WHERE NOT waiting.granted AND session.datname = current_database()"""


@asynccontextmanager
async def account_locked(pool: asyncpg.Pool, *subjects: str) -> AsyncIterator[None]:
    """Hold the locks of accounts: whoever decides about one waits."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(_LOCK, subjects)
        yield


async def is_free(pool: asyncpg.Pool, subject: str) -> bool:
    """Tell whether nobody has locked an account."""
    return bool(await pool.fetch(f"{_LOCK} SKIP LOCKED", [subject]))


async def somebody_waits(pool: asyncpg.Pool) -> None:
    """Wait until some transaction of this database waits for a lock."""
    async with asyncio.timeout(5):
        while not await pool.fetchval(_WAITING):
            await asyncio.sleep(0.01)
