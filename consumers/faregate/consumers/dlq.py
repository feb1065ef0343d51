"""Dead letters: what can never be processed goes to `<topic>.dlq`, its bytes untouched.

A record is acknowledged only after its dead letter is (rule 7): a failed publish stops the
partition, it never drops. A crash in between publishes it again, with the same topic, partition
and offset in its headers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer, ConsumerRecord

from faregate.consumers.kafka import Cluster
from faregate.events.topics import dlq_of

HEADER_PREFIX = "faregate-"
_MESSAGE_MAX_BYTES = 1_000
_TOPIC_TIMEOUT_S, _ACK_TIMEOUT_S = 2.0, 15.0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record, and why it can never be processed."""

    record: ConsumerRecord
    code: str
    message: str


def headers_of(letter: DeadLetter, now: datetime) -> list[tuple[str, bytes]]:
    """Give the record's own headers followed by ours (contract: `<topic>.dlq`).

    `faregate-attempts` counts how often the record was tried, replays included, and
    `faregate-first-seen` is when it first failed (RFC 3339).
    """
    record = letter.record
    own = [(k, v) for k, v in record.headers if not k.startswith(HEADER_PREFIX)]
    before = {k: v for k, v in record.headers if k.startswith(HEADER_PREFIX)}
    ours = {
        "topic": record.topic.encode(),
        "partition": b"%d" % record.partition,
        "offset": b"%d" % record.offset,
        "error": letter.code.encode(),
        "message": letter.message.encode(errors="replace")[:_MESSAGE_MAX_BYTES],
        "attempts": b"%d" % (attempts(before) + 1),
        "first-seen": before.get("faregate-first-seen") or now.isoformat().encode(),
    }
    return own + [(HEADER_PREFIX + k, v) for k, v in ours.items()]


def attempts(headers: dict[str, bytes]) -> int:
    """Read how often a record has been tried; 0 for one that never was a dead letter."""
    raw = headers.get("faregate-attempts") or b"0"
    return int(raw) if raw.isdigit() and len(raw) < 10 else 0  # noqa: PLR2004


async def bury(producer: AIOKafkaProducer, letters: Sequence[DeadLetter]) -> None:
    """Publish dead letters and wait until all are acknowledged.

    Raises aiokafka's KafkaError, and TimeoutError: soon when a queue does not exist, since whoever
    waits here keeps other partitions waiting, too.
    """
    now = datetime.now(UTC)
    async with asyncio.timeout(_TOPIC_TIMEOUT_S):
        for topic in {dlq_of(letter.record.topic) for letter in letters}:
            await producer.partitions_for(topic)
    async with asyncio.timeout(_ACK_TIMEOUT_S):
        pending = [
            await producer.send(
                dlq_of(letter.record.topic),
                letter.record.value,
                _key_of(letter.record),
                headers=headers_of(letter, now),
            )
            for letter in letters
        ]
        for acknowledged in pending:
            await acknowledged


def _key_of(record: ConsumerRecord) -> bytes | None:
    """Give the record's key. A client refuses to send neither key nor value: an empty key then."""
    key: bytes | None = record.key
    return b"" if key is None and record.value is None else key


def dlq_topic_of(cluster: Cluster, topic: str) -> str:
    """Name the dead letter queue of one of the contract's topics on this cluster."""
    return dlq_of(cluster.topic(topic))
