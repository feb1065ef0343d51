"""Calls that are no commands of the ledger, once for each Idempotency-Key, for ever.

What was answered is kept in the transaction of what was done, under a unique key, so a repeat finds
it whichever process answers. Only what was done is kept: a call that failed is decided anew. None in
the place of a call stands for one without a key: it is never found and never kept.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.ledger.core import Rejected
from faregate.ledger.database import Unavailable
from faregate.ledger.keys import Keys
from faregate.ledger.queries import SQL

Answer = Mapping[str, Any]
"""What is kept of an answer. Somebody else's name may only stand in it as `by`, an org's as `org`:
erase empties these."""

_PATIENCE_S, _PAUSE_S = 5.0, 0.05


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as keyed hashes. The first fingerprint is kept; any of them is the same content."""

    key: bytes
    caller: bytes
    fingerprints: Sequence[bytes]


def caller_key(keys: Keys, caller: str) -> bytes:
    """Commit to who called (`ada`): an erasure finds their calls by it."""
    return keys.internal("caller", caller)


def call_of(
    keys: Keys, scope: str, route: str, key: str, caller: str, contents: Sequence[Mapping[str, Any]]
) -> Call:
    """Name a call: `key` is unique within `scope` and `route`; `caller` is whose row it will be.

    `contents` are ways to say the same, mostly one. No secret may be in them.
    """
    fingerprints = [keys.fingerprint(f"call {route}", content) for content in contents]
    return Call(
        keys.internal("call", scope, route, key), caller_key(keys, caller), tuple(fingerprints)
    )


async def found(connection: asyncpg.Connection | asyncpg.Pool, call: Call | None) -> Answer | None:
    """Give what was answered to a call; None: it was not made. Raises Rejected: other content."""
    if call is None:
        return None
    row = await connection.fetchrow(SQL["http_call"], UUID(call.key))
    if row is None:
        return None
    if row["fingerprint"].bytes not in call.fingerprints:
        message = "the same Idempotency-Key was used for other content"
        raise Rejected("idempotency_conflict", message)
    answer: Answer = json.loads(row["answer"])
    return answer


async def answered(connection: asyncpg.Connection, call: Call | None) -> Answer | None:
    """Give what `found` gives, within a transaction: until its end nobody else makes this call."""
    if call is not None:
        await connection.execute(SQL["lock_call"], UUID(call.key))
    return await found(connection, call)


async def remember(connection: asyncpg.Connection, call: Call | None, answer: Answer) -> None:
    """Keep what is answered to a call, in the transaction of what was done."""
    if call is not None:
        await connection.execute(
            SQL["add_http_call"],
            UUID(call.key),
            UUID(call.caller),
            UUID(call.fingerprints[0]),
            json.dumps(answer),
        )


@asynccontextmanager
async def alone(pool: asyncpg.Pool, call: Call) -> AsyncIterator[asyncpg.Connection]:
    """Let nobody else make this call, without a transaction: for work outside of the database.

    Who waits holds no connection meanwhile. Raises Unavailable when that takes too long.
    """
    until = asyncio.get_running_loop().time() + _PATIENCE_S
    while asyncio.get_running_loop().time() < until:
        async with pool.acquire() as connection:
            if await _or_ended(connection, SQL["try_lock_call"], call):
                try:
                    yield connection
                finally:
                    await _or_ended(connection, SQL["unlock_call"], call)
                return
        await asyncio.sleep(_PAUSE_S)
    raise Unavailable("the same call is being made")


async def _or_ended(connection: asyncpg.Connection, sql: str, call: Call) -> bool:
    """Lock or unlock a call. If that is interrupted, the session ends: its lock would outlive it."""
    try:
        return bool(await connection.fetchval(sql, UUID(call.key)))
    except BaseException:
        connection.terminate()
        raise
