"""How far a consumer group has still to read, asked with a client of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from faregate.consumers.kafka import Cluster, make_reader
from faregate.consumers.topic_ids import ClusterTopics


async def lag_of(cluster: Cluster, topics: ClusterTopics, kept: dict[tuple[UUID, int], int]) -> int:
    """Count the records between the kept offsets and the ends of all partitions of `topics`."""
    return sum((await lags_of(cluster, topics, kept)).values())


async def lags_of(
    cluster: Cluster, topics: ClusterTopics, kept: dict[tuple[UUID, int], int]
) -> dict[TopicPartition, int]:
    """Count, for each partition, the records between the kept offset and its end."""
    starts, ends = await _bounds(cluster, topics)
    at = {tp: max(kept.get((topics.ids[tp.topic], tp.partition), 0), starts[tp]) for tp in ends}
    return {tp: max(0, end - at[tp]) for tp, end in ends.items()}


async def ends_of(cluster: Cluster, topics: ClusterTopics) -> dict[TopicPartition, int]:
    """Give the end of every partition of `topics` that holds any record."""
    starts, ends = await _bounds(cluster, topics)
    return {tp: end for tp, end in ends.items() if end > starts[tp]}


async def _bounds(
    cluster: Cluster, topics: ClusterTopics
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    partitions = _partitions(topics)
    if not partitions:
        return {}, {}
    client = make_reader(cluster, "lag")
    try:
        await client.start()
        return await client.beginning_offsets(partitions), await client.end_offsets(partitions)
    finally:
        with suppress(KafkaError):
            await client.stop()


def _partitions(topics: ClusterTopics) -> Sequence[TopicPartition]:
    return [
        TopicPartition(topic, n) for topic, count in topics.partitions.items() for n in range(count)
    ]
