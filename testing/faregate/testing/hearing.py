"""Everything that is said on the topics of an installation, heard from a test's beginning on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from faregate.consumers.kafka import Cluster, make_reader
from faregate.consumers.topic_ids import ClusterTopics, describe_all
from faregate.events import Event, EventData, InvalidRecord, all_topics, decode, parse

_POLL_MS = 100


@dataclass(slots=True, eq=False)
class Heard:
    """One record: `topic` without prefix; `event` and `data` unless it is no valid event."""

    topic: str
    record: ConsumerRecord
    event: Event | None
    data: EventData | None
    at: float
    """When it was heard, by `time.monotonic`."""

    taken: bool = False
    """Whether an expectation has returned it."""

    @property
    def header(self) -> dict[str, str]:
        """The record's headers as text: of a dead letter, what is wrong with it."""
        return {k: v.decode(errors="replace") for k, v in self.record.headers}


@dataclass(slots=True)
class Ear:
    """Hears all topics of an installation. Make it with `listening`."""

    topics: ClusterTopics
    prefix: str
    _consumer: AIOKafkaConsumer
    heard: list[Heard] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _at: dict[TopicPartition, int] = field(default_factory=dict)
    _known: set[tuple[str, str, str]] = field(default_factory=set)
    _failed: BaseException | None = None

    async def ends(self, *topics: str) -> dict[TopicPartition, int]:
        """Give the ends of the partitions of these topics (without prefix), all if none."""
        names = {self.prefix + topic for topic in topics}
        wanted = [tp for tp in self._at if not names or tp.topic in names]
        found: dict[TopicPartition, int] = await self._consumer.end_offsets(wanted)
        return found

    async def caught_up(self, ends: dict[TopicPartition, int]) -> None:
        """Wait until everything before these ends has been heard."""
        async with self.changed:
            await self.changed.wait_for(
                lambda: self._failed or all(self._at[tp] >= end for tp, end in ends.items())
            )
        self.check()

    def check(self) -> None:
        """Raise what made us deaf, if anything did."""
        if self._failed is not None:
            raise RuntimeError("the test kit cannot read the topics any more") from self._failed

    async def listen(self) -> None:
        """Hear until cancelled."""
        try:
            while True:
                found = await self._consumer.getmany(timeout_ms=_POLL_MS)
                async with self.changed:
                    for partition, records in found.items():
                        for record in records:
                            self._take(record)
                        self._at[partition] = records[-1].offset + 1
                    self.changed.notify_all()
        except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it was
            async with self.changed:
                self._failed = error
                self.changed.notify_all()

    def _take(self, record: ConsumerRecord) -> None:
        """Remember a record; what is announced again under the same id was heard already."""
        topic = record.topic.removeprefix(self.prefix)
        event, data = _read(record)
        if event is not None:
            key = (topic, event.source, event.id)
            if key in self._known and not topic.endswith(".dlq"):
                return
            self._known.add(key)
        self.heard.append(Heard(topic, record, event, data, monotonic()))


def _read(record: ConsumerRecord) -> tuple[Event | None, EventData | None]:
    try:
        event = decode(record.value, record.headers)
    except InvalidRecord:
        return None, None
    try:
        return event, parse(event)
    except InvalidRecord:
        return event, None


@asynccontextmanager
async def listening(cluster: Cluster) -> AsyncIterator[Ear]:
    """Hear everything from now on."""
    names = [cluster.topic(topic.name) for topic in all_topics()]
    topics = await describe_all(cluster, names)
    consumer = make_reader(cluster, "testing")
    await consumer.start()
    try:
        places = [TopicPartition(t, n) for t, c in topics.partitions.items() for n in range(c)]
        consumer.assign(places)
        now: dict[TopicPartition, int] = await consumer.end_offsets(places)
        for place, end in now.items():
            consumer.seek(place, end)
        ear = Ear(topics, cluster.prefix, consumer, _at=dict(now))
        task = asyncio.create_task(ear.listen())
        try:
            yield ear
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    finally:
        await consumer.stop()
