"""Asks where partitions end, beside the consumer that reads them.

A broker answers the requests of one connection in their order, and a fetch is only answered when
there is something to read: a question behind it would wait for the next record. So it goes over
another client's connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import LeaderNotAvailableError, for_code
from aiokafka.protocol.offset import OffsetRequest, OffsetResetStrategy

_READ_COMMITTED = 1

Ends = dict[TopicPartition, int]


class Asker:
    """Asks over a started client that does nothing else meanwhile."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> Ends:
        """Give where committed reads of partitions end now. Raises aiokafka's errors."""
        asked: dict[int, dict[str, list[tuple[int, int]]]] = {}
        for tp in partitions:
            topics = asked.setdefault(await self._leader(tp), {})
            topics.setdefault(tp.topic, []).append((tp.partition, OffsetResetStrategy.LATEST))
        answers = await asyncio.gather(*(self._ask(node, t) for node, t in asked.items()))
        return {tp: end for ends in answers for tp, end in ends.items()}

    async def _leader(self, tp: TopicPartition) -> int:
        leader = self._client.cluster.leader_for_partition(tp)
        if leader is None:  # not asked about yet
            await self._client.add_topic(tp.topic)
            leader = self._client.cluster.leader_for_partition(tp)
        if leader is None or leader == -1:
            self._client.force_metadata_update()
            raise LeaderNotAvailableError(tp)
        return int(leader)

    async def _ask(self, node: int, topics: dict[str, list[tuple[int, int]]]) -> Ends:
        request = OffsetRequest(-1, _READ_COMMITTED, list(topics.items()))
        ends: Ends = {}
        for topic, partitions in (await self._client.send(node, request)).topics:
            for partition, code, _, offset in partitions:
                if code:
                    self._client.force_metadata_update()
                    raise for_code(code)(TopicPartition(topic, partition))
                ends[TopicPartition(topic, partition)] = offset
        return ends
