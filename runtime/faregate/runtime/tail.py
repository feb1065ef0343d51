"""Reading along a topic without being a member of any consumer group: nothing is ever committed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from faregate.consumers.kafka import Cluster, make_reader
from faregate.consumers.topic_ids import describe
from faregate.events import InvalidRecord, all_topics, decode
from faregate.runtime.servers import no_topic

ALIASES = {"denials": "pipeline.denied", "usage": "usage.recorded"}
NAMES = tuple(topic.name for topic in all_topics())
"""What can be followed: the contract's topics and the dead letter queues, without prefix."""

_POLL_MS = 200


async def follow(
    cluster: Cluster,
    name: str,
    stopping: asyncio.Event,
    *,
    from_start: bool = False,
    count: int | None = None,
    timeout_s: float | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """Yield the records of a topic as JSON-ready values until `count`, `timeout_s` or `stopping`.

    Starts at the end unless `from_start`. Records that were there already come in order of time.
    Raises ServerMissing when the topic does not exist, and aiokafka's errors.
    """
    until = None if timeout_s is None else monotonic() + timeout_s
    partitions = await _partitions(cluster, cluster.topic(name))
    consumer = make_reader(cluster, "cli")
    await consumer.start()
    try:
        await _assign(consumer, partitions, from_start=from_start)
        left = count
        while not stopping.is_set() and left != 0 and not (until and monotonic() >= until):
            polled = await consumer.getmany(timeout_ms=_POLL_MS, max_records=500)
            records = [record for some in polled.values() for record in some]
            records.sort(key=lambda r: (r.timestamp, r.partition, r.offset))
            for record in records[:left]:
                yield value_of(record)
            left = None if left is None else max(0, left - len(records))
    finally:
        with suppress(KafkaError):
            await consumer.stop()


async def _partitions(cluster: Cluster, topic: str) -> list[TopicPartition]:
    described = await describe(cluster, [topic])
    if topic not in described.partitions:
        raise no_topic(topic)
    return [TopicPartition(topic, number) for number in range(described.partitions[topic])]


async def _assign(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition], *, from_start: bool
) -> None:
    consumer.assign(partitions)
    if from_start:
        await consumer.seek_to_beginning(*partitions)
    else:
        await consumer.seek_to_end(*partitions)
        for partition in partitions:  # only now is it settled what counts as new
            await consumer.position(partition)


def value_of(record: ConsumerRecord) -> dict[str, Any]:
    """Give a record as a JSON-ready value: where it is, its key, and the event or what it is."""
    value: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "at": datetime.fromtimestamp(record.timestamp / 1000, UTC).isoformat(),
        "key": text_of(record.key),
    }
    ours = {k: text_of(v) for k, v in record.headers if k.startswith("faregate-")}
    if ours:
        value["headers"] = ours
    try:
        event = decode(record.value, record.headers)
    except InvalidRecord as error:
        return value | {"invalid": str(error), "raw": _shortened(text_of(record.value) or "")}
    fields = ("id", "source", "type", "correlationid", "causationid", "traceparent")
    value |= {name: getattr(event, name) for name in fields if getattr(event, name) is not None}
    return value | {
        "time": event.time.isoformat() if event.time else None,
        "data": json.loads(json.dumps(event.data)),
    }


def text_of(raw: bytes | None) -> str | None:
    """Read bytes as text; what is not UTF-8 is escaped."""
    return None if raw is None else raw.decode(errors="backslashreplace")


_RAW_CHARS = 2_000


def _shortened(text: str) -> str:
    return text if len(text) <= _RAW_CHARS else f"{text[:_RAW_CHARS]}…"
