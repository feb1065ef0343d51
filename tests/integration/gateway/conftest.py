"""A gateway on a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.integration.gateway.calling import Town, town

from faregate.ledger.core import Rules
from faregate.ledger.store import open_store

pytestmark = pytest.mark.stack


@pytest.fixture
async def here(pool: asyncpg.Pool) -> AsyncIterator[Town]:
    """Users get no welcome grant."""
    store = await open_store(pool, Rules(provisioning="manual"))
    async with town(store, sign_ins_per_minute=1000) as found:
        yield found


@pytest.fixture
async def welcoming(pool: asyncpg.Pool) -> AsyncIterator[Town]:
    """Users get 5 credits when they are seen for the first time."""
    store = await open_store(pool, Rules(provisioning="auto"))
    async with town(store, sign_ins_per_minute=1000) as found:
        yield found
