"""Fixtures for every suite. Helpers live in tests/helpers; nobody imports from here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack

import asyncpg
import pytest
from tests.helpers.ledger import Ledger
from tests.helpers.servers import Stack, drop_database, fresh_database, servers, shared_home

from faregate.ledger.core import Rules
from faregate.ledger.database import make_pool
from faregate.ledger.store import Store, open_store
from faregate.testing.clocks import Clock

_resources = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the workers of xdist use what their starter reserved
        _resources.enter_context(shared_home())


def pytest_unconfigure() -> None:
    _resources.close()


@pytest.fixture(scope="session")
def stack() -> Stack:
    """The Kafka and PostgreSQL of this run, started by the first test that asks."""
    return servers()


@pytest.fixture
async def database_url(stack: Stack) -> AsyncIterator[str]:
    """A migrated database that only this test has; the URL of its owner."""
    url = await fresh_database(stack.database)
    yield url
    await drop_database(stack.database, url)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    """Connections to that database as the application's role."""
    pool = await make_pool(database_url, name="test")
    yield pool
    pool.terminate()


@pytest.fixture
async def store(pool: asyncpg.Pool) -> Store:
    """The ledger in that database; users get no welcome grant."""
    return await open_store(pool, Rules(provisioning="manual"))


@pytest.fixture
async def clocked(stack: Stack) -> AsyncIterator[tuple[Store, Clock]]:
    """A ledger whose time the test moves, however slow the machine is."""
    url = await fresh_database(stack.database, clock=True)
    pool = await make_pool(url, name="test")
    yield await open_store(pool, Rules(provisioning="manual")), Clock(url)
    pool.terminate()
    await drop_database(stack.database, url)


@pytest.fixture
def ledger(store: Store) -> Ledger:
    """The same ledger, spoken to with little noise."""
    return Ledger(store)
