"""The relay: the only publisher of facts (rule 6).

It reads the outbox in id order, builds the events of each transaction from the ledger's rows,
publishes them, and deletes the outbox row once all are acknowledged. It goes on reading meanwhile,
but rows go in the order they were sent in: what is left after a crash has nothing missing before
it. Ids of one account rise in commit order, so its facts are announced in order. After a failed
send it starts again with a new producer at the oldest row: what was announced twice has the same
event id.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import time_ns
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from faregate.consumers import announce, batches, collector, spans
from faregate.consumers.announce import Record
from faregate.consumers.kafka import Cluster, close_producer, make_producer, start
from faregate.events import tracing
from faregate.ledger import bodies, failpoints
from faregate.ledger.database import TRANSIENT
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store
from faregate.ledger.write import TX_BITS

log = structlog.get_logger("faregate.relay")

_IN_FLIGHT_TX = 64
_IDLE_S = 0.25
_RETRY_S = 0.5
_ACK_TIMEOUT_S = 30.0
_SILENT_S = 10.0

_PLANS = (
    "plan_cache_mode = force_generic_plan",
    "enable_seqscan = off",
    "enable_hashjoin = off",
    "enable_mergejoin = off",
    "max_parallel_workers_per_gather = 0",
)
"""Left to itself the server plans the relay's questions anew for each transaction of the ledger. A
plan that is kept knows no ids, and so not how few rows a range has: this leaves it only keys."""

Value = TypeVar("Value")


async def _reset(connection: asyncpg.Connection) -> None:
    """Let the lock go; where the server does not hear it, by ending the session."""
    try:
        await connection.reset()
    except TRANSIENT:  # what broke the relay off says more
        connection.terminate()


class LostLock(Exception):
    """The connection that holds the relay's lock is gone, so another relay may have it."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A transaction whose facts are on their way; `acked` ends when all are acknowledged."""

    tx: int
    acked: asyncio.Task[None]


class Relay:
    """Publishes the outbox of one database. At most one at a time does (advisory lock)."""

    def __init__(self, store: Store, cluster: Cluster) -> None:
        self._store = store
        self._cluster = cluster
        self._stopping = asyncio.Event()
        self._news = asyncio.Event()
        self._ledger_id = UUID(int=0)

    def stop(self) -> None:
        """Finish what is being sent, then return from `run`."""
        self._stopping.set()
        self._news.set()

    async def run(self) -> None:
        """Publish until `stop`; waits and tries again when a server is away."""
        collector.settle()
        while not self._stopping.is_set():
            try:
                await self._with_lock()
            except (KafkaError, LostLock, *TRANSIENT) as error:
                log.warning("relay_retries", error=repr(error))
                await self._wait(self._stopping, _RETRY_S)

    async def _with_lock(self) -> None:
        async with self._store.pool.acquire() as connection:
            if not await connection.fetchval(SQL["lock_relay"]):
                await self._wait(self._stopping, _RETRY_S)
                return
            producer = make_producer(self._cluster, "relay")
            in_flight: deque[Sent] = deque()
            try:
                await self._prepare(connection)
                await start(producer.start, self._cluster)
                log.info("relay_started")
                while in_flight or not self._stopping.is_set():
                    await self._turn(connection, producer, in_flight)
            finally:
                await _give_up(in_flight)
                await close_producer(producer)
                if not connection.is_closed():
                    await _reset(connection)

    async def _prepare(self, connection: asyncpg.Connection) -> None:
        # A relay that has been stopped must not keep the lock: its session ends by the server.
        await connection.execute(f"SET idle_session_timeout = '{_SILENT_S:.0f}s'")
        # A deletion that a crash undoes makes an announcement again, with the id it had.
        await connection.execute("SET synchronous_commit = off")
        for setting in _PLANS:
            await connection.execute(f"SET {setting}")
        self._store.forget()  # a new connection may lead to a restored backup
        await connection.add_listener("outbox", self._on_news)
        row = await connection.fetchrow(SQL["ledger"])
        self._ledger_id = row["ledger_id"]

    def _on_news(self, *_: object) -> None:
        self._news.set()

    async def _turn(
        self, connection: asyncpg.Connection, producer: AIOKafkaProducer, in_flight: deque[Sent]
    ) -> None:
        """Delete what is acknowledged, send what is new; wait when there is neither."""
        self._news.clear()
        if connection.is_closed():
            raise LostLock
        acked = _acknowledged(in_flight)
        if acked:
            failpoints.reach("after_ack")
        room = 0 if self._stopping.is_set() else _IN_FLIGHT_TX - len(in_flight)
        sent = [sent.tx for sent in in_flight]
        waiting = await connection.fetch(SQL["outbox"], acked, sent, room)
        _raise_failed(in_flight)
        if not waiting:
            await self._wait(self._news, _IDLE_S)
            return
        self._as_of(waiting[0]["erasures"])
        for row in waiting:
            records = await self._records(connection, row["tx"], row["checkpoints"])
            _raise_failed(in_flight)
            failpoints.reach("before_send")
            began_ns = time_ns()
            sending = batches.send(producer, self._cluster, records)
            pending = await _awake(connection, sending, in_flight)
            task = asyncio.create_task(
                _settled(pending, len(records), _contexts(records), began_ns)
            )
            task.add_done_callback(self._on_news)
            in_flight.append(Sent(row["tx"], task))

    def _as_of(self, erasures: int) -> None:
        """Forget names when somebody has been erased, wherever they are remembered."""
        names = self._store.names
        if names.erasures != erasures:
            announce.forget()
            batches.forget()
        names.as_of(erasures)

    async def _records(
        self, connection: asyncpg.Connection, tx: int, checkpoints: str | None
    ) -> list[Record]:
        first, end = tx << TX_BITS, (tx + 1) << TX_BITS
        outcomes = await connection.fetch(SQL["announced_outcomes"], first, end)
        entries = await connection.fetch(SQL["announced_entries"], first, end)
        parsed = [json.loads(row["body"]) for row in outcomes]
        states: list[dict[str, Any]] = json.loads(checkpoints) if checkpoints else []
        involved = announce.accounts_of([*outcomes, *entries])
        involved.update(state["account_id"] for state in states)
        for body in parsed:
            involved |= bodies.accounts_in(body)
        subjects = await self._store.names.subjects(involved, connection)
        records = [
            announce.outcome(row, body, subjects)
            for row, body in zip(outcomes, parsed, strict=True)
        ]
        records += announce.entries(entries, subjects, self._store.keys)
        if states:
            epoch, now = await connection.fetchval(SQL["epoch"]), datetime.now(UTC)
            records += [
                announce.checkpoint(s, self._ledger_id, epoch, now, subjects) for s in states
            ]
        return records

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)


def _acknowledged(in_flight: deque[Sent]) -> list[int]:
    """Take out those that are acknowledged, as are all before them."""
    acked = []
    while in_flight and in_flight[0].acked.done() and in_flight[0].acked.exception() is None:
        acked.append(in_flight.popleft().tx)
    return acked


def _raise_failed(in_flight: deque[Sent]) -> None:
    """Raise what a send did, whichever it was: what comes after it must not be sent."""
    for sent in in_flight:
        if sent.acked.done():
            sent.acked.result()


async def _give_up(in_flight: deque[Sent]) -> None:
    """Wait for nothing more; their rows are still there, so another relay sends them again."""
    for sent in in_flight:
        sent.acked.cancel()
    await asyncio.gather(*(sent.acked for sent in in_flight), return_exceptions=True)


def _contexts(records: Sequence[Record]) -> set[tracing.TraceContext | None]:
    if not tracing.is_recording():
        return set()
    return {tracing.context_in(r.headers) for r in records}


async def _settled(
    pending: Sequence[asyncio.Future[Any]],
    count: int,
    contexts: set[tracing.TraceContext | None],
    began_ns: int,
) -> None:
    """Wait until all is acknowledged. Raises aiokafka's errors and TimeoutError."""
    try:
        with spans.published(count, contexts, began_ns):
            async with asyncio.timeout(_ACK_TIMEOUT_S):
                await asyncio.gather(*pending)
    finally:
        for future in pending:
            future.cancel()


async def _awake(
    connection: asyncpg.Connection, work: Awaitable[Value], in_flight: deque[Sent]
) -> Value:
    """Wait for the broker; the session that holds the lock must not end of silence meanwhile.

    Raises what a send before it did.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=_SILENT_S / 3))[0]:
            await connection.execute("SELECT 1")
            _raise_failed(in_flight)
        return await task
    finally:
        task.cancel()
