from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
from tests.helpers import tampering as tamper
from tests.helpers.ledger import Ledger
from tests.helpers.servers import Stack
from tests.helpers.tampering import cover_up, tampering

from faregate.consumers.checkpoints import CheckpointsUnreadable, Said, read_checkpoints
from faregate.consumers.kafka import Cluster, make_producer
from faregate.consumers.relay import Relay
from faregate.events import apply_topics
from faregate.ledger.core import Rules
from faregate.ledger.store import open_store
from faregate.ledger.verify import verify

pytestmark = pytest.mark.stack


@pytest.fixture
async def cluster(stack: Stack) -> Cluster:
    """Topics of this test's own."""
    cluster = Cluster(stack.kafka, f"{uuid4().hex[:8]}.")
    await apply_topics(stack.kafka, prefix=cluster.prefix, partitions=3)
    return cluster


@pytest.fixture
async def announcing(pool: asyncpg.Pool, cluster: Cluster) -> AsyncIterator[Ledger]:
    """A ledger that announces every entry, with its relay running."""
    store = await open_store(pool, Rules(provisioning="manual"), checkpoint_every=1)
    relay = Relay(store, cluster)
    running = asyncio.create_task(relay.run())
    yield Ledger(store)
    relay.stop()
    await running


async def _until_announced(ledger: Ledger) -> None:
    async with asyncio.timeout(30):
        while await ledger.store.pool.fetchval("SELECT count(*) FROM outbox"):
            await asyncio.sleep(0.02)


async def test_what_the_relay_announced_is_what_verify_compares(
    announcing: Ledger, cluster: Cluster, database_url: str
) -> None:
    await tamper.live(announcing)
    await announcing.set_balance("org:odd", 0.1)
    await announcing.grant("org:odd", 999_999_998.123456)
    await _until_announced(announcing)
    said = (await read_checkpoints(cluster)).checkpoints
    report = await verify(announcing.store.pool, checkpoints=said)
    assert report.findings == []
    assert {c.account for c in said} >= {"org:acme", "org:odd", "user:alice", "user:bob"}
    async with tampering(database_url) as connection:
        plain = await tamper.account_id(connection, "org:plain")
        await tamper.forget_outcomes(connection, await tamper.cut_off(connection, plain, 1))
        await tamper.match_account(connection, plain)
        await cover_up(connection)
        report = await verify(connection, checkpoints=said)
    (finding,) = report.findings
    assert finding.row == "checkpoints of org:plain sequence 3"


async def test_records_that_are_no_checkpoints_are_counted(
    announcing: Ledger, cluster: Cluster
) -> None:
    producer = make_producer(cluster, "test")
    await producer.start()
    for partition in range(3):
        await producer.send_and_wait(
            cluster.topic("credits.checkpoints"), b"x", partition=partition
        )
    await producer.stop()
    await announcing.set_balance("org:acme", 1)
    await _until_announced(announcing)
    found = await read_checkpoints(cluster)
    (said,) = found.checkpoints
    assert found.unreadable == 3
    assert (said.account, said.sequence, said.balance) == ("org:acme", 1, 1_000_000)


async def test_an_empty_topic_has_no_checkpoints(cluster: Cluster) -> None:
    assert await read_checkpoints(cluster) == Said([])


async def test_a_missing_topic_is_said(stack: Stack) -> None:
    with pytest.raises(CheckpointsUnreadable, match=r"no topic none\.credits\.checkpoints"):
        await read_checkpoints(Cluster(stack.kafka, "none."))


async def test_a_kafka_that_is_away_is_said() -> None:
    with pytest.raises(CheckpointsUnreadable, match="cannot be read"):
        await read_checkpoints(Cluster("127.0.0.1:9"), timeout_s=5)
