"""The relay on real servers, with a broker that takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from aiokafka.errors import KafkaTimeoutError
from tests.helpers.kafka import read_all
from tests.helpers.ledger import Ledger
from tests.helpers.servers import Stack
from tests.helpers.world import until

from faregate.consumers import batches, relay
from faregate.consumers.kafka import Cluster
from faregate.events import apply_topics, decode
from faregate.ledger import store
from faregate.ledger.core import Rules, Seen
from faregate.ledger.store import Unavailable, open_store

pytestmark = pytest.mark.stack


OUTBOX = "SELECT count(*) FROM outbox"
END_RELAY = """
    SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
    WHERE l.locktype = 'advisory' AND d.datname = current_database()
"""


@dataclass(slots=True)
class Here:
    """A relay that runs, and a ledger for it to announce."""

    cluster: Cluster
    pool: asyncpg.Pool
    ledger: Ledger
    relay: relay.Relay

    async def sequences(self) -> list[int]:
        """Read what was announced of `org:acme`, in order."""
        records = await read_all(self.cluster.bootstrap, [self.cluster.topic("credits.ledger")])
        return [decode(r.value, r.headers).data["sequence"] for r in records]

    async def granted(self, count: int, announced: int | None = None) -> None:
        """Make so many entries of `org:acme`, and wait until they, or fewer, are announced."""
        for _ in range(count):
            await self.ledger.grant("org:acme", 1)
        await self.announced(count if announced is None else announced)

    async def announced(self, count: int) -> None:
        async def all_there() -> bool:
            return len(await self.sequences()) >= count

        await until(all_there, 30, f"{count} announcements")

    async def emptied(self) -> None:
        async def empty() -> bool:
            return not await self.pool.fetchval(OUTBOX)

        await until(empty, 30, "an empty outbox")


@asynccontextmanager
async def relaying(stack: Stack, pool: asyncpg.Pool) -> AsyncIterator[Here]:
    """Run a relay for the length of the block."""
    cluster = Cluster(stack.kafka, f"{uuid4().hex[:8]}.")
    await apply_topics(stack.kafka, prefix=cluster.prefix, partitions=1)
    ledger = Ledger(await open_store(pool, Rules(provisioning="manual")))
    made = Here(cluster, pool, ledger, relay.Relay(ledger.store, cluster))
    running = asyncio.create_task(made.relay.run())
    try:
        yield made
    finally:
        made.relay.stop()
        await running


class Broker:
    """Takes its time, or fails.

    What is sent is sent for real, at once but for `slow_s`. The first `waits` transactions are
    acknowledged when `acks` says so, the others when they are.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, waits: int = 0, slow_s: float = 0
    ) -> None:
        self._send, self._slow_s = batches.send, slow_s
        loop = asyncio.get_running_loop()
        self.acks: list[asyncio.Future[None]] = [loop.create_future() for _ in range(waits)]
        self.sent = 0
        monkeypatch.setattr(batches, "send", self.send)

    async def send(self, *args: Any) -> list[asyncio.Future[Any]]:
        await asyncio.sleep(self._slow_s)
        sent = await self._send(*args)
        ack = self.acks[self.sent] if self.sent < len(self.acks) else None
        self.sent += 1
        return [asyncio.ensure_future(_once(ack, one)) for one in sent]


async def _once(ack: asyncio.Future[None] | None, acknowledged: asyncio.Future[Any]) -> Any:
    if ack is not None:
        await ack
    return await acknowledged


async def test_a_slow_broker_does_not_cost_the_relay_its_lock(
    stack: Stack, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_SILENT_S", 1.0)
    Broker(monkeypatch, slow_s=2.5)
    async with relaying(stack, pool) as here:
        await here.ledger.grant("org:acme", 1)
        await here.emptied()
        assert await here.sequences() == [1], "with a lost lock it is announced again"


async def test_slow_acknowledgements_do_not_cost_the_relay_its_lock(
    stack: Stack, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_SILENT_S", 1.0)
    broker = Broker(monkeypatch, waits=1)
    async with relaying(stack, pool) as here:
        await here.granted(1)
        await asyncio.sleep(2.5)
        broker.acks[0].set_result(None)
        await here.emptied()
        assert await here.sequences() == [1], "with a lost lock it is announced again"


async def test_rows_go_in_the_order_they_were_sent_in(
    stack: Stack, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So whatever is announced again after a crash is followed by all that came after it."""
    broker = Broker(monkeypatch, waits=1)
    async with relaying(stack, pool) as here:
        await here.granted(3)
        await asyncio.sleep(1)
        assert await pool.fetchval(OUTBOX) == 3, "two are acknowledged, and one before them is not"
        broker.acks[0].set_exception(KafkaTimeoutError())
        await here.emptied()
        assert await here.sequences() == [1, 2, 3, 1, 2, 3]


async def test_a_send_that_fails_is_noticed_whatever_is_before_it(
    stack: Stack, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent after it would come before it: so nothing is."""
    broker = Broker(monkeypatch, waits=2)
    async with relaying(stack, pool) as here:
        await here.granted(2)
        broker.acks[1].set_exception(KafkaTimeoutError())
        async with asyncio.timeout(15):  # the first one has 30 s
            await here.emptied()
        assert await here.sequences() == [1, 2, 1, 2]


async def test_a_session_that_ends_while_facts_are_on_their_way_loses_none(
    stack: Stack,
    pool: asyncpg.Pool,
    owner: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Broker(monkeypatch, waits=3)
    async with relaying(stack, pool) as here:
        await here.granted(3)
        assert await owner.fetchval(END_RELAY) == 1
        await here.emptied()
        assert await here.sequences() == [1, 2, 3, 1, 2, 3]


async def test_so_many_transactions_are_on_their_way_and_a_stop_waits_for_them(
    stack: Stack, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_IN_FLIGHT_TX", 2)
    broker = Broker(monkeypatch, waits=3)
    async with relaying(stack, pool) as here:
        await here.granted(4, announced=2)
        await asyncio.sleep(0.5)
        assert broker.sent == 2
        broker.acks[0].set_result(None)
        await here.announced(3)
        here.relay.stop()
        await asyncio.sleep(0.5)
        for ack in broker.acks[1:]:
            ack.set_result(None)
    assert await here.sequences() == [1, 2, 3]
    assert await pool.fetchval(OUTBOX) == 1, "what was sent is deleted, the rest is for the next"


async def test_whoever_commits_facts_tells_of_them_and_nobody_else_does(pool: asyncpg.Pool) -> None:
    ledger = Ledger(await open_store(pool, Rules(provisioning="manual")))
    told: list[str] = []
    async with pool.acquire() as listening:
        await listening.add_listener("outbox", lambda *told_by: told.append(told_by[-1]))
        for _ in range(2):  # the second is a duplicate: nothing is written
            await ledger.grant("org:acme", 1, event_id="g")
        await pool.execute("SELECT pg_notify('outbox', 'the last')")

        async def all_told() -> bool:
            return "the last" in told

        await until(all_told, 10, "what was told")
        await listening.reset()
    assert told == ["", "the last"]
    assert await pool.fetchval(OUTBOX) == 1


@pytest.mark.parametrize("code", ["54000", "55P03"])
async def test_what_is_committed_counts_once_though_nobody_could_be_told(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    # The queue of notifications is full; somebody else's lock was in the way of telling.
    ledger = Ledger(await open_store(pool, Rules(provisioning="manual")))
    fails = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$"
    with monkeypatch.context() as patched:
        patched.setattr(store, "_COMMIT_AND_TELL", f"COMMIT; BEGIN; {fails}; COMMIT")
        with nullcontext() if code == "54000" else pytest.raises(Unavailable):
            await ledger.grant("org:acme", 1, event_id="g")
    assert isinstance(await ledger.grant("org:acme", 1, event_id="g"), Seen)
    assert await pool.fetchval("SELECT count(*) FROM entries") == 1
    assert await pool.fetchval(OUTBOX) == 1
