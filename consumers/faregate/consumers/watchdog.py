"""Ends a consumer that has records to read and reads none.

A client can hang after a broker restart without any sign (aiokafka#1154). The watchdog looks from
outside of that client: kept offsets in the database against the partitions' ends, asked with a
fresh connection. Waiting for a database or a dead letter queue is not being stuck.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from uuid import UUID

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from faregate.consumers.kafka import Cluster
from faregate.consumers.offsets import Offsets
from faregate.consumers.topic_ids import ClusterTopics
from faregate.ledger.database import TRANSIENT

log = structlog.get_logger("faregate.watchdog")

EXIT_STUCK = 70


def end_process() -> None:
    """Leave at once: a stuck client would block an orderly exit as well."""
    os._exit(EXIT_STUCK)


class Watchdog:
    """Calls `give_up` when the group has lag and has not moved for `patience_s` seconds."""

    def __init__(
        self,
        cluster: Cluster,
        offsets: Offsets,
        topics: ClusterTopics,
        waits: Callable[[], bool],
        *,
        patience_s: float = 120.0,
        every_s: float = 15.0,
        give_up: Callable[[], None] = end_process,
    ) -> None:
        self._cluster = cluster
        self._offsets = offsets
        self._topics = topics
        self._waits = waits
        self._patience_s = patience_s
        self._every_s = every_s
        self._give_up = give_up
        self._seen: dict[tuple[UUID, int], int] = {}
        self._moved_at = monotonic()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._look()
            except (KafkaError, *TRANSIENT):
                self._moved_at = monotonic()

    async def _look(self) -> None:
        kept = await self._offsets.kept()
        lag = await lag_of(self._cluster, self._topics, kept)
        if kept != self._seen or lag == 0 or self._waits():
            self._seen, self._moved_at = kept, monotonic()
            return
        stuck_s = monotonic() - self._moved_at
        if stuck_s >= self._patience_s:
            log.critical("consumer_stuck", lag=lag, seconds=round(stuck_s))
            self._give_up()


async def lag_of(cluster: Cluster, topics: ClusterTopics, kept: dict[tuple[UUID, int], int]) -> int:
    """Count the records between the kept offsets and the ends of all partitions of `topics`."""
    client = AIOKafkaConsumer(
        bootstrap_servers=cluster.bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        request_timeout_ms=10_000,
    )
    await client.start()
    try:
        partitions = _partitions(topics)
        ends = await client.end_offsets(partitions)
        starts = await client.beginning_offsets(partitions)
    finally:
        with suppress(KafkaError):
            await client.stop()
    at = {tp: max(kept.get((topics.ids[tp.topic], tp.partition), 0), starts[tp]) for tp in ends}
    return sum(max(0, end - at[tp]) for tp, end in ends.items())


def _partitions(topics: ClusterTopics) -> Sequence[TopicPartition]:
    return [
        TopicPartition(topic, n) for topic, count in topics.partitions.items() for n in range(count)
    ]
