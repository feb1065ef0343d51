"""Several stores on one database, each with connections of its own, as several processes have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faregate.ledger.core import Rules
from faregate.ledger.database import make_pool
from faregate.ledger.store import Store, open_store

MANUAL = Rules(provisioning="manual")


@asynccontextmanager
async def several_stores(
    url: str, count: int, *, rules: Rules = MANUAL, size: int = 2
) -> AsyncIterator[list[Store]]:
    """Open `count` stores with pools of their own."""
    pools = [await make_pool(url, name=f"lane {n}", size=size) for n in range(count)]
    try:
        yield [await open_store(pool, rules) for pool in pools]
    finally:
        for pool in pools:
            pool.terminate()
