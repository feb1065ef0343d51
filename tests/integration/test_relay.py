"""The relay on real servers, with a broker that takes its time."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from tests.helpers.kafka import ends_of
from tests.helpers.ledger import Ledger
from tests.helpers.servers import Stack

from faregate.consumers import batches, relay
from faregate.consumers.kafka import Cluster
from faregate.events import apply_topics
from faregate.ledger.core import Rules
from faregate.ledger.store import open_store

pytestmark = pytest.mark.stack


async def test_slow_acknowledgements_do_not_cost_the_relay_its_lock(
    stack: Stack, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(stack.kafka, f"{uuid4().hex[:8]}.")
    await apply_topics(stack.kafka, prefix=cluster.prefix, partitions=1)
    ledger = Ledger(await open_store(pool, Rules(provisioning="manual")))
    monkeypatch.setattr(relay, "_SILENT_S", 1.0)
    monkeypatch.setattr(batches, "send", _slowly(batches.send, 2.5))
    announcing = relay.Relay(ledger.store, cluster)
    running = asyncio.create_task(announcing.run())
    await ledger.grant("org:acme", 1)
    async with asyncio.timeout(30):
        while await pool.fetchval("SELECT count(*) FROM outbox"):
            await asyncio.sleep(0.1)
    announcing.stop()
    await running
    (ends,) = (await ends_of(stack.kafka, [cluster.topic("credits.ledger")])).values()
    assert ends == 1, "with a lost lock it is announced again"


def _slowly(send: Any, seconds: float) -> Any:
    """Acknowledge what was sent so much later."""

    async def late(acknowledged: asyncio.Future[Any]) -> Any:
        await asyncio.sleep(seconds)
        return await acknowledged

    async def sent(*args: Any) -> list[asyncio.Future[Any]]:
        return [asyncio.ensure_future(late(one)) for one in await send(*args)]

    return sent
