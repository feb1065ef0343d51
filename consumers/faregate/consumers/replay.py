"""Look into dead letter queues, and send dead letters to be tried again.

A replay publishes the record's untouched bytes, key and own headers to the topic it came from,
with how often it has been tried. Nothing is deleted and nothing is remembered: the dead letter
stays until its retention is over, and replaying it again is harmless, since what was accepted once
is a duplicate from then on. What fails again becomes a new dead letter with one more attempt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256

from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from faregate.consumers.dlq import HEADER_PREFIX, attempts, dlq_topic_of
from faregate.consumers.kafka import Cluster, make_producer, make_reader
from faregate.consumers.records import there_now
from faregate.consumers.topic_ids import describe
from faregate.events.topics import INPUT_TOPICS

_KEPT = ("faregate-attempts", "faregate-first-seen")


class NoSuchLetter(Exception):
    """There is no dead letter at that place; the message says which places there are."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it lies in its queue. `topic` is the source topic, without prefix.

    `partition` and `offset` are its own; `source_partition` and `source_offset` are those of the
    record that died. `own_headers` are the record's own.
    """

    topic: str
    partition: int
    offset: int
    source_partition: int | None
    source_offset: int | None
    error: str
    message: str
    attempts: int
    first_seen: str | None
    at: datetime
    key: bytes | None
    value: bytes | None = field(repr=False)
    own_headers: tuple[tuple[str, bytes], ...] = field(repr=False)

    @property
    def id(self) -> str:
        """Name the letter for the command line: `usage.recorded:2:17`."""
        return f"{self.topic}:{self.partition}:{self.offset}"


def letter_of(topic: str, record: ConsumerRecord) -> Letter:
    """Read a record of the dead letter queue of `topic`; missing headers are left empty."""
    ours = {k: v or b"" for k, v in record.headers if k.startswith(HEADER_PREFIX)}

    def text(name: str) -> str:
        return ours.get(HEADER_PREFIX + name, b"").decode(errors="replace")

    return Letter(
        topic,
        record.partition,
        record.offset,
        _number(text("partition")),
        _number(text("offset")),
        text("error"),
        text("message"),
        attempts(ours),
        text("first-seen") or None,
        datetime.fromtimestamp(record.timestamp / 1000, UTC),
        record.key,
        record.value,
        tuple((k, v) for k, v in record.headers if not k.startswith(HEADER_PREFIX)),
    )


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


async def letters(cluster: Cluster, topics: Sequence[str] = INPUT_TOPICS) -> AsyncIterator[Letter]:
    """Yield every dead letter of these source topics that is there now; a missing queue has none.

    Raises aiokafka's errors when Kafka is away.
    """
    names = {dlq_topic_of(cluster, topic): topic for topic in topics}
    async for record in there_now(cluster, names, "replay"):
        yield letter_of(names[record.topic], record)


async def letter_at(cluster: Cluster, topic: str, partition: int, offset: int) -> Letter:
    """Read one dead letter of the source topic `topic`. Raises NoSuchLetter."""
    tp = TopicPartition(dlq_topic_of(cluster, topic), partition)
    described = await describe(cluster, [tp.topic])
    if partition >= described.partitions.get(tp.topic, 0):
        raise NoSuchLetter(f"{tp.topic} has no partition {partition}")
    reader = make_reader(cluster, "replay")
    await reader.start()
    try:
        reader.assign([tp])
        first = (await reader.beginning_offsets([tp]))[tp]
        end = (await reader.end_offsets([tp]))[tp]
        if not first <= offset < end:
            there = f"has offsets {first} to {end - 1}" if end > first else "is empty"
            raise NoSuchLetter(f"{tp.topic}[{partition}] has no offset {offset}: it {there}")
        reader.seek(tp, offset)
        record = await reader.getone(tp)
        if record.offset != offset:  # offsets may have gaps
            raise NoSuchLetter(f"{tp.topic}[{partition}] holds no record at offset {offset}")
        return letter_of(topic, record)
    finally:
        with suppress(KafkaError):
            await reader.stop()


def newest_of_each(found: Sequence[Letter]) -> list[Letter]:
    """Keep the most tried one of letters with the same topic, key and bytes, in their order.

    A record that was replayed and failed again lies there several times.
    """
    newest: dict[bytes, Letter] = {}
    for letter in found:
        parts = (letter.topic.encode(), letter.key or b"", letter.value or b"")
        name = sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts)).digest()
        if name not in newest or letter.attempts >= newest[name].attempts:
            newest.pop(name, None)
            newest[name] = letter
    return list(newest.values())


@dataclass(frozen=True, slots=True)
class Replayed:
    """Where a dead letter was published again; `topic` is the full name."""

    letter: Letter
    topic: str
    partition: int
    offset: int


async def replay(cluster: Cluster, found: Sequence[Letter]) -> list[Replayed]:
    """Publish dead letters to the topics they came from; each is acknowledged before the next.

    One by one keeps their order. Raises aiokafka's errors; what was sent before stays sent, and
    repeating the whole changes nothing.
    """
    producer = make_producer(cluster, "replay")
    await producer.start()
    try:
        return [await _send(producer, cluster, letter) for letter in found]
    finally:
        await producer.stop()


async def _send(producer: AIOKafkaProducer, cluster: Cluster, letter: Letter) -> Replayed:
    topic = cluster.topic(letter.topic)
    partitions = await producer.partitions_for(topic)
    same = letter.source_partition if letter.source_partition in partitions else None
    history = {"faregate-attempts": b"%d" % letter.attempts}
    if letter.first_seen:
        history["faregate-first-seen"] = letter.first_seen.encode()
    headers = [*letter.own_headers, *((k, history[k]) for k in _KEPT if k in history)]
    try:
        sent = await producer.send_and_wait(
            topic, letter.value, letter.key, partition=same, headers=headers
        )
    except MessageSizeTooLargeError:
        # A record at the size limit of its topic has no room for our two headers.
        sent = await producer.send_and_wait(
            topic, letter.value, letter.key, partition=same, headers=list(letter.own_headers)
        )
    return Replayed(letter, sent.topic, sent.partition, sent.offset)
