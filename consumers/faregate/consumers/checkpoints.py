"""Read back what was announced about accounts, for `verify` to compare the ledger with.

The topic lies outside of the database: whoever changes the ledger, hashes and all, does not change
what Kafka remembers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from faregate.consumers.kafka import Cluster, make_reader
from faregate.consumers.topic_ids import describe_all
from faregate.events import InvalidRecord, LedgerCheckpointV1, decode, parse
from faregate.events.amounts import MICRO
from faregate.ledger.verify import Checkpoint

TOPIC = "credits.checkpoints"
_POLL_MS = 500


@dataclass(frozen=True, slots=True)
class Said:
    """What was announced: oldest first within an account. `unreadable` records were no checkpoints."""

    checkpoints: list[Checkpoint]
    unreadable: int = 0


class CheckpointsUnreadable(Exception):
    """The checkpoints cannot be read; the message says why."""


async def read_checkpoints(cluster: Cluster, *, timeout_s: float = 30) -> Said:
    """Read every checkpoint that is in Kafka now.

    Raises CheckpointsUnreadable when Kafka does not answer within `timeout_s`, or has no such topic.
    """
    topic = cluster.topic(TOPIC)
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(cluster, await _partitions(cluster, topic))
    except (KafkaError, OSError) as error:  # TimeoutError is an OSError
        reason = f"no end within {timeout_s:g} s" if isinstance(error, TimeoutError) else error
        raise CheckpointsUnreadable(
            f"the checkpoints in {topic} at {cluster.bootstrap} cannot be read: {reason}"
        ) from error


async def _partitions(cluster: Cluster, topic: str) -> list[TopicPartition]:
    described = await describe_all(cluster, [topic])
    if topic not in described.partitions:
        raise CheckpointsUnreadable(
            f"no topic {topic} at {cluster.bootstrap}: run `faregate topics apply` first"
        )
    return [TopicPartition(topic, n) for n in range(described.partitions[topic])]


async def _read(cluster: Cluster, partitions: Sequence[TopicPartition]) -> Said:
    consumer = make_reader(cluster, "verify")
    await consumer.start()
    try:
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        found: list[Checkpoint] = []
        unreadable = 0
        while not await _at_end(consumer, ends):
            for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                read = [c for c in map(_checkpoint, records) if c is not None]
                unreadable += len(records) - len(read)
                found += read
    finally:
        await consumer.stop()
    return Said(found, unreadable)


async def _at_end(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
    for partition, end in ends.items():
        if await consumer.position(partition) < end:
            return False
    return True


def _checkpoint(record: ConsumerRecord) -> Checkpoint | None:
    try:
        data = parse(decode(record.value, record.headers))
    except InvalidRecord:
        return None
    if not isinstance(data, LedgerCheckpointV1):
        return None
    return Checkpoint(
        data.account,
        data.sequence,
        _micro(data.balance),
        _micro(data.held),
        _micro(data.debt),
        bytes.fromhex(data.chain_head),
        data.epoch,
    )


def _micro(credits_: float) -> int:
    """Scale exactly: a double carries six decimals of any amount that is announced."""
    return int(Decimal(str(credits_)) * MICRO)
