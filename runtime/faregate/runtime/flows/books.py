"""The ledger beside the gateway: what the report compares HTTP with, read from the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

import asyncpg

from faregate.events.amounts import to_credits
from faregate.ledger import acts, reading, reading_orgs
from faregate.ledger.core import Rules
from faregate.ledger.database import TRANSIENT, make_pool
from faregate.ledger.store import Store, open_store
from faregate.ledger.verify import Report as Verified
from faregate.ledger.verify import verify
from faregate.runtime.servers import ServerMissing

ACTOR = "faregate report"
_ENTRIES = 500
_POLL_S = 0.05
_SUMS = """
SELECT coalesce(sum(amount), 0)::bigint AS balance,
       coalesce(sum(held_delta), 0)::bigint AS held,
       coalesce(-sum(amount) FILTER (WHERE kind = 'usage'), 0)::bigint AS used
FROM entries WHERE account_id = $1"""
_NEWEST = "SELECT coalesce(max(tx), 0) FROM outbox"
_WAITS = "SELECT EXISTS (SELECT FROM outbox WHERE tx <= $1)"
_SEALED = "SELECT to_jsonb(k)::text FROM byok_keys k WHERE owner = $1"


@dataclass(frozen=True, slots=True)
class Sums:
    """What an account's entries add up to, in credits. `used`: what usage has taken."""

    balance: float
    held: float
    used: float


@dataclass(frozen=True, slots=True)
class Books:
    """A ledger. Everything raises the driver's errors."""

    store: Store

    async def balance(self, subject: str) -> float:
        """Give the balance that is in an account's row."""
        return float((await reading.account(self.store, subject))["balance"])

    async def sums(self, subject: str) -> Sums:
        """Add up an account's entries."""
        account_id = await self.store.names.find(subject)
        row = await self.store.pool.fetchrow(_SUMS, account_id)
        return Sums(*(to_credits(row[name]) for name in ("balance", "held", "used")))

    async def remaining(self, org: str, user: str) -> float:
        """Give what is left of a member's allocation."""
        found = await reading_orgs.members(self.store, org, user)
        return float(found[0]["remaining"]) if found else 0.0

    async def calls(self, user: str) -> int:
        """Give the calls that were counted in a user's period."""
        return int((await reading.quota(self.store, user))["used"])

    async def usage(self, subject: str) -> list[dict[str, Any]]:
        """List an account's usage entries, newest first."""
        rows = await reading.history(self.store, subject, _ENTRIES)
        return [row for row in rows if row["kind"] == "usage"]

    async def set_quota(self, user: str, calls: int | None) -> None:
        """Do what `faregate credits quota` does; None: as the tier says."""
        await acts.set_quota(self.store, user, calls, actor=ACTOR, key=str(uuid4()))

    async def stored_keys(self, owner: str) -> list[str]:
        """Give the rows of the keys that somebody brought, as text; bytes are in hex."""
        return [str(row[0]) for row in await self.store.pool.fetch(_SEALED, owner)]

    async def announced(self, patience_s: float) -> bool:
        """Wait until everything that is written now has been published to Kafka."""
        newest = await self.store.pool.fetchval(_NEWEST)
        until = asyncio.get_running_loop().time() + patience_s
        while await self.store.pool.fetchval(_WAITS, newest):
            if asyncio.get_running_loop().time() > until:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def verified(self, since: datetime) -> Verified:
        """Prove the accounts that have entries since a time."""
        return await verify(self.store.pool, since=since)

    async def now(self) -> datetime:
        """Give the database's time."""
        at: datetime = await self.store.pool.fetchval("SELECT clock_timestamp()")
        return at

    async def reconnect(self) -> None:
        """Let go of connections to a server that was restarted."""
        await self.store.pool.expire_connections()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Books]:
    """Open the ledger in a database. Raises ServerMissing when it cannot be."""
    try:
        pool = await make_pool(url, name="report")
    except (*TRANSIENT, asyncpg.PostgresError, ValueError) as error:
        raise ServerMissing(
            f"the ledger's database cannot be opened: {type(error).__name__}",
            "give the URL that the gateway has in FAREGATE_DATABASE, or leave it out",
        ) from error
    try:
        yield Books(await open_store(pool, Rules(provisioning="manual")))
    finally:
        pool.terminate()
