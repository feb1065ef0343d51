"""What many of these tests begin with; a module that needs something else has its own `here`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.helpers import tampering
from tests.helpers.ledger import Ledger
from tests.helpers.servers import Stack
from tests.helpers.world import World, world


@pytest.fixture
async def here(stack: Stack, database_url: str) -> AsyncIterator[World]:
    """An installation with two partitions of every topic."""
    async with world(stack.kafka, database_url) as made:
        yield made


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the owner of the database."""
    connection = await asyncpg.connect(database_url, timeout=10)
    yield connection
    await connection.close()


@pytest.fixture
async def lived(ledger: Ledger) -> Ledger:
    """A ledger with some of everything."""
    await tampering.live(ledger)
    return ledger
