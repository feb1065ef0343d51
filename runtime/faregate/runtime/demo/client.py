"""The demo's side of Kafka and the ledger: it publishes, listens and reads as any app would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from asyncpg.pgproto.pgproto import UUID

from faregate.consumers.dlq import dlq_topic_of
from faregate.consumers.kafka import Cluster
from faregate.consumers.topic_ids import describe
from faregate.events import (
    CreditsAdjustedV1,
    CreditsDeductedV1,
    CreditsHeldV1,
    CreditsReleasedV1,
    Event,
    EventData,
    InvalidRecord,
    LedgerCheckpointV1,
    PipelineDeniedV1,
    PipelineInitiatedV1,
    PublishedRecord,
    Publisher,
    Subscriber,
    decode,
    parse_credits,
)
from faregate.ledger import reading
from faregate.ledger.acts import set_balance
from faregate.ledger.core import Rules
from faregate.ledger.database import make_pool
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store, open_store

SOURCE = "/faregate/demo"
LISTENED: tuple[type[EventData], ...] = (
    PipelineInitiatedV1,
    PipelineDeniedV1,
    CreditsAdjustedV1,
    CreditsHeldV1,
    CreditsReleasedV1,
    CreditsDeductedV1,
    LedgerCheckpointV1,
)
_POLL_S = 0.05

Data = TypeVar("Data", bound=EventData)
Value = TypeVar("Value")


class Unexpected(Exception):
    """Something that the story claims is not so; the message says what was expected instead."""


def expect(claim: str, actual: object, wanted: object) -> None:
    """Raise Unexpected unless `actual` is `wanted`."""
    if actual != wanted:
        raise Unexpected(f"{claim}: expected {wanted!r}, got {actual!r}")


@dataclass(slots=True)
class Inbox:
    """What came back from Kafka, each event once however often it was delivered."""

    events: dict[tuple[str, str], tuple[EventData, Event]] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def put(self, data: EventData, event: Event) -> None:
        """Take an event in."""
        async with self.changed:
            self.events[event.source, event.id] = (data, event)
            self.changed.notify_all()

    def all(self, kind: type[Data]) -> list[tuple[Data, Event]]:
        """Give the events of one type, in the order they came."""
        return [(d, e) for d, e in self.events.values() if isinstance(d, kind)]


@dataclass(slots=True)
class Client:
    """An app with a publisher, a subscriber and a look into the ledger. Make it with `connect`.

    Waiting ends with Unexpected after `patience_s` seconds.
    """

    cluster: Cluster
    store: Store
    patience_s: float
    inbox: Inbox
    _publisher: Publisher
    _listening: asyncio.Task[None]

    async def publish(self, data: EventData, id_: str | None = None) -> PublishedRecord:
        """Publish one event; `id_` to send the same one again."""
        return await self._publisher.publish(data, id=id_)

    async def decision(self, request: PublishedRecord) -> EventData:
        """Wait for the answer to a request."""

        def answers() -> Iterable[EventData]:
            for kind in (PipelineInitiatedV1, PipelineDeniedV1):
                for data, event in self.inbox.all(kind):
                    if event.causationid == request.event.id:
                        yield data

        what = f"an answer to {request.event.type} {request.event.id}"
        return await self.heard(what, lambda: next(iter(answers()), None))

    async def heard(self, what: str, look: Callable[[], Value | None]) -> Value:
        """Wait until `look` finds something in what came back."""
        async with self.inbox.changed:
            found = look()
            until = asyncio.get_running_loop().time() + self.patience_s
            while found is None:
                left = until - asyncio.get_running_loop().time()
                if left <= 0 or self._listening.done():
                    await self._fail_if_deaf()
                    raise Unexpected(f"waited {self.patience_s:.0f} s for {what}; it did not come")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.inbox.changed.wait(), min(left, 1.0))
                found = look()
        return found

    async def polled(self, what: str, look: Callable[[], Awaitable[Value | None]]) -> Value:
        """Wait until `look`, which asks the ledger, finds something."""
        until = asyncio.get_running_loop().time() + self.patience_s
        while (found := await look()) is None:
            if asyncio.get_running_loop().time() > until:
                raise Unexpected(f"waited {self.patience_s:.0f} s for {what}; it did not happen")
            await asyncio.sleep(_POLL_S)
        return found

    async def set_balance(self, subject: str, credits_: int, key: str) -> None:
        """Do what `faregate credits set` does."""
        await set_balance(self.store, subject, parse_credits(credits_), actor="demo", key=key)

    async def account(self, subject: str) -> dict[str, Any]:
        """Read an account as `faregate credits balance` does."""
        return await reading.account(self.store, subject)

    async def history(self, subject: str) -> list[dict[str, Any]]:
        """Read an account's entries, oldest first."""
        return list(reversed(await reading.history(self.store, subject, 10_000)))

    async def hold_state(self, pipeline_id: str) -> str | None:
        """Read the state of a pipeline's hold: live, closing or closed."""
        key = UUID(self.store.keys.pipeline(pipeline_id))
        rows = await self.store.pool.fetch(SQL["pipelines"], [key])
        return rows[0]["state"] if rows else None

    async def dead_letter(self, event_id: str) -> ConsumerRecord:
        """Wait for the dead letter of a usage event of ours."""
        topic = dlq_topic_of(self.cluster, "usage.recorded")
        counts = (await describe(self.cluster, [topic])).partitions
        partitions = [TopicPartition(topic, n) for n in range(counts.get(topic, 0))]
        consumer = AIOKafkaConsumer(
            **self.cluster.connection(),
            isolation_level="read_committed",
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            async with asyncio.timeout(self.patience_s):
                async for record in consumer:
                    if _is_ours(record, event_id):
                        return record
        except TimeoutError:
            pass
        finally:
            await consumer.stop()
        raise Unexpected(f"waited {self.patience_s:.0f} s for event {event_id} in {topic}")

    async def _fail_if_deaf(self) -> None:
        if self._listening.done():
            await self._listening


@asynccontextmanager
async def connect(
    cluster: Cluster, database: str, rules: Rules, group: str, *, patience_s: float
) -> AsyncIterator[Client]:
    """Connect to both servers; listen as the consumer group `group`."""
    inbox = Inbox()
    where: dict[str, Any] = {"prefix": cluster.prefix, "kafka": cluster.kafka}
    subscriber = Subscriber(cluster.bootstrap, group, **where)
    for kind in LISTENED:
        subscriber.on(kind)(inbox.put)
    pool = await make_pool(database, name="demo")
    listening = asyncio.create_task(subscriber.run())
    try:
        store = await open_store(pool, rules)
        async with Publisher(cluster.bootstrap, SOURCE, **where) as publisher:
            yield Client(cluster, store, patience_s, inbox, publisher, listening)
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await listening
        pool.terminate()


def _is_ours(record: ConsumerRecord, event_id: str) -> bool:
    try:
        event = decode(record.value, record.headers)
    except InvalidRecord:
        return False
    return event.source == SOURCE and event.id == event_id
