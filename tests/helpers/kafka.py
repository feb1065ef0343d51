"""Kafka as an outsider sees it: plain aiokafka clients, raw CloudEvents, records as they lie."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.record.util import calc_crc32c

CONTENT_TYPE = ("content-type", b"application/cloudevents+json; charset=UTF-8")
SOURCE = "tests/outside"
_CRC_AT = 17  # in a record batch of version 2


@dataclass(frozen=True, slots=True)
class Raw:
    """One record to send: `topic` without prefix."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None


def structured(
    type_: str, data: Mapping[str, Any], event_id: str, source: str = SOURCE, **more: Any
) -> bytes:
    """Write a structured CloudEvent by hand."""
    envelope = {"specversion": "1.0", "id": event_id, "source": source, "type": type_, **more}
    return json.dumps({**envelope, "data": dict(data)}).encode()


def binary_headers(
    type_: str, event_id: str, source: str = SOURCE, **more: str
) -> tuple[tuple[str, bytes], ...]:
    """Give the headers of a CloudEvent in binary mode."""
    fields = {"specversion": "1.0", "id": event_id, "source": source, "type": type_, **more}
    return (
        ("content-type", b"application/json"),
        *((f"ce_{k}", v.encode()) for k, v in fields.items()),
    )


@asynccontextmanager
async def plain_producer(
    bootstrap: str, *, idempotent: bool = True, compression: str | None = None
) -> AsyncIterator[AIOKafkaProducer]:
    """Run a producer that knows nothing of Faregate."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        enable_idempotence=idempotent,
        max_request_size=16_000_000,
        compression_type=compression,
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def plain_consumer(bootstrap: str) -> AsyncIterator[AIOKafkaConsumer]:
    """Run a consumer without a group."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4_000_000,
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def send(
    bootstrap: str, prefix: str, records: Iterable[Raw], *, compression: str | None = None
) -> list[tuple[int, int]]:
    """Send records and wait for all acks; give (partition, offset) of each."""
    async with plain_producer(bootstrap, compression=compression) as producer:
        pending = [
            await producer.send(
                prefix + r.topic, r.value, r.key, partition=r.partition, headers=list(r.headers)
            )
            for r in records
        ]
        done = [await future for future in pending]
    return [(d.partition, d.offset) for d in done]


async def send_with_header_name(
    bootstrap: str, prefix: str, record: Raw, name: bytes, value: bytes
) -> None:
    """Send a record with a header whose name is any bytes; no Python client would."""
    async with plain_producer(bootstrap, idempotent=False) as producer:
        batch = producer.create_batch()
        headers = [*record.headers, ("~" * len(name), value)]
        batch.append(key=record.key, value=record.value, timestamp=None, headers=headers)
        batch.close()
        build = batch._build

        def patched() -> bytearray:
            buffer = bytearray(build())
            at = buffer.index(b"~" * len(name))
            buffer[at : at + len(name)] = name
            struct.pack_into(">I", buffer, _CRC_AT, calc_crc32c(bytes(buffer[_CRC_AT + 4 :])))
            batch._buffer = buffer
            return buffer

        batch._build = patched
        await (await producer.send_batch(batch, prefix + record.topic, partition=0))


async def read_all(bootstrap: str, topics: Sequence[str]) -> list[ConsumerRecord]:
    """Read every record of the topics (full names), in order within each partition."""
    async with plain_consumer(bootstrap) as consumer:
        partitions = await _partitions(consumer, topics)
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        starts = await consumer.beginning_offsets(partitions)
        left = {tp for tp in partitions if ends[tp] > starts[tp]}
        await consumer.seek_to_beginning(*partitions)
        records: list[ConsumerRecord] = []
        while left:
            for found in (await consumer.getmany(timeout_ms=500)).values():
                records += found
            left = {tp for tp in left if await consumer.position(tp) < ends[tp]}
    return records


async def ends_of(bootstrap: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
    """Give the end of every partition of the topics (full names)."""
    async with plain_consumer(bootstrap) as consumer:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(
            await _partitions(consumer, topics)
        )
    return ends


async def _partitions(consumer: AIOKafkaConsumer, topics: Sequence[str]) -> list[TopicPartition]:
    await consumer._client.force_metadata_update()
    found = []
    for topic in topics:
        numbers = await consumer._client._wait_on_metadata(topic)
        found += [TopicPartition(topic, n) for n in sorted(numbers)]
    return found
