"""Kafka clients with safe settings: aiokafka's defaults would lose or double records."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError

from faregate.events import connecting
from faregate.events.topics import DLQ_EXTRA_BYTES, MAX_MESSAGE_BYTES, topic_name

LARGEST_RECORD = MAX_MESSAGE_BYTES + DLQ_EXTRA_BYTES
LARGEST_UNPACKED = 1 << 30


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which Kafka, and the prefix that all our topics and groups have there.

    `kafka` goes to every client (TLS, SASL). It may hold a password: never log it.
    """

    bootstrap: str
    prefix: str = ""
    session_timeout_ms: int = 15_000
    kafka: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    def connection(self) -> dict[str, Any]:
        """Give what a client of aiokafka needs to come in."""
        return {**self.kafka, "bootstrap_servers": self.bootstrap}

    def topic(self, name: str) -> str:
        """Give the full name of one of the contract's topics."""
        return topic_name(self.prefix, name)

    def group(self, consumer: str) -> str:
        """Give the name of a consumer group."""
        return f"{self.prefix}faregate.{consumer}"


def make_consumer(cluster: Cluster, consumer: str) -> AIOKafkaConsumer:
    """Make an unsubscribed consumer: committed reads only, nothing committed by itself.

    Range assignment gives the same partition numbers of co-partitioned topics to one member.
    """
    return AIOKafkaConsumer(
        **cluster.connection(),
        group_id=cluster.group(consumer),
        client_id=f"faregate-{consumer}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        partition_assignment_strategy=[RangePartitionAssignor],
        session_timeout_ms=cluster.session_timeout_ms,
        heartbeat_interval_ms=max(500, cluster.session_timeout_ms // 5),
        max_poll_interval_ms=300_000,
        request_timeout_ms=20_000,
        metadata_max_age_ms=30_000,
        fetch_max_wait_ms=250,
        max_partition_fetch_bytes=2 * LARGEST_RECORD,
    )


def make_reader(cluster: Cluster, name: str) -> AIOKafkaConsumer:
    """Make a consumer without a group, for looking: it commits nothing and takes nothing away."""
    return AIOKafkaConsumer(
        **cluster.connection(),
        client_id=f"faregate-{name}",
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        request_timeout_ms=10_000,
        max_partition_fetch_bytes=2 * LARGEST_RECORD,
    )


def make_producer(cluster: Cluster, name: str) -> AIOKafkaProducer:
    """Make an idempotent producer that waits for all in-sync replicas.

    One for dead letters (`…-dlq`) compresses: a record that came compressed may be many times the
    size limit, which is about what lies on the broker, and has to fit again: zstd is the best of
    what Kafka knows. The relay waits for longer than it waits for acks, so that a batch never
    expires while later ones of the same account are still sent.
    """
    dead_letters = name.endswith("-dlq")
    return AIOKafkaProducer(
        **cluster.connection(),
        client_id=f"faregate-{name}",
        acks="all",
        enable_idempotence=True,
        compression_type="zstd" if dead_letters else None,
        max_request_size=LARGEST_UNPACKED if dead_letters else LARGEST_RECORD + 4096,
        max_batch_size=65_536,
        linger_ms=0,
        request_timeout_ms=40_000 if name == "relay" else 10_000,
        metadata_max_age_ms=30_000,
    )


def make_admin(cluster: Cluster, timeout_s: float = 10) -> AIOKafkaAdminClient:
    """Make a client that asks about topics and groups."""
    return AIOKafkaAdminClient(**cluster.connection(), request_timeout_ms=int(timeout_s * 1000))


async def start(connect: Callable[[], Awaitable[object]], cluster: Cluster) -> None:
    """Call `connect`, the start of a client. Raises KafkaRefused where a broker does not let it in."""
    await connecting.start(connect, cluster.bootstrap, cluster.kafka)


async def close_producer(producer: AIOKafkaProducer, timeout_s: float = 5.0) -> None:
    """Stop a producer; what it could not send in `timeout_s` it never will.

    aiokafka's own `stop` leaves its sender running when it is cancelled: with a broker away for
    long, each of those would come back to life and announce old facts once more.
    """
    try:
        await asyncio.wait_for(producer.stop(), timeout_s)
    except (KafkaError, TimeoutError):
        if producer._sender is not None:  # noqa: SLF001 - there is no other way to stop it
            await producer._sender.close()  # noqa: SLF001
        await producer.client.close()
